"""Parts: plug-ins that change the study's transformer between its blocks or add to its attention logits.

A part is a class derived from `Part`, named in `model.parts` with its options. Without any the transformer computes the
very same bits as if there were none.

Legend: B batch, n = rows * cols patches in row-major order, D width, h heads. Token 0 is CLS, token 1 + k is patch k.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from reidablate import plugins
from reidablate.sections import Section


@dataclass(frozen=True)
class Size:
    """What a part is made for: the (rows, cols) of the grid, D, h, the number of blocks, and the training's cameras."""

    grid: tuple[int, int]
    width: int
    heads: int
    depth: int
    cameras: tuple[int, ...] = ()


class Part(nn.Module):
    """A part that changes nothing; derive from it and override what the part is about.

    A part is made as `part(options, size)`. Its parameters get their initial values like those of the transformer.
    """

    content_scale = 1.0
    """Factor of the logits between queries and keys."""
    reads_cameras: ClassVar[bool] = False
    """Whether `embedded` reads camera numbers. A row of a table whose model does is marked."""
    foreign_names: ClassVar[Mapping[str, str]] = {}
    """What other code bases call its tensors, by name within their transformer: theirs to ours; for weight files."""

    def embedded(self, tokens: Tensor, camids: Tensor | None) -> Tensor:
        """Returns the tokens (B, 1 + n, D) as the first block reads them, of images of the cameras (B,) if known."""
        return tokens

    def after_block(self, tokens: Tensor, block: int) -> Tensor:
        """Returns the tokens (B, 1 + n, D) as the block after `block` (from 0) reads them."""
        return tokens

    def logits(self, block: int) -> Tensor | None:
        """Returns what is added to the logits of a block, (1 or h, 1 + n, 1 + n), rows are queries; None is 0."""
        return None


def made_parts(parts: Mapping[str, Mapping[str, Any]], size: Size) -> dict[str, Part]:
    """Returns the parts of `model.parts` by name, in that order.

    Raises:
        UserError: There is no such part, or it refuses an option.
    """
    found: dict[str, Part] = {}
    for name, options in parts.items():
        plugin = plugins.find("parts", name)
        model = plugins.options_model(plugin, Section)
        found[name] = plugin.made(model.model_validate(options), size)
    return found
