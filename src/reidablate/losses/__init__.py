"""Losses of re-identification and of position relations, and what a loss of one's own is written with."""

from reidablate.config import LossesConfig, LossOptions
from reidablate.losses.batch import Batch, Terms
from reidablate.losses.positions import PositionState
from reidablate.losses.total import Shape, StudyLoss

__all__ = ["Batch", "LossOptions", "LossesConfig", "PositionState", "Shape", "StudyLoss", "Terms"]
