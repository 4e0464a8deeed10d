"""Losses and miners of pytorch-metric-learning (Musgrave et al. 2020) by name, for the feature before the neck.

The package is an optional extra: `pip install 'reidablate[pml]'`.
"""

import inspect
from typing import Any, ClassVar, Self

from pydantic import Field, model_validator
from torch import Tensor, nn

from reidablate.config import LossOptions, nearest
from reidablate.errors import UserError, shortened
from reidablate.losses.batch import Batch
from reidablate.losses.total import Shape


class PmlOptions(LossOptions):
    """Which loss with which arguments, and which miner chooses its pairs.

    Attributes:
        loss: Class of a loss of pytorch-metric-learning, such as `CircleLoss`.
        args: Its arguments, but for `num_classes` and `embedding_size`, which are filled in.
        miner: Class of a miner of the package, such as `MultiSimilarityMiner`; none uses all pairs of a batch.
        miner_args: Its arguments.
    """

    loss: str
    args: dict[str, Any] = Field(default={})
    miner: str | None = None
    miner_args: dict[str, Any] = Field(default={})

    @model_validator(mode="after")
    def _can_be_made(self) -> Self:
        _loss_and_miner(self, Shape(num_classes=2, width=2))
        return self


class Pml(nn.Module):
    """A loss of pytorch-metric-learning, with its parameters if it has any.

    >>> import torch
    >>> feature, labels = torch.tensor([[2.0, 0.0], [0.0, 3.0]]), torch.tensor([0, 0])
    >>> batch = Batch(feature, feature, feature, torch.eye(2), labels, labels)
    >>> loss = Pml(PmlOptions(loss="ContrastiveLoss"), Shape(num_classes=2, width=2))
    >>> loss(batch)  # the distance of the normalised features, sqrt(2)
    tensor(1.4142)
    """

    package: ClassVar[str] = "pytorch-metric-learning"  # its version is part of a cell's identity

    def __init__(self, options: PmlOptions, shape: Shape) -> None:
        """Makes loss and miner.

        Raises:
            UserError: The package refuses a name or an argument.
        """
        super().__init__()
        self.loss, self.miner = _loss_and_miner(options, shape)

    def forward(self, batch: Batch) -> Tensor:
        """Returns the loss of the features of a batch, of the pairs that the miner chose if there is one."""
        chosen = () if self.miner is None else (self.miner(batch.feature, batch.labels),)
        found: Tensor = self.loss(batch.feature, batch.labels, *chosen)
        return found


def _loss_and_miner(options: PmlOptions, shape: Shape) -> tuple[Any, Any]:
    from pytorch_metric_learning import losses, miners

    known = {"num_classes": shape.num_classes, "embedding_size": shape.width}
    loss = _made(losses, options.loss, options.args, known, "loss")
    return loss, _made(miners, options.miner, options.miner_args, {}, "miner") if options.miner else None


def _made(module: Any, name: str, args: dict[str, Any], known: dict[str, int], kind: str) -> Any:
    classes = {word: made for word, made in vars(module).items() if isinstance(made, type) and not word.startswith("_")}
    if name not in classes:
        raise UserError(f"pytorch-metric-learning has no {kind} '{name}'; {nearest(name, list(classes))}")
    wanted = inspect.signature(classes[name]).parameters
    filled = {key: value for key, value in known.items() if key in wanted}
    try:
        return classes[name](**{**filled, **args})
    except Exception as error:
        raise UserError(
            f"{name} of pytorch-metric-learning refuses its arguments {args}: {shortened(error)}."
        ) from None
