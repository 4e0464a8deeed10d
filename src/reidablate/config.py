"""Every option of a run as a frozen, validated model, and the sentences that explain a wrong one.

A `RunConfig` is the science of a run: two runs with equal `RunConfig`, data set and seed compute the same thing.
What does not change a result (devices, workers, paths) is in `Execution` and `Settings` and stays out of its hash.
The mathematics behind each option is explained in `docs/methods.md`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    WithJsonSchema,
    field_validator,
    model_serializer,
    model_validator,
)

from reidablate import plugins
from reidablate.artifacts import content_hash
from reidablate.distributions import Distribution
from reidablate.loss_options import (
    IdentityConfig,
    LossesConfig,
    LossOptions,
    LossUse,
    Pairs,
    PositionRelationConfig,
    PositionTripletConfig,
    TripletConfig,
    WeightedTripletConfig,
)
from reidablate.part_options import LocalFeaturesConfig, PartsConfig
from reidablate.provenance import usable_cores
from reidablate.sections import (
    Factor,
    Margin,
    Number,
    Positive,
    Section,
    Several,
    Share,
    Weight,
    nearest,
    none_word,
    validate,
)

__all__ = [
    "IdentityConfig",
    "LossOptions",
    "LossesConfig",
    "Margin",
    "Pairs",
    "PositionRelationConfig",
    "PositionTripletConfig",
    "Positive",
    "Section",
    "TripletConfig",
    "Weight",
    "WeightedTripletConfig",
    "nearest",
    "validate",
]
MOST_SEEDS = 1000


class RpeConfig(Section):
    """Relative position embedding added to the attention logits of every block and head."""

    kind: Literal["none", "full", "abs_x", "y_only", "x_only", "shaw_key"] = "none"
    init: Literal["normal", "zeros"] = "normal"
    init_sd: Factor = 0.02
    lr_factor: Factor = 1.0


ClsPosition = Literal["none", "no_ape", "untie", "untie_beit", "untie_shared", "per_patch"]


PATCH_PX: dict[str, int] = {"vit_quickstart": 8, "vit_small": 16, "vit_base": 16}  # edge of a patch
_FOREIGN = r"timm/[\w.]+|[\w.]+:[\w.]+"


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
    """The network: backbone, positions, and the side of the neck that is tested."""

    backbone: Backbone
    image_size: tuple[Positive, Positive]  # (height, width) in pixels
    stem: Literal["conv", "ics"] = "ics"
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.1
    ape: Literal["learned", "sinusoidal", "none"] = "learned"
    rpe: RpeConfig = RpeConfig()
    cls_position: ClsPosition = "none"
    cls_lr_factor: Factor = 1.0  # of the learned CLS numbers
    parts: PartsConfig = PartsConfig()
    local_features: Annotated[LocalFeaturesConfig | None, BeforeValidator(none_word)] = None
    pool: Literal["cls", "mean"] = "cls"
    test_feature: Literal["before_neck", "after_neck"] = "before_neck"
    last_stride: Literal[1, 2] = 2  # of the last stage of a ResNet
    backbone_code: str | None = None  # what a backbone of others was made of; written by the program alone

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


class AugmentConfig(Section):
    """Training-time augmentation."""

    flip: Annotated[float, Field(ge=0, le=1)] = 0.5
    pad_px: Number = 10
    erase: Annotated[float, Field(ge=0, le=1)] = 0.5


class TrainConfig(Section):
    """Optimiser, schedule and batches. `lr` and `epochs` belong to the preset; a cell scales them by factors."""

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
    fraction: Share = 1.0  # of the training identities; never fewer than a batch holds
    holdout: Annotated[float, Field(ge=0, lt=1)] = 0.0  # share of the training identities that the curve is scored on
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


class RunConfig(Section):
    """The science of a run. Its hash names it."""

    model: ModelConfig
    losses: LossesConfig = LossesConfig()
    train: TrainConfig
    scored_on: Literal["test", "holdout"] = "test"  # whose features the run leaves; decided by `tune` alone
    jitter: dict[str, Distribution] = {}  # what each seed draws of the recipe; decided by the preset alone

    @model_validator(mode="after")
    def _related_positions(self) -> Self:
        model, relation = self.model, self.losses.position_relation
        for name in ("position_relation", "position_triplet"):
            if getattr(self.losses, name) and model.ape == "none" and model.rpe.kind in {"none", "shaw_key"}:
                raise ValueError(
                    f"losses.{name} relates position parameters but the model has none; "
                    "choose a model.ape or a model.rpe.kind with a table, or set the loss to none."
                )
        if relation and relation.cls_term and model.ape == "none" and model.cls_position in {"none", "no_ape"}:
            raise ValueError(
                "losses.position_relation.cls_term relates CLS to patches but the model has no such parameters; "
                "set model.cls_position to per_patch or cls_term to none."
            )
        return self

    @model_serializer(mode="wrap")
    def _without_empty_jitter(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        found: dict[str, Any] = handler(self)
        return found if self.jitter else {key: value for key, value in found.items() if key != "jitter"}

    @property
    def plugins(self) -> list[str]:
        """The names of everything that the run executes and that does not ship with this package."""
        uses = [section for _, section in self.losses.sections() if isinstance(section, LossUse)]
        backbone = [self.model.backbone] if self.model.backbone_code is not None else []
        return list(dict.fromkeys([*backbone, *(section.use for section in uses if section.code is not None)]))

    def dump(self) -> dict[str, Any]:
        """Returns the options as plain JSON values."""
        return self.model_dump(mode="json")

    @property
    def identity(self) -> dict[str, Any]:
        """The options that differ from their defaults, as plain JSON values.

        A release may add an option whose default means "as before": no identity changes by it, so no finished run is
        repeated. A section that a cell switches on or off stays, also with every option at its default.
        """
        found = self.model_dump(mode="json", exclude_defaults=True)
        by_cls = [name for name, section in self.losses.sections() if "cls" in getattr(section, "needs", ())]
        if self.model.pool == "mean" and by_cls:  # up to 0.2.0 these took the mean for the class token
            found["by_cls"] = by_cls
        return found

    @property
    def hash(self) -> str:
        """Sixteen hexadecimal digits of the identity."""
        return content_hash(self.identity)


@dataclass(frozen=True)
class Counts:
    """How many images and identities a procedural set has; `gallery_images` leaves distractors and junk out.

    `shared_queries` query files also stand in the gallery, under the same name, and count among `gallery_images`.
    A set without query and gallery is a pre-training set: its people and cameras are drawn from other streams.
    """

    train_images: int
    train_ids: int
    query_images: int = 0
    query_ids: int = 0
    gallery_images: int = 0
    gallery_ids: int = 0
    distractors: int = 0
    junk: int = 0
    shared_queries: int = 0

    @property
    def population(self) -> str:
        """Returns the name of the population that identities and cameras are drawn from."""
        return "study" if self.gallery_images else "pretrain"


Style = Literal[
    "market1501",
    "occluded_duke",
    "dukemtmc",
    "msmt17_v1",
    "msmt17_v2",
    "cuhk03_detected",
    "cuhk03_labeled",
    "occluded_reid",
]


class SyntheticRecipe(Section):
    """Everything that decides a procedural data set, to the byte."""

    style: Style
    counts: Counts
    seed: Annotated[int, Field(ge=0)] = 0
    image_size: tuple[Positive, Positive]  # (height, width) in pixels
    occluded_share: Annotated[float, Field(ge=0, le=1)] = 0.5


class Execution(Section):
    """What a run asks of the machine; never part of its science."""

    gpu: Number = 1
    threads: Positive = 1  # as far as the machine has cores for them
    workers: Number = 0
    recompute: bool = False  # activations in the backward pass, of the study's transformers: less memory, the same bits

    @property
    def threads_here(self) -> int:
        """The threads of a stage on this machine: more than there are cores slow it down many times."""
        return min(self.threads, usable_cores())


class EvaluateConfig(Section):
    """What else a finished run is scored on; never part of its science."""

    also_on: Literal["all"] | list[str] = []  # data sets beside the one that was trained on

    @field_validator("also_on", mode="before")
    @classmethod
    def _one_name(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) and value != "all" else value


class ReportSettings(Section):
    """What may leave the study in reports and pages."""

    blur_faces: bool = True  # of real people; what a program drew is shown as it is


class Sample(Section):
    """How few images of a data set a smoke test reads."""

    train_ids: Several = 2
    images_per_id: Positive = 2
    test_images: Several = 12


class Preset(Section):
    """How large: backbone, schedule, seeds, and where the initial weights come from."""

    name: str
    description: str = ""
    seeds: Annotated[int, Field(ge=1, le=MOST_SEEDS)]
    tier: Literal["core", "extended", "optional"] = "core"
    weights: Literal["pretrain", "file", "none"] | dict[str, str]  # a mapping gives each backbone its file
    model: dict[str, Any] = {}
    losses: dict[str, Any] = {}
    train: dict[str, Any] = {}
    execution: Execution = Execution()
    evaluate: EvaluateConfig = EvaluateConfig()
    keep: Literal["all", "last", "none"] = "all"  # whose weights and features stay when all scores are there
    diagnose: Literal["none", "brief", "full"] = "none"  # pages of diagnostics, of the first seed of each cell
    primary: list[str] = []
    synthetic: dict[str, SyntheticRecipe] | None = None
    pretrain: dict[str, Any] | None = None
    jitter: dict[str, Distribution] = {}  # options of the recipe that each seed draws anew, the same in every cell
    claims: bool = False  # whether the cells that published claims name are run beside those of the tier
    also_cells: list[str] = []  # further cells to run beside those of the tier
    sample: Sample | None = None  # the images that a smoke test reads; only `smoke.smoke_preset` sets it
