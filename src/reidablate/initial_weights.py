"""Which file a run starts from: one for all, or one for each backbone, as a preset or `--config weights=` says."""

from collections.abc import Mapping

from reidablate.config import PATCH_PX, check_backbone, nearest
from reidablate.errors import UserError

NO_FILE = "none"
Choice = str | Mapping[str, str]  # a path, a word, or a path or `none` for each backbone


def check_backbones(choice: Choice, where: str) -> None:
    """Checks that a mapping names backbones that there are.

    Raises:
        UserError: It does not; `where` begins the sentence.
    """
    for name in choice if isinstance(choice, Mapping) else ():
        try:
            check_backbone(name)
        except ValueError:
            raise UserError(
                f"{where}: weights: there is no backbone '{name}'; {nearest(name, list(PATCH_PX))}"
            ) from None
    if isinstance(choice, Mapping) and not choice:
        raise UserError(f"{where}: weights names no backbone; write one as vit_base: FILE, or none for no file.")


def file_for(choice: Choice, backbone: str) -> str | None:
    """Returns the file that a backbone starts from, None where it is `none` or the backbone is not named."""
    file = choice.get(backbone, NO_FILE) if isinstance(choice, Mapping) else choice
    return None if file == NO_FILE else file


def unnamed(choice: Choice, backbones: Mapping[str, str]) -> str | None:
    """Returns why a choice is not complete for the backbones of a study, None if it is.

    Args:
        choice: What the settings or the preset say.
        backbones: {backbone: a cell that has it}.
    """
    lacking = [name for name in backbones if isinstance(choice, Mapping) and name not in choice]
    if not lacking:
        return None
    return (
        f"weights names no file for the backbone {lacking[0]} of cell '{backbones[lacking[0]]}'; "
        f"add {lacking[0]}: FILE, or {lacking[0]}: none to draw its weights from the seed."
    )
