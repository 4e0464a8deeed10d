"""The losses of a training, and what is needed to write one of your own."""

from reidablate.config import LossesConfig, LossOptions
from reidablate.losses.batch import Batch, Terms
from reidablate.losses.positions import PositionState
from reidablate.losses.total import Shape, StudyLoss

__all__ = ["Batch", "LossOptions", "LossesConfig", "PositionState", "Shape", "StudyLoss", "Terms"]
