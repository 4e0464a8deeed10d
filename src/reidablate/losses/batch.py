"""What a loss is given: everything that is known of a batch after its forward pass.

Legend: B batch, n patches, D feature, C classes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

from torch import Tensor

from reidablate.losses.distance import at_least_float32
from reidablate.losses.mining import Triplets, batch_hard
from reidablate.losses.positions import PositionState
from reidablate.models.tokens import Local

Terms = Tensor | Mapping[str, Tensor]
"""What a loss returns: a scalar, which is called like its section, or several by name. A name stands behind that of the
section, with '_' between; the empty name is the section's own."""


@dataclass(frozen=True)
class Batch:
    """A batch as every loss sees it, in at least float32."""

    feature: Tensor
    """(B, D) before the neck."""
    feature_after_neck: Tensor
    """(B, D)."""
    logits: Tensor
    """(B, C)."""
    classifier: Tensor
    """(C, D) the classifier's rows."""
    labels: Tensor
    """(B,) training labels, 0 to C - 1."""
    camids: Tensor
    """(B,) camera numbers."""
    cls: Tensor | None = None
    """(B, D) the class token after the final norm; the feature itself unless that is the mean of the patches."""
    patches: Tensor | None = None
    """(B, n, D) after the final norm, row by row of the grid."""
    positions: PositionState = field(default_factory=lambda: PositionState(None, None, None))
    """Position parameters of the backbone."""
    local: tuple[Local, ...] = ()
    """Features of parts of each image, with the classifier's output for each."""
    progress: float = 0.0
    """Share of the training that is done, in [0, 1]."""

    @cached_property
    def triplets(self) -> Triplets:
        """The batch-hard triplets of the feature before the neck."""
        return batch_hard(self.feature, self.labels)

    @property
    def rows(self) -> Tensor:
        """(B, D) the classifier row of each label."""
        return self.classifier[self.labels]

    def widened(self) -> "Batch":
        """Returns the batch with half-precision tensors as float32."""
        parts = {f.name: getattr(self, f.name) for f in fields(self)}
        wide: dict[str, Any] = {
            name: at_least_float32(part) for name, part in parts.items() if isinstance(part, Tensor)
        }
        return replace(self, **wide, local=tuple(part.mapped(at_least_float32) for part in self.local))


def given(part: Tensor | None) -> Tensor:
    """Returns a part of a batch that planning has made sure of."""
    assert part is not None
    return part


Loss = Callable[..., Terms]  # (batch, options), or a module made of options and shape and called with a batch
