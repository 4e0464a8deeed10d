"""The options of optimiser, schedule, batches and augmentation, `train` in a cell or a preset."""

from typing import Annotated, Literal

from pydantic import Field

from reidablate.sections import Factor, Number, Positive, Section, Several, Share


class AugmentConfig(Section):
    """Training-time augmentation.

    Attributes:
        flip: Probability that an image is mirrored left and right.
        pad_px: Black pixels added on each side before a random crop of the original size.
        erase: Probability that one box of an image, 2 % to 33 % of its area, is filled with noise (Zhong et al. 2020).
    """

    flip: Annotated[float, Field(ge=0, le=1)] = 0.5
    pad_px: Number = 10
    erase: Annotated[float, Field(ge=0, le=1)] = 0.5


class TrainConfig(Section):
    """Optimiser, schedule and batches. `lr` and `epochs` belong to the preset; a cell scales them by factors.

    Attributes:
        lr: Base learning rate, for a batch of `num_ids` x `num_instances` images; set by the preset alone.
        epochs: Passes over the training identities; set by the preset alone.
        lr_factor: The preset's learning rate is multiplied by it.
        epochs_factor: The preset's number of epochs is multiplied by it and rounded, to at least one.
        warmup_fraction: Share of the epochs in which the learning rate rises linearly from 1 % of the base rate; 20 of
            120 in TransReID-SSL, 5 of 120 in TransReID.
        lr_step_at: Whether the schedule steps at the `end` of an epoch (TransReID-SSL) or at its `start` (TransReID),
            which makes every epoch train with the rate of the next.
        optimiser: `sgd` with momentum, or `adamw`.
        momentum: Momentum of `sgd`; `adamw` does not read it.
        weight_decay: Weight decay of all parameters: added to the gradient by `sgd`, decoupled by `adamw` (Loshchilov
            and Hutter 2019).
        bias_lr_factor: Learning rate of the biases over that of the weights.
        num_ids: Identities of a batch, P of the PK sampler (Hermans et al. 2017).
        num_instances: Images of each identity of a batch, K of the PK sampler.
        fraction: Share of the training identities that is trained on, the same ones in every cell; never fewer than a
            batch holds.
        holdout: Share of the training identities that is not trained on but scored, at most twelve times in a training,
            for the validation curve.
        precision: Precision of the network in training. `bf16` and `fp16` are mixed precision (autocast), `fp16` with
            loss scaling; losses are computed in float32 in any case.
        augment: What is done to an image before it is trained on.
    """

    lr: Factor
    epochs: Positive
    lr_factor: Factor = 1.0
    epochs_factor: Annotated[float, Field(gt=0, le=1000)] = 1.0
    warmup_fraction: Annotated[float, Field(ge=0, lt=1)] = 20 / 120
    lr_step_at: Literal["start", "end"] = "end"
    optimiser: Literal["sgd", "adamw"] = "sgd"
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    bias_lr_factor: Factor = 2.0
    num_ids: Several = 16
    num_instances: Several = 4
    fraction: Share = 1.0
    holdout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    augment: AugmentConfig = AugmentConfig()

    @property
    def batch_size(self) -> int:
        """The images of a batch, on all processes together."""
        return self.num_ids * self.num_instances

    @property
    def base_lr(self) -> float:
        """The learning rate after the cell's factor."""
        return self.lr * self.lr_factor

    @property
    def num_epochs(self) -> int:
        """The number of epochs after the cell's factor, at least one."""
        return max(1, round(self.epochs * self.epochs_factor))

    @property
    def warmup_epochs(self) -> int:
        """The number of warm-up epochs."""
        return round(self.num_epochs * self.warmup_fraction)
