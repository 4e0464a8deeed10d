"""The forward pass of a step, and a batch as the losses see it."""

import torch
import torch.distributed as dist
from torch import nn

from reidablate.losses import Batch, PositionState, StudyLoss
from reidablate.losses.relation_log import relation_numbers
from reidablate.models.global_batch import gathered
from reidablate.models.neck import ReidModel, ReidOutput


class Forward(nn.Module):
    """The forward pass of a step, from images to the terms of the loss."""

    def __init__(self, model: ReidModel, loss: StudyLoss) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(
        self,
        images: torch.Tensor,
        labels: torch.Tensor,
        camids: torch.Tensor,
        progress: float,
        dtype: torch.dtype | None,
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Returns the numbers about position relations with the terms of the loss, and norms; all scalars.

        Args:
            images: (B, 3, H, W), normalised; on several processes the B / N of this one.
            labels: (B,) training labels.
            camids: (B,) of all images of the batch.
            progress: Share of the training that is done.
            dtype: Of autocast, None for float32.
        """
        own = camids.chunk(dist.get_world_size())[dist.get_rank()] if dist.is_initialized() else camids
        with torch.autocast(images.device.type, dtype=dtype, enabled=dtype is not None):
            outputs = self.model(images, own)
        if dist.is_initialized():
            outputs = gathered(outputs)
        batch = batch_of(self.model, outputs, labels=labels, camids=camids, progress=progress)
        numbers = relation_numbers(batch, self.loss.config)
        return numbers | self.loss(batch), _norms(outputs, batch.positions)


def _norms(outputs: ReidOutput, positions: PositionState) -> dict[str, torch.Tensor]:
    norms = {"feature_norm": outputs.feature_before_neck.detach().float().norm(dim=1).mean()}
    if positions.ape is not None:
        norms["ape_norm"] = positions.ape.detach().norm()
    if positions.tables is not None:
        norms["rpe_norm"] = positions.tables.detach().norm()
    return norms


def batch_of(
    model: ReidModel, outputs: ReidOutput, *, labels: torch.Tensor, camids: torch.Tensor, progress: float
) -> Batch:
    """Returns a batch as the losses see it.

    Args:
        model: The network that made the outputs.
        outputs: Of B images.
        labels: (B,) training labels.
        camids: (B,).
        progress: Share of the training that is done.
    """
    positions = PositionState(
        ape=model.ape_rows(), tables=model.rpe_tables(), index=model.rpe_index, cls_bias=model.cls_bias()
    )
    return Batch(
        feature=outputs.feature_before_neck,
        feature_after_neck=outputs.feature_after_neck,
        logits=outputs.logits,
        classifier=model.classifier.weight,
        labels=labels,
        camids=camids,
        cls=outputs.cls,
        patches=outputs.patches,
        local=outputs.local,
        positions=positions,
        progress=progress,
    )
