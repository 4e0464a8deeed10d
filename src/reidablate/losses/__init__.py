"""The losses of the study: pure functions of a batch, each in a file of its own."""

from reidablate.losses.positions import PositionState
from reidablate.losses.total import BatchOutputs, study_loss

__all__ = ["BatchOutputs", "PositionState", "study_loss"]
