"""The exact evaluation of person re-identification, on NumPy alone."""

from reidablate.metrics.protocol import Scores, score, score_distances
from reidablate.metrics.ranking import cmc

__all__ = ["Scores", "cmc", "score", "score_distances"]
