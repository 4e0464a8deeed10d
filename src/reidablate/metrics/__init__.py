"""The exact evaluation of person re-identification, on NumPy alone."""

from reidablate.metrics.protocol import Scores, score, score_distances
from reidablate.metrics.ranking import cmc
from reidablate.metrics.registry import metric

__all__ = ["Scores", "cmc", "metric", "score", "score_distances"]
