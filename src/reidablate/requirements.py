"""Checks while planning that a network has what the losses of its run need."""

from collections.abc import Sequence

from reidablate.config import PATCH_PX, RunConfig
from reidablate.errors import UserError
from reidablate.loss_options import LossUse


def require_parts(config: RunConfig, where: str) -> None:
    """Refuses losses that need what the network does not give, or relate more patches than it has.

    What the grid is, only the preset says; what a backbone gives that is none of the study's, only the network.

    Raises:
        UserError: Naming `where`.
    """
    model, losses = config.model, config.losses
    if model.backbone in PATCH_PX:
        gives: frozenset[str] = frozenset({"patches", "cls", "positions"})
        rows, cols = model.grid
        grid, number = f"grid of {rows} x {cols}", rows * cols
    else:
        from reidablate.models.backbones import what_it_gives  # takes seconds

        try:
            gives, number = what_it_gives(model)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        grid = f"last map of {model.backbone}"
    if model.local_features is not None:
        from reidablate.models.neck import check_local_features

        try:
            check_local_features(model)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        gives = gives | {"local features"}
    named = any(isinstance(section, LossUse) for _, section in losses.sections())
    for name, _, options, _ in losses.loaded() if named or model.backbone not in PATCH_PX else ():
        if lacking := sorted(options.needs - gives):
            raise UserError(f"{where}: losses.{name} needs {' and '.join(lacking)}, which {_why_not(lacking, config)}")
    for name in ("position_relation", "position_triplet"):
        section = getattr(losses, name)
        if section and section.patches > number:
            raise UserError(
                f"{where}: losses.{name} wants {section.patches} patches but the {grid} has {number}; "
                "lower 'patches' or leave the cell out."
            )


def _why_not(lacking: Sequence[str], config: RunConfig) -> str:
    if lacking == ["local features"]:
        return "the model does not make; name what makes them under model.local_features, or set the loss to none."
    return f"the backbone {config.model.backbone} does not give; set the loss to none, or choose another backbone."
