"""The whole network: transformer, BNNeck, classifier; and its initial values.

Legend: B batch, n patches, D width, L blocks, h heads, R rows of a relative table, C training identities.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reidablate.config import ModelConfig
from reidablate.models.position import RelativeBias, RelativeTable
from reidablate.models.vit import BACKBONES, VisionTransformer
from reidablate.rng import torch_generator

_NORMS = (nn.LayerNorm, nn.BatchNorm1d, nn.BatchNorm2d, nn.InstanceNorm2d)


class BNNeck(nn.BatchNorm1d):
    """Batch normalisation between the metric feature and the classifier, without a trained shift (Luo et al. 2019)."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.bias.requires_grad_(False)


@dataclass(frozen=True)
class ReidOutput:
    """What the network makes of a batch of images."""

    feature_before_neck: Tensor  # (B, D)
    feature_after_neck: Tensor  # (B, D)
    logits: Tensor  # (B, C)
    cls: Tensor | None  # (B, D), after the final norm; None where the backbone has no such token
    patches: Tensor | None  # (B, n, D), likewise


class ReidModel(nn.Module):
    """Transformer, BNNeck and a classifier without bias over the training identities."""

    def __init__(self, config: ModelConfig, *, num_classes: int) -> None:
        super().__init__()
        self.config = config
        width = BACKBONES[config.backbone].width
        self.backbone = VisionTransformer(config)
        self.neck = BNNeck(width)
        self.classifier = nn.Linear(width, num_classes, bias=False)

    def forward(self, images: Tensor) -> ReidOutput:
        """Returns features on both sides of the neck, patches and logits of normalised images (B, 3, H, W)."""
        tokens = self.backbone(images)
        after = self.neck(tokens.feature)
        return ReidOutput(tokens.feature, after, self.classifier(after), tokens.cls, tokens.patches)

    def ape_rows(self) -> Tensor | None:
        """Returns the absolute position rows as added to the tokens, (1 + n, D), CLS first; None without them."""
        return None if self.backbone.ape is None else self.backbone.ape()

    def rpe_tables(self) -> Tensor | None:
        """Returns the relative tables of all blocks, (L, R, h), with their gradients; None without numbers per head."""
        tables: list[Tensor] = [a.rpe.table for a in self.backbone.attentions if isinstance(a.rpe, RelativeBias)]
        return torch.stack(tables) if tables else None

    @property
    def rpe_index(self) -> Tensor | None:
        """The row of `rpe_tables` for each (query, key) pair of patches, (n, n); None where that is None."""
        rpe = self.backbone.attentions[0].rpe
        return rpe.index if isinstance(rpe, RelativeBias) else None

    def cls_bias(self) -> Tensor | None:
        """Returns what the logits of CLS for each patch get in each block, (L, h, n); None where they get nothing."""
        rows = [a.cls_position.to_patches() for a in self.backbone.attentions if a.cls_position is not None]
        return torch.stack(rows) if rows else None


@torch.no_grad()
def initialise(model: ReidModel, seed: int) -> None:
    """Sets every parameter of `model` to its initial value for `seed`, and all running statistics to (0, 1).

    Each parameter is drawn from a stream of its own name, on the CPU in float32: a further parameter, another class
    count or another device shifts no other. Norms are 1 and 0. Linear weights, CLS, absolute and relative tables and
    CLS numbers are truncated normal with sd 0.02 (cut at +-2, as the reference does; `rpe.init_sd` is another sd of the
    relative tables), linear biases 0, the classifier normal with sd 0.001. Convolutions are uniform in
    +-1/sqrt(fan in), weight and bias: the reference leaves its stem at PyTorch's default, and this is it.
    `rpe.init: zeros` sets the relative tables to 0.
    """
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            full_name = f"{prefix}.{name}"
            values = torch.zeros(parameter.shape)
            if isinstance(module, RelativeTable) and model.config.rpe.init == "zeros":
                pass
            elif module is model.classifier:
                values.normal_(std=0.001, generator=torch_generator(seed, f"init:{full_name}"))
            else:
                sd = model.config.rpe.init_sd if isinstance(module, RelativeTable) else 0.02
                _draw(values, module, name, torch_generator(seed, f"init:{full_name}"), sd=sd)
            parameter.copy_(values)
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.reset_running_stats()


def _draw(values: Tensor, module: nn.Module, name: str, generator: torch.Generator, *, sd: float) -> None:
    """Fills `values`, which are 0, with the initial values of the parameter `name` of `module`."""
    if isinstance(module, _NORMS):
        values.fill_(1.0 if name == "weight" else 0.0)
    elif isinstance(module, nn.Conv2d):
        bound = module.weight[0].numel() ** -0.5
        values.uniform_(-bound, bound, generator=generator)
    elif not (isinstance(module, nn.Linear) and name == "bias"):
        nn.init.trunc_normal_(values, std=sd, generator=generator)
