"""Any network of timm that has features, as a backbone.

Legend: B batch, n = rows * cols patches, D width.
"""

from typing import Any

import timm
import torch
from torch import Tensor, nn

from reidablate.config import ModelConfig, nearest
from reidablate.errors import UserError, reason
from reidablate.models.tokens import Tokens

PREFIX = "timm/"


class TimmBackbone(nn.Module):
    """A network of timm without its classifier.

    The feature is the class token or, where there is none or with `pool: mean`, the mean of the last feature map, whose
    places are the patches. `last_stride: 1` keeps the last stage of a ResNet at the size of the one before (Luo et al.
    2019).
    """

    def __init__(self, config: ModelConfig) -> None:
        """Builds the network; its initial values are timm's.

        Raises:
            UserError: timm has no such network, or it refuses an option or the image size.
        """
        super().__init__()
        self.pool = config.pool
        self.net = _create(config)
        if config.last_stride == 1:
            _unstride(self.net, config.backbone)
        self.net.eval()
        with torch.no_grad():
            try:
                _, patches, self.grid = self._parts(torch.zeros(1, 3, *config.image_size))
            except (RuntimeError, AssertionError, ValueError) as error:
                raise _refused(config, error) from None
        self.width: int = patches.shape[2]
        self.net.train()

    def forward(self, images: Tensor) -> Tokens:
        """Returns the feature, the class token if there is one, and the patches of images (B, 3, H, W)."""
        cls, patches, _ = self._parts(images)
        return Tokens(cls if cls is not None and self.pool == "cls" else patches.mean(dim=1), cls, patches)

    def _parts(self, images: Tensor) -> tuple[Tensor | None, Tensor, tuple[int, int]]:
        """Returns class token, patches (B, n, D) and grid."""
        found = self.net.forward_features(images)
        if found.dim() == 4:
            if getattr(self.net, "output_fmt", "NCHW") == "NHWC":
                found = found.permute(0, 3, 1, 2)
            return None, found.flatten(2).transpose(1, 2), (found.shape[2], found.shape[3])
        first = int(getattr(self.net, "num_prefix_tokens", 0))
        cls = found[:, 0] if getattr(self.net, "cls_token", None) is not None else None
        rows, cols = getattr(getattr(self.net, "patch_embed", None), "grid_size", None) or (found.shape[1] - first, 1)
        return cls, found[:, first:], (int(rows), int(cols))


def _create(config: ModelConfig) -> Any:
    name = config.backbone.removeprefix(PREFIX)
    if name.split(".")[0] not in timm.list_models():
        raise UserError(f"model.backbone: timm has no '{name}'; {nearest(name, timm.list_models())}")
    options: dict[str, Any] = {"drop_path_rate": config.drop_path} if config.drop_path else {}
    for size in ({"img_size": config.image_size}, {}):  # convolutions take any size and know no such option
        try:
            return timm.create_model(name, pretrained=False, num_classes=0, **options, **size)
        except TypeError as error:
            if "drop_path_rate" in str(error):
                raise UserError(f"model.drop_path: {config.backbone} has no drop path; set it to 0.") from None
            if "img_size" not in str(error):
                raise _refused(config, error) from None
        except (RuntimeError, AssertionError, ValueError) as error:
            raise _refused(config, error) from None
    raise AssertionError("unreachable")


def _refused(config: ModelConfig, error: Exception) -> UserError:
    height, width = config.image_size
    return UserError(
        f"model.backbone: {config.backbone} cannot be built for images of {height} x {width} ({reason(error)}); choose "
        "another image size or backbone."
    )


def _unstride(net: Any, name: str) -> None:
    """Sets every stride of the first block of the last stage of a ResNet to 1."""
    if not hasattr(net, "layer4"):
        raise UserError(f"model.last_stride: {name} has no last stage of a ResNet; remove the option.")
    for parent in [*net.layer4[0].modules()]:
        for word, module in parent.named_children():
            if isinstance(module, nn.AvgPool2d):
                setattr(parent, word, nn.Identity())
            elif isinstance(module, nn.Conv2d) and module.stride == (2, 2):
                module.stride = (1, 1)
