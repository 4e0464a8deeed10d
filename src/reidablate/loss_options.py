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
    """What every loss has; a loss with options of its own derives its model from this one.

    Attributes:
        weight: Factor of the loss in the sum that is minimised; 0 records it without training on it.
    """

    weight: Weight = 1.0

    @property
    def needs(self) -> frozenset[Need]:
        """What the network must give: `patches`, the token `cls`, `positions`, `local features`."""
        return frozenset()


class IdentityConfig(LossOptions):
    """Cross-entropy over the training identities.

    Attributes:
        label_smoothing: Probability mass that is spread evenly over all identities (Szegedy et al. 2016).
    """

    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0


class TripletConfig(LossOptions):
    """Batch-hard triplet loss on the feature before the neck (the naive triplet; Hermans et al. 2017, eq. 5).

    Attributes:
        margin: `soft` for log(1 + exp(d_ap - d_an)), or a number m for max(0, d_ap - d_an + m), in units of the
            distance.
    """

    margin: Margin = "soft"


class WeightedTripletConfig(LossOptions):
    """Patch-similarity weighted triplet loss (Proposed 1); `docs/methods.md` has the symbols.

    Attributes:
        margin: `soft` for log(1 + exp(d_ap - d_an)), or a number m for max(0, d_ap - d_an + m), in units of the
            distance.
        weight_form: How the magnitude z of what the dominant patches leave becomes a weight: `max` z, `one_plus_max` 1
            + z, `one_plus_inv` 1 + (1 - z).
        threshold: Weights are 0 where z (or 1 - z) is below it, in [0, 1).
        aux: A second triplet term: the `naive` one, or `mean_negative`, which pushes all negatives from the hardest
            positive, held constant; or `none`.
        similarity: How patches compare with the class token: `softmax_scaled` of c.X/sqrt(D), `softmax` of c.X, or
            `raw`, c.X over its largest.
        scale_match: The factor r of the dominant sum: `full_sum` |c| / |sum of all patches|, `selected_sum` |c| /
            |dominant sum|, or `none` for 1.
        pos_source: Whose patches the positive chooses among: `anchor_patches`, or its `own_patches`, matched by place.
        ratio: Share of the patches that are called dominant.
        ratio_end: Share at the end of the training, changed linearly from `ratio`; the same where it is not given.
        detach_weight: Whether the weights are held constant, so that patches get no gradient through them.
        detach_ratio: Whether r is held constant.
        select_by: What patches are compared with: the class token of anchor and positive, or the `classifier` row of
            the identity, which subtracts from every feature and has no weights.
        subtract_from: Whether dominant patches are subtracted from the anchor alone, or from anchor and positive, whose
            magnitudes are averaged.
    """

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
    """Divergence between the position-relation distributions of an identity (Proposed 2).

    Attributes:
        divergence: `jsd`, Jensen-Shannon, in [0, ln 2] (Lin 1991); `ag_mean`, arithmetic-geometric mean, unbounded
            (Taneja 1995), which the source study computed; `kl`; or `sym_kl`, the mean of both directions.
        patches: Number N of patches of an image that are related.
        pairs: Which pairs of the N patches: `combinations` N(N-1)/2, `combinations_with_replacement` also each with
            itself, `permutations` in both orders, `product` all N^2.
        grouping: What one softmax runs over: the pairs of a `head`, all heads of a `layer`, or all of a `sample`. The
            `_reshaped` forms are the loss of `head` times the heads, or times all heads of all layers, as it was run.
        select: What patches are chosen by: the class token, or the `classifier` row of the identity.
        order: Order of the chosen patches, which decides the pairs that are matched: by falling `similarity`, or rising
            `token_index`.
        abs_scale: Factor of the dot products of absolute rows: 1, or 1/sqrt(D), attention's own scale.
        grad_to_rpe: Whether the loss trains the relative tables.
        ape_offset: `author_bug` reads every absolute row one too low, as the source study did until 22 May 2022.
        target: What an image is compared with: its `hardest_positive`, or the geometric mean of its identity.
        cls_term: `patches` adds the relation of the class token to the chosen patches; or `none`.
    """

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
    """Triplet loss on position-relation vectors (the negative result), or its pulling half alone.

    Attributes:
        bias: Whether the vectors of all blocks and heads stand one after the other (`concat`), or the relative tables
            are averaged over them (`mean`).
        patches: Number N of patches of an image that are related.
        pairs: Which pairs of the N patches, as in `position_relation`.
        negative: Whether the negative is pushed away; without it the loss is the mean distance to the positive.
        grad_to_rpe: Whether the loss trains the relative tables.
        ape_offset: `author_bug` reads every absolute row one too low, as the source study did until 22 May 2022.
    """

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
        use: The loss: one that ships, an entry point of an installed package, or `FILE:NAME` of your own `methods/`.
        code: What the loss was made of when this was planned, None for one that ships. Written by the program alone: a
            section that has it is a record and is read as it stands, also when the file has changed since.
        lr_factor: Learning rate of the loss's own parameters, if it has any, over that of the weights.
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
    """The sum that is minimised; a term that is `none` is left out.

    Attributes:
        identity: Cross-entropy over the training identities.
        triplet: Batch-hard triplet loss (the naive triplet).
        weighted_triplet: Patch-similarity weighted triplet loss (Proposed 1).
        position_relation: Divergence between the position relations of an identity (Proposed 2).
        position_triplet: Triplet loss on position relations (the negative result).
    """

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
