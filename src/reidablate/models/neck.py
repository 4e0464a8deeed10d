"""The whole network: backbone, BNNeck, classifier; and its initial values.

Legend: B batch, n patches, D width, L blocks, h heads, R rows of a relative table, C training identities.
"""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from reidablate import plugins
from reidablate.config import ModelConfig
from reidablate.models.backbones import backbone_plugin, build_backbone, seeded_backbone
from reidablate.models.local_features import BNNeck, Classifier, LocalFeatures, made_local_features
from reidablate.models.parts import Part
from reidablate.models.position import RelativeBias, RelativeTable
from reidablate.models.tokens import Local
from reidablate.models.vit import PositionAttention, VisionTransformer
from reidablate.rng import torch_generator

_NORMS = (nn.LayerNorm, nn.BatchNorm1d, nn.BatchNorm2d, nn.InstanceNorm2d)


@dataclass(frozen=True)
class ReidOutput:
    """What the network makes of a batch of images."""

    feature_before_neck: Tensor  # (B, D)
    feature_after_neck: Tensor  # (B, D)
    logits: Tensor  # (B, C)
    cls: Tensor | None  # (B, D), after the final norm; None where the backbone has no such token
    patches: Tensor | None  # (B, n, D), likewise
    local: tuple[Local, ...] = ()


class ReidModel(nn.Module):
    """Backbone, BNNeck and a classifier without bias over the training identities; local features beside them, if any.

    A model that reads cameras is made with the numbers of those that it is trained on.
    """

    def __init__(self, config: ModelConfig, *, num_classes: int, cameras: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.config = config
        self.plugin = backbone_plugin(config)
        self.backbone = build_backbone(config, cameras=cameras)
        self.reads_cameras = config.parts.read_cameras
        self.neck = BNNeck(self.backbone.width)
        self.classifier = Classifier(self.backbone.width, num_classes, bias=False)
        self.local_features: LocalFeatures | None = None
        if config.local_features is not None:
            self.local_features = made_local_features(config.local_features, self.backbone, num_classes)

    def forward(self, images: Tensor, camids: Tensor | None = None) -> ReidOutput:
        """Returns features on both sides of the neck, patches and logits.

        Args:
            images: (B, 3, H, W), normalised.
            camids: (B,) camera numbers of the training's data set; None where they are not known. They are read only
                by a model that `reads_cameras`.
        """
        with plugins.running(f"model.backbone {self.config.backbone}", self.plugin):
            tokens = self.backbone(images, camids) if self.reads_cameras else self.backbone(images)
        after = self.neck(tokens.feature)
        local = self.local_features(tokens) if self.local_features is not None else ()
        return ReidOutput(tokens.feature, after, self.classifier(after), tokens.cls, tokens.patches, local)

    def tested(self, output: ReidOutput, side: str) -> Tensor:
        """Returns what is compared at test time on a side of the neck, (B, D) or, with local features, wider."""
        whole: Tensor = getattr(output, f"feature_{side}")
        if self.local_features is None:
            return whole
        return self.local_features.tested(whole, [getattr(part, side) for part in output.local])

    def copy_initial(self) -> None:
        """Sets what starts as a copy of the backbone's weights; call it when these have their initial values."""
        if self.local_features is not None:
            self.local_features.copy_initial(self.backbone)

    @property
    def foreign_names(self) -> dict[str, str]:
        """What other code bases call the tensors of its parts and local features, behind `backbone.` in a transformer.

        A name, to ours, stands for itself or a prefix before a dot.
        """
        found: dict[str, str] = {}
        for name, part in self.transformer.parts.items() if self.transformer else ():
            names = cast(Part, part).foreign_names
            found |= {f"backbone.{theirs}": f"backbone.parts.{name}.{ours}" for theirs, ours in names.items()}
        if self.local_features is not None:
            ours_of = self.local_features.foreign_names
            found |= {theirs: f"local_features.{ours}" for theirs, ours in ours_of.items()}
        return found

    @property
    def transformer(self) -> VisionTransformer | None:
        """The backbone where it is a transformer of the study, which alone has position parameters."""
        return self.backbone if isinstance(self.backbone, VisionTransformer) else None

    @property
    def _attentions(self) -> list[PositionAttention]:
        return self.transformer.attentions if self.transformer else []

    def ape_rows(self) -> Tensor | None:
        """Returns the absolute position rows as added to the tokens, (1 + n, D), CLS first; None without them."""
        ape = self.transformer.ape if self.transformer else None
        return None if ape is None else ape()

    def rpe_tables(self) -> Tensor | None:
        """Returns the relative tables of all blocks, (L, R, h), with their gradients; None without numbers per head."""
        tables: list[Tensor] = [a.rpe.table for a in self._attentions if isinstance(a.rpe, RelativeBias)]
        return torch.stack(tables) if tables else None

    @property
    def rpe_index(self) -> Tensor | None:
        """The row of `rpe_tables` for each (query, key) pair of patches, (n, n); None where that is None."""
        found = [a.rpe.index for a in self._attentions if isinstance(a.rpe, RelativeBias)]
        return found[0] if found else None

    def cls_bias(self) -> Tensor | None:
        """Returns what the logits of CLS for each patch get in each block, (L, h, n); None where they get nothing."""
        rows = [a.cls_position.to_patches() for a in self._attentions if a.cls_position is not None]
        return torch.stack(rows) if rows else None


def check_local_features(config: ModelConfig) -> None:
    """Checks that the local features of a configuration can be made; nothing is computed.

    Raises:
        UserError: They refuse an option, the backbone or its grid.
    """
    with torch.device("meta"):
        ReidModel(config, num_classes=2)


@torch.no_grad()
def initialise(model: ReidModel, seed: int) -> None:
    """Sets every parameter of `model` to its initial value for `seed`, and all running statistics to (0, 1).

    Each parameter is drawn from a stream of its own name, on the CPU in float32: a further parameter, another class
    count or another device shifts no other. Norms are 1 and 0. Linear weights, CLS, absolute and relative tables and
    CLS numbers are truncated normal with sd 0.02 (cut at +-2, as the reference does; `rpe.init_sd` is another sd of the
    relative tables), linear biases 0, classifiers normal with sd 0.001. Convolutions are uniform in
    +-1/sqrt(fan in), weight and bias: the reference leaves its stem at PyTorch's default, and this is it.
    `rpe.init: zeros` sets the relative tables to 0. A backbone of timm or of a study's own draws its values itself, all
    from one stream.
    """
    if model.transformer is None:
        model.backbone.load_state_dict(seeded_backbone(model.config, seed).state_dict())
    for prefix, module in model.named_modules():
        if model.transformer is None and f"{prefix}.".startswith("backbone."):
            continue
        for name, parameter in module.named_parameters(recurse=False):
            full_name = f"{prefix}.{name}"
            values = torch.zeros(parameter.shape)
            if isinstance(module, RelativeTable) and model.config.rpe.init == "zeros":
                pass
            elif isinstance(module, Classifier) and name == "weight":
                values.normal_(std=0.001, generator=torch_generator(seed, f"init:{full_name}"))
            else:
                sd = model.config.rpe.init_sd if isinstance(module, RelativeTable) else 0.02
                _draw(values, module, name, torch_generator(seed, f"init:{full_name}"), sd=sd)
            parameter.copy_(values)
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.reset_running_stats()
    model.copy_initial()


def _draw(values: Tensor, module: nn.Module, name: str, generator: torch.Generator, *, sd: float) -> None:
    """Fills `values`, which are 0, with the initial values of the parameter `name` of `module`."""
    if isinstance(module, _NORMS):
        values.fill_(1.0 if name == "weight" else 0.0)
    elif isinstance(module, nn.Conv2d):
        bound = module.weight[0].numel() ** -0.5
        values.uniform_(-bound, bound, generator=generator)
    elif not (isinstance(module, nn.Linear) and name == "bias"):
        nn.init.trunc_normal_(values, std=sd, generator=generator)
