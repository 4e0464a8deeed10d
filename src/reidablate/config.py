"""The options of a run, a validated model of all its sections, and the hash that names it.

A `RunConfig` is the science of a run: two runs with equal `RunConfig`, data set and seed compute the same thing.
What does not change a result (devices, workers, paths) is in `Execution` and `Settings` and stays out of its hash.
The mathematics behind each option is explained in `docs/methods.md`. The sections have modules of their own and are
imported from here: `loss_options`, `model_options`, `train_options`, and `preset` for what is no science of one run.
"""

from typing import Any, Literal, Self

from pydantic import SerializerFunctionWrapHandler, model_serializer, model_validator

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
from reidablate.model_options import PATCH_PX, Backbone, ClsPosition, ModelConfig, RpeConfig, check_backbone
from reidablate.preset import (
    MOST_SEEDS,
    Counts,
    EvaluateConfig,
    Execution,
    Preset,
    ReportSettings,
    Sample,
    Style,
    SyntheticRecipe,
)
from reidablate.sections import Margin, Positive, Section, Weight, nearest, validate
from reidablate.train_options import AugmentConfig, TrainConfig

__all__ = [
    "MOST_SEEDS",
    "PATCH_PX",
    "AugmentConfig",
    "Backbone",
    "ClsPosition",
    "Counts",
    "EvaluateConfig",
    "Execution",
    "IdentityConfig",
    "LossOptions",
    "LossesConfig",
    "Margin",
    "ModelConfig",
    "Pairs",
    "PositionRelationConfig",
    "PositionTripletConfig",
    "Positive",
    "Preset",
    "ReportSettings",
    "RpeConfig",
    "RunConfig",
    "Sample",
    "Section",
    "Style",
    "SyntheticRecipe",
    "TrainConfig",
    "TripletConfig",
    "Weight",
    "WeightedTripletConfig",
    "check_backbone",
    "nearest",
    "validate",
]


class RunConfig(Section):
    """The science of a run. Its hash names it.

    Attributes:
        model: The network.
        losses: The sum that is minimised.
        train: Optimiser, schedule, batches and augmentation.
        scored_on: Whose features the run leaves: those of the `test` set, or of the identities that are held out from
            training. Decided by `tune` alone.
        jitter: What each seed draws of the recipe. Decided by the preset alone.
    """

    model: ModelConfig
    losses: LossesConfig = LossesConfig()
    train: TrainConfig
    scored_on: Literal["test", "holdout"] = "test"
    jitter: dict[str, Distribution] = {}

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
