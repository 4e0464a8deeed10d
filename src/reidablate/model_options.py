"""The options of the network, `model` in a cell or a preset."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from reidablate import plugins
from reidablate.part_options import LocalFeaturesConfig, PartsConfig
from reidablate.sections import Factor, Positive, Section, none_word

PATCH_PX: dict[str, int] = {"vit_quickstart": 8, "vit_small": 16, "vit_base": 16}  # edge of a patch
_FOREIGN = r"timm/[\w.]+|[\w.]+:[\w.]+"
ClsPosition = Literal["none", "no_ape", "untie", "untie_beit", "untie_shared", "per_patch"]


class RpeConfig(Section):
    """Relative position embedding added to the attention logits of every block and head.

    Attributes:
        kind: What indexes the table: `full` the signed offset in rows and columns (Liu et al. 2021, Swin), `abs_x`
            columns without their sign, `y_only` and `x_only` one axis. `shaw_key` learns a vector for each offset that
            is added to the key (Shaw et al. 2018, eq. 5).
        init: How the tables start: drawn from a `normal` distribution, or `zeros`, so that the first step is that of a
            network without them.
        init_sd: Standard deviation of `init: normal`, in units of an attention logit.
        lr_factor: Learning rate of the tables over that of the weights. The source study's tables learned at 2, because
            their names contain "bias".
    """

    kind: Literal["none", "full", "abs_x", "y_only", "x_only", "shaw_key"] = "none"
    init: Literal["normal", "zeros"] = "normal"
    init_sd: Factor = 0.02
    lr_factor: Factor = 1.0


def check_backbone(name: str) -> str:
    """Returns the name of a backbone: one of the study, `timm/NAME`, or `FILE:NAME`.

    Raises:
        ValueError: It is none of these.
    """
    if name not in PATCH_PX and not re.fullmatch(_FOREIGN, name) and name not in plugins.offered("backbones"):
        raise ValueError(f"{', '.join(PATCH_PX)}, timm/NAME or FILE:NAME")
    return name


Backbone = Annotated[
    str,
    AfterValidator(check_backbone),
    WithJsonSchema({"anyOf": [{"enum": list(PATCH_PX)}, {"type": "string", "pattern": f"^({_FOREIGN})$"}]}),
]


# Of another backbone, what an option of the study's transformers must be; `stem` stays unused there.
_TRANSFORMER_ONLY: dict[str, Any] = {
    "ape": "learned",
    "rpe.kind": "none",
    "cls_position": "none",
    "parts": PartsConfig(),
}


class ModelConfig(Section):
    """The network: backbone, positions, and the side of the neck that is tested.

    Attributes:
        backbone: A transformer of the study (`vit_base`, `vit_small`, `vit_quickstart`), `timm/NAME` for any network of
            timm, or `FILE:NAME` for one of your own `methods/`.
        image_size: Height and width of the images in pixels. For a transformer of the study both are multiples of its
            patch size: 16, or 8 for `vit_quickstart`.
        stem: How an image becomes patches: `conv` is one convolution as wide as a patch (Dosovitskiy et al. 2021),
            `ics` four small ones with instance norm (TransReID-SSL, section 3.3).
        drop_path: Probability that a training image skips the last block; it rises linearly from 0 at the first one
            (Huang et al. 2016).
        ape: Absolute position embedding, added to the tokens: `learned` rows, fixed sines and cosines of row and column
            (Vaswani et al. 2017, section 3.5), or `none`.
        rpe: Relative position embedding of the attention logits.
        cls_position: Position of the class token: `none` keeps its absolute row and adds nothing to its logits,
            `no_ape` drops the row, `untie` learns one number for each direction between class token and patches,
            `untie_beit` also one for the class token itself, `untie_shared` one for both directions, `per_patch` one
            for each patch and direction.
        cls_lr_factor: Learning rate of the numbers that `cls_position` learns over that of the weights.
        parts: Parts that change the transformer between its blocks or in its logits, by name, each with its options:
            `conditional_position`, `vertical_windows`, `untied_position`, `camera_embedding`.
        local_features: Features of parts of an image that are trained and tested beside the feature of the whole: `use:
            jigsaw` (TransReID's JPM) or `use: stripes` (PCB), with their options; or `none`.
        pool: The feature of the whole image: the class token, or the mean of the patches.
        test_feature: The side of the batch-norm neck that verdicts are about; both are scored (Luo et al. 2019).
        last_stride: Stride of the last stage of a ResNet; 1 keeps its map twice as fine (Luo et al. 2019).
        backbone_code: What a backbone of others was made of. Written by the program alone.
    """

    backbone: Backbone
    image_size: tuple[Positive, Positive]
    stem: Literal["conv", "ics"] = "ics"
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.1
    ape: Literal["learned", "sinusoidal", "none"] = "learned"
    rpe: RpeConfig = RpeConfig()
    cls_position: ClsPosition = "none"
    cls_lr_factor: Factor = 1.0
    parts: PartsConfig = PartsConfig()
    local_features: Annotated[LocalFeaturesConfig | None, BeforeValidator(none_word)] = None
    pool: Literal["cls", "mean"] = "cls"
    test_feature: Literal["before_neck", "after_neck"] = "before_neck"
    last_stride: Literal[1, 2] = 2
    backbone_code: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _named(cls, data: Any) -> Any:
        name = data.get("backbone") if isinstance(data, Mapping) else None
        if not isinstance(name, str) or name in PATCH_PX or name.startswith("timm/") or data.get("backbone_code"):
            return data
        if ":" in name or name in plugins.offered("backbones"):
            return {**data, "backbone_code": plugins.find("backbones", name).code}
        return data

    @model_validator(mode="after")
    def _options_it_has(self) -> Self:
        """Refuses options that the backbone does not have, where its name tells."""
        if self.backbone in PATCH_PX:
            if self.last_stride != 2:
                raise ValueError(f"last_stride: {self.backbone} is no ResNet; remove the option.")
            return self
        for dotted, neutral in _TRANSFORMER_ONLY.items():
            section, _, key = dotted.rpartition(".")
            value = getattr(getattr(self, section) if section else self, key)
            if value != neutral:
                shown = "{}" if isinstance(neutral, Section) else neutral
                raise ValueError(f"{dotted}: {self.backbone} has no such option; leave it at {shown}.")
        return self

    @model_validator(mode="after")
    def _whole_patches(self) -> Self:
        if self.backbone not in PATCH_PX:
            return self
        patch = PATCH_PX[self.backbone]
        if any(edge % patch for edge in self.image_size):
            height, width = self.image_size
            raise ValueError(
                f"image_size {height} x {width} is not a whole number of patches of {self.backbone}; "
                f"make height and width multiples of {patch}."
            )
        return self

    @property
    def grid(self) -> tuple[int, int]:
        """The number of patch rows and columns of a transformer of the study."""
        patch = PATCH_PX[self.backbone]
        return self.image_size[0] // patch, self.image_size[1] // patch
