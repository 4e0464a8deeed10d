"""The options of the losses: those that ship, and those of a study's own or of an installed package.

Each loss has a section in `losses`. The sections that ship are fields of `LossesConfig`; any other one names its loss
under `use` and holds the loss's own options beside it.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from reidablate import plugins
from reidablate.errors import UserError
from reidablate.sections import Factor, Margin, Section, Share, Weight, nearest, none_word, validate

Need = Literal["patches", "cls", "positions", "local features"]
_TERM = re.compile(r"[a-z][a-z0-9_]{0,39}")
# Columns of `history.parquet` beside the terms.
RESERVED = (
    *("total", "epoch", "lr", "images_per_s", "loss_scale", "skipped"),
    *("gradient_norm", "feature_norm", "ape_norm", "rpe_norm"),
)


class LossOptions(Section):
    """What every loss has; a loss with options of its own derives its model from this one."""

    weight: Weight = 1.0

    @property
    def needs(self) -> frozenset[Need]:
        """What the network must give: `patches`, the token `cls`, `positions`, `local features`."""
        return frozenset()


class IdentityConfig(LossOptions):
    """Cross-entropy over the training identities."""

    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0


class TripletConfig(LossOptions):
    """Batch-hard triplet loss on the feature before the neck (the naive triplet)."""

    margin: Margin = "soft"


class WeightedTripletConfig(LossOptions):
    """Patch-similarity weighted triplet loss (Proposed 1)."""

    margin: Margin = "soft"
    weight_form: Literal["max", "one_plus_max", "one_plus_inv"] = "max"
    threshold: Annotated[float, Field(ge=0, lt=1)] = 0.0
    aux: Annotated[Literal["naive", "mean_negative"] | None, BeforeValidator(none_word)] = None
    similarity: Literal["softmax_scaled", "softmax", "raw"] = "softmax_scaled"
    scale_match: Annotated[Literal["full_sum", "selected_sum"] | None, BeforeValidator(none_word)] = "full_sum"
    pos_source: Literal["anchor_patches", "own_patches"] = "anchor_patches"
    ratio: Share = 0.5
    ratio_end: Share | None = None
    detach_weight: bool = False
    detach_ratio: bool = False
    select_by: Literal["cls", "classifier"] = "cls"
    subtract_from: Literal["anchor", "anchor_and_positive"] = "anchor"

    @property
    def needs(self) -> frozenset[Need]:
        """Patches, and the class token that they are compared with."""
        return frozenset({"patches", "cls"})

    @model_validator(mode="after")
    def _weights_a_distance(self) -> Self:
        if self.select_by == "classifier" and self.subtract_from != "anchor":
            raise ValueError(
                "select_by: classifier already subtracts from every feature and has no weights; "
                "leave subtract_from at anchor."
            )
        return self


Pairs = Literal["combinations", "combinations_with_replacement", "permutations", "product"]


class PositionRelationConfig(LossOptions):
    """Divergence between the position-relation distributions of an identity (Proposed 2)."""

    divergence: Literal["jsd", "ag_mean", "kl", "sym_kl"] = "jsd"
    patches: Annotated[int, Field(ge=2)] = 5
    pairs: Pairs = "combinations"
    grouping: Literal["head", "layer", "sample", "layer_reshaped", "sample_reshaped"] = "head"
    select: Literal["cls", "classifier"] = "cls"
    order: Literal["similarity", "token_index"] = "similarity"
    abs_scale: Literal[1, "inv_sqrt_d"] = 1
    grad_to_rpe: bool = True
    ape_offset: Literal[0, "author_bug"] = 0
    target: Literal["hardest_positive", "identity_mean"] = "hardest_positive"
    cls_term: Annotated[Literal["patches"] | None, BeforeValidator(none_word)] = None

    @property
    def needs(self) -> frozenset[Need]:
        """Position parameters, and what patches are chosen by."""
        needed: frozenset[Need] = frozenset({"patches", "positions"})
        return needed | {"cls"} if self.select == "cls" else needed


class PositionTripletConfig(LossOptions):
    """Triplet loss on position-relation vectors (the negative result), or its pulling half alone."""

    bias: Literal["mean", "concat"] = "concat"
    patches: Annotated[int, Field(ge=2)] = 5
    pairs: Pairs = "combinations"
    negative: bool = True
    grad_to_rpe: bool = True
    ape_offset: Literal[0, "author_bug"] = 0

    @property
    def needs(self) -> frozenset[Need]:
        """Position parameters, and patches chosen by the class token."""
        return frozenset({"patches", "cls", "positions"})


class LossUse(Section):
    """A section of a loss that is no field of `LossesConfig`; its own options stand beside these.

    Attributes:
        use: Name of the loss, see `plugins`.
        code: What the loss was made of when this was planned, None for one that ships. Written by the program alone: a
            section that has it is a record and is read as it stands, also when the file has changed since.
        lr_factor: Of the loss's own parameters, if it has any.
    """

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    use: str
    code: str | None = None
    lr_factor: Factor = 1.0

    @property
    def own(self) -> dict[str, Any]:
        """The loss's own options as they are written, the weight among them."""
        return dict(self.model_extra or {})

    def loaded(self, name: str) -> tuple[plugins.Plugin, LossOptions]:
        """Returns the loss and its options.

        Raises:
            UserError: It cannot be imported or has other options.
        """
        plugin = plugins.find("losses", self.use)
        model = plugins.options_model(plugin, LossOptions)
        if taken := [word for word in LossUse.model_fields if word in model.model_fields]:
            raise UserError(f"{plugin.where}: an option '{taken[0]}' would be every loss's own; call it otherwise.")
        options = validate(model, self.own, where=f"losses.{name}")
        assert isinstance(options, LossOptions)
        return plugin, options


class LossesConfig(Section):
    """The sum that is minimised; a term that is `none` is left out."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)
    __pydantic_extra__: dict[str, LossUse] = Field(init=False)

    identity: Annotated[IdentityConfig | None, BeforeValidator(none_word)] = IdentityConfig()
    triplet: Annotated[TripletConfig | None, BeforeValidator(none_word)] = TripletConfig()
    weighted_triplet: Annotated[WeightedTripletConfig | None, BeforeValidator(none_word)] = None
    position_relation: Annotated[PositionRelationConfig | None, BeforeValidator(none_word)] = None
    position_triplet: Annotated[PositionTripletConfig | None, BeforeValidator(none_word)] = None

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, data: Any) -> Any:
        """Fills in the options of losses that are no fields, and what they are made of."""
        if not isinstance(data, Mapping):
            return data
        known = {name: section for name, section in data.items() if name in cls.model_fields}
        others = {name: section for name, section in data.items() if name not in cls.model_fields}
        return known | {n: _completed(n, section) for n, section in others.items() if none_word(section) is not None}

    @model_validator(mode="after")
    def _some_term(self) -> Self:
        if not dict(self.sections()):
            raise ValueError("every term is none; keep at least one, for example identity.")
        return self

    def sections(self) -> Iterator[tuple[str, LossOptions | LossUse]]:
        """Yields the name and the section of every term that is not none."""
        for name in type(self).model_fields:
            if section := getattr(self, name):
                yield name, section
        yield from (self.__pydantic_extra__ or {}).items()

    def loaded(self) -> Iterator[tuple[str, plugins.Plugin, LossOptions, LossUse | None]]:
        """Yields name, loss, options and, where it is no field, the section of every term that is not none.

        Raises:
            UserError: One cannot be imported or has other options.
        """
        for name, section in self.sections():
            if isinstance(section, LossUse):
                yield name, *section.loaded(name), section
            else:
                yield name, plugins.find("losses", name), section, None


def _completed(name: str, section: Any) -> LossUse:
    if isinstance(section, LossUse):
        return section
    if not isinstance(section, Mapping) or "use" not in section:
        hint = "" if isinstance(section, Mapping) and not section else " A loss of your own needs 'use: FILE:NAME'."
        raise UserError(f"unknown key 'losses.{name}'; {nearest(name, list(LossesConfig.model_fields))}{hint}")
    if not _TERM.fullmatch(name) or name in RESERVED:
        raise UserError(
            f"'losses.{name}' is no name for a loss; use small letters, digits and '_', not {', '.join(RESERVED)}."
        )
    used = validate(LossUse, section, where=f"losses.{name}")
    if used.code is not None:
        return used
    plugin, options = used.loaded(name)
    written = options.model_dump(mode="json")
    return LossUse.model_validate({**written, "use": used.use, "code": plugin.code, "lr_factor": used.lr_factor})
