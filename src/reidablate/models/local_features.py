"""Local features: features of parts of an image, trained and tested beside the feature of the whole.

Their makers are plug-ins, named in `model.local_features` with their options.

Legend: B batch, D width of the backbone, E width of a local feature, C training identities.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from reidablate import plugins
from reidablate.models.tokens import Local, Tokens
from reidablate.part_options import LocalFeaturesConfig
from reidablate.sections import Section


class BNNeck(nn.BatchNorm1d):
    """Batch normalisation between the metric feature and the classifier, without a trained shift (Luo et al. 2019)."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.bias.requires_grad_(False)


class Classifier(nn.Linear):
    """A linear classifier over the training identities; its weights start normal with sd 0.001."""


class LocalFeatures(nn.Module):
    """What makes local features; derive from it. It is made as `maker(options, backbone, num_classes)`.

    Its parameters get their initial values like those of the transformer.
    """

    @property
    def foreign_names(self) -> dict[str, str]:
        """What other code bases call its tensors: theirs to ours, or a prefix before a dot; for weight files."""
        return {}

    def copy_initial(self, backbone: Any) -> None:
        """Sets what starts as a copy of the backbone's weights, which have their initial values by now."""

    def forward(self, tokens: Tokens) -> tuple[Local, ...]:
        """Returns the local features of a batch."""
        raise NotImplementedError

    def tested(self, whole: Tensor, local: Sequence[Tensor]) -> Tensor:
        """Returns what is compared at test time, on one side of the necks.

        Args:
            whole: (B, D) the feature of the whole image.
            local: The local features.
        """
        raise NotImplementedError


def made_local_features(config: LocalFeaturesConfig, backbone: Any, num_classes: int) -> LocalFeatures:
    """Returns what `model.local_features` names.

    Raises:
        UserError: It refuses an option or the backbone.
    """
    plugin = plugins.find("local_features", config.use)
    options = plugins.options_model(plugin, Section).model_validate(config.options)
    made: LocalFeatures = plugin.made(options, backbone, num_classes)
    return made
