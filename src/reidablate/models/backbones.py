"""Backbones by name: the vision transformers of the study, those of timm, and a study's own.

A backbone is made of a `ModelConfig` and maps normalised images (B, 3, H, W) to `Tokens`. It says its `width` D and, as
(rows, columns), the `grid` of its patches.
"""

from typing import Any

import torch
from torch import nn

from reidablate import plugins
from reidablate.config import ModelConfig
from reidablate.errors import UserError
from reidablate.loss_options import Need
from reidablate.rng import seed_int


def backbone_plugin(config: ModelConfig) -> plugins.Plugin:
    """Returns what makes the backbone of a configuration.

    Raises:
        UserError: There is none of its name, or it cannot be imported.
    """
    return plugins.find("backbones", config.backbone.split("/")[0])


def build_backbone(config: ModelConfig, *, cameras: tuple[int, ...] = ()) -> Any:
    """Returns the backbone of a configuration, which learns something of each of the `cameras` if it reads them.

    Raises:
        UserError: There is none of its name, it refuses an option, or it is none.
    """
    plugin = backbone_plugin(config)
    plugins.check_unchanged(plugin, config.backbone_code)
    with plugins.running(f"model.backbone {config.backbone}", plugin):
        made: Any = plugin.made(config, cameras=cameras) if config.parts.read_cameras else plugin.made(config)
    if not isinstance(made, nn.Module) or not all(hasattr(made, name) for name in ("width", "grid")):
        raise UserError(f"{plugin.where}: '{plugin.name}' should return a torch.nn.Module with 'width' and 'grid'.")
    return made


def seeded_backbone(config: ModelConfig, seed: int) -> Any:
    """Returns a backbone with its own initial values, drawn from a stream of the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed_int(seed, "init:backbone"))
        return build_backbone(config)


def what_it_gives(config: ModelConfig) -> tuple[frozenset[Need], int]:
    """Returns what a backbone gives to losses, and its number of patches; nothing is computed.

    Raises:
        UserError: As `build_backbone`, or it fails on an image.
    """
    plugin = backbone_plugin(config)
    with torch.device("meta"), torch.no_grad():
        backbone = build_backbone(config)
        with plugins.running(f"model.backbone {config.backbone}", plugin):
            tokens = backbone.eval()(torch.zeros(2, 3, *config.image_size))
    found: dict[Need, Any] = {"cls": tokens.cls, "patches": tokens.patches}
    number = 0 if tokens.patches is None else tokens.patches.shape[1]
    return frozenset(need for need, part in found.items() if part is not None), number
