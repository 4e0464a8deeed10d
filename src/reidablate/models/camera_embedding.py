"""Side information (He et al. 2021, arXiv 2102.04378, TransReID): a learned vector of the camera in every token.

Legend: B batch, n patches, D width, K cameras of the training.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from reidablate.models.parts import Part, Size
from reidablate.sections import Factor, Section


class CameraEmbeddingOptions(Section):
    """Options of the camera embedding.

    Attributes:
        scale: Factor of the learned vectors, lambda in the paper.
    """

    scale: Factor = 3.0


class CameraEmbedding(Part):
    """Adds `scale` times a learned vector of the camera to every token, CLS included, before the first block.

    A camera that the training did not have, or that is not known, adds nothing. The paper's embedding of viewpoints is
    for vehicles: no person data set has their labels.
    """

    reads_cameras = True
    foreign_names: ClassVar[Mapping[str, str]] = {"sie_embed": "table"}
    known: Tensor

    def __init__(self, options: CameraEmbeddingOptions, size: Size) -> None:
        super().__init__()
        self.scale = options.scale
        self.register_buffer("known", torch.tensor(size.cameras, dtype=torch.int64), persistent=False)
        self.table = nn.Parameter(torch.zeros(len(size.cameras), 1, size.width))

    def embedded(self, tokens: Tensor, camids: Tensor | None) -> Tensor:
        """Returns the tokens (B, 1 + n, D) with the vector of each image's camera (B,)."""
        if camids is None:
            return tokens
        # A sum over all cameras, of which one counts, has a gradient that is the same at every run on a GPU.
        chosen = (camids[:, None] == self.known[None, :]).to(self.table.dtype)
        return tokens + self.scale * (chosen[:, :, None, None] * self.table).sum(dim=1)
