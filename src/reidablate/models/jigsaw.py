"""The jigsaw patch module (He et al. 2021, arXiv 2102.04378, TransReID): class tokens of shuffled groups of patches.

Legend: B batch, n patches, D width, C training identities.
"""

import copy
from collections.abc import Sequence
from typing import Annotated, Any, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from reidablate.errors import UserError
from reidablate.models.local_features import BNNeck, Classifier, LocalFeatures
from reidablate.models.tokens import Local, Tokens
from reidablate.sections import Number, Positive, Section


class JigsawOptions(Section):
    """Options of the jigsaw patch module.

    Attributes:
        shift: Patches at the front that move to the end. The published code calls it 5 (`SHIFT_NUM`) and moves 4.
        groups: Groups that patches are taken from in turn.
        parts: Number of local features, each of an equal share of the shuffled patches.
    """

    shift: Number = 4
    groups: Positive = 2
    parts: Annotated[int, Field(ge=1, le=100)] = 4


def shuffled(patches: Tensor, *, shift: int, groups: int) -> Tensor:
    """Returns patches (B, n, D) in another order, as the published code has it.

    The first `shift` of them go to the end. Then they are cut into groups of equal length and taken from the groups in
    turn: the first of every group, the second of every group, and so on. Where the groups do not divide n, the last
    patch but one is there twice.

    >>> shuffled(torch.arange(8).reshape(1, 8, 1), shift=2, groups=2).flatten().tolist()
    [2, 6, 3, 7, 4, 0, 5, 1]
    """
    moved = patches.roll(-shift, dims=1)
    if moved.shape[1] % groups:
        moved = torch.cat([moved, moved[:, -2:-1]], dim=1)
    grouped: Tensor = moved.unflatten(1, (groups, -1))
    return grouped.transpose(1, 2).flatten(1, 2)


class Jigsaw(LocalFeatures):
    """A second last block, which reads CLS with one part of the shuffled patches at a time and gives CLS of each.

    It and its norm start as copies of the backbone's last block and norm. Every local feature has a BNNeck and a
    classifier of its own. At test time the local features, divided by their number, stand behind the feature of the
    whole; patches that no part has room for are left out.
    """

    def __init__(self, options: JigsawOptions, backbone: Any, num_classes: int) -> None:
        """Makes the block.

        Raises:
            UserError: The backbone is none of the study's transformers, adds logits of positions, which know all
                patches alone, or has a number of patches that the options do not divide.
        """
        super().__init__()
        self.options = options
        rows, cols = backbone.grid
        self.length = rows * cols // options.parts
        _refuse(options, backbone, rows * cols)
        self.block, self.norm = copy.deepcopy(backbone.blocks[-1]), copy.deepcopy(backbone.norm)
        self.necks = nn.ModuleList(BNNeck(backbone.width) for _ in range(options.parts))
        self.classifiers = nn.ModuleList(
            Classifier(backbone.width, num_classes, bias=False) for _ in range(options.parts)
        )

    @property
    def foreign_names(self) -> dict[str, str]:
        """The names of TransReID's `build_transformer_local`."""
        names = {"b2.0": "block", "b2.1": "norm"}
        for number in range(self.options.parts):
            theirs = number + 1
            names |= {f"bottleneck_{theirs}": f"necks.{number}", f"classifier_{theirs}": f"classifiers.{number}"}
        return names

    def copy_initial(self, backbone: Any) -> None:
        """Sets block and norm to those of the backbone."""
        self.block.load_state_dict(backbone.blocks[-1].state_dict())
        self.norm.load_state_dict(backbone.norm.state_dict())

    def forward(self, tokens: Tokens) -> tuple[Local, ...]:
        """Returns a local feature (B, D) for each part."""
        before = cast(Tensor, tokens.before_last)
        cls = before[:, :1]
        patches = shuffled(before[:, 1:], shift=self.options.shift, groups=self.options.groups)
        found = []
        for number, (neck, classifier) in enumerate(zip(self.necks, self.classifiers, strict=True)):
            part = patches[:, number * self.length : (number + 1) * self.length]
            feature = self.norm(self.block(torch.cat([cls, part], dim=1)))[:, 0]
            after = neck(feature)
            found.append(Local(feature, after, classifier(after)))
        return tuple(found)

    def tested(self, whole: Tensor, local: Sequence[Tensor]) -> Tensor:
        """Returns the feature of the whole and, divided by their number, the local ones, (B, D + parts D)."""
        return torch.cat([whole, *(part / len(local) for part in local)], dim=1)


def _refuse(options: JigsawOptions, backbone: Any, number: int) -> None:
    """Raises a UserError where the module cannot be made."""
    attentions = getattr(backbone, "attentions", None)
    if attentions is None:
        raise UserError("model.local_features: jigsaw needs one of the study's transformers as its backbone.")
    if any(a.rpe is not None or a.cls_position is not None or a.added for a in attentions):
        raise UserError(
            "model.local_features: jigsaw attends to a part of the patches, and logits of positions (model.rpe, "
            "model.cls_position, some of model.parts) are those of all patches; leave them out."
        )
    if number < options.parts or (number % options.groups and (number + 1) % options.groups):
        raise UserError(
            f"model.local_features: jigsaw cannot cut {number} patches into {options.parts} parts and {options.groups} "
            "groups; choose divisors."
        )
