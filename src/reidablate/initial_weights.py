"""Which file a run starts from: one for all, or one for each backbone, as a preset or `--config weights=` says."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from reidablate.config import PATCH_PX, check_backbone, nearest
from reidablate.errors import UserError, check_file, reading

if TYPE_CHECKING:
    from reidablate.study import Study

NO_FILE = "none"
_WORDS = (NO_FILE, "preset", "pretrain", "file")  # of the settings and of presets
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


def check_files(choice: Choice) -> None:
    """Checks the first bytes of every file that a choice names, as far as it is there.

    Raises:
        UserError: One of them is a web page, a Git LFS pointer, an archive, empty, or cannot be read.
    """
    for file in choice.values() if isinstance(choice, Mapping) else [choice]:
        if file not in _WORDS and Path(file).is_file():
            first_bytes(Path(file))


def first_bytes(path: Path) -> bytes:
    """Returns the first bytes of a weight file.

    Raises:
        UserError: It cannot be read, or they tell already that it holds no weights.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder; give the weight file in it.")
    if not path.exists():
        raise UserError(f"{path} is missing; correct the path of the weights.")
    try:
        check_file(path, most_bytes=2**40)
        with path.open("rb") as stream:
            head = stream.read(512)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; give a file that you may read.") from None
    text = head.lstrip().lower()
    if not head:
        raise UserError(f"{path} is empty; fetch it again.")
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise UserError(f"{path} is a web page in place of weights; open the address in a browser and fetch the file.")
    if text.startswith(b"version https://git-lfs"):
        raise UserError(f"{path} is a Git LFS pointer in place of weights; run `git lfs pull` where it came from.")
    if kind := _packed(path, head):
        raise UserError(f"{path} is {kind} in place of a weight file; {_INSTEAD.get(kind, _UNPACK)}.")
    return head


_PACKED = {
    b"\x1f\x8b": "a gzip archive",
    b"BZh": "a bzip2 archive",
    b"\xfd7zXZ\0": "an xz archive",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!": "a rar archive",
    b"\x89HDF\r\n": "an HDF5 file",
    b"\x93NUMPY": "a NumPy file",
}
_UNPACK = "unpack it and give the weight file in it"
_INSTEAD = dict.fromkeys(
    ("an HDF5 file", "a NumPy file"), "give one that PyTorch wrote, such as timm's file of the same network"
)


def _packed(path: Path, head: bytes) -> str | None:
    """Returns what a file is that weights come packed in, or that another library keeps them in; None if neither."""
    if head[257:262] == b"ustar":
        return "a tar archive"
    if head.startswith(b"PK\x03\x04"):  # PyTorch's own files are zip archives too
        with reading(path, "a complete weight file", remedy="fetch it again"), zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if any(name.endswith(".npy") for name in names):
            return "a NumPy file"
        return None if any(name.endswith("data.pkl") for name in names) else "a zip archive"
    return next((kind for start, kind in _PACKED.items() if head.startswith(start)), None)


def weight_refusals(study: "Study") -> list[str]:
    """Returns why a study should not start, as far as initial weights are concerned; see `Study.refusals`."""
    if reason := _weights_refusal(study):
        return [reason]
    if study.preset.weights == "file" and study.settings.weights == "preset":
        return [
            f"preset '{study.preset.name}' starts from pre-trained weights; give them with --config weights=PATH, "
            "or train from scratch with --config weights=none."
        ]
    return []


def _weights_refusal(study: "Study") -> str | None:
    """Returns which backbone has no file or whose file is not there, None where every run can start."""
    own = [cell for cell in reversed(study.cells) if cell.external is None]
    backbones: dict[str, str] = {cell.config.model.backbone: cell.name for cell in own}
    if reason := unnamed(study.weights_choice, backbones):
        return f"--config {reason}" if study.settings.weights != "preset" else f"preset '{study.preset.name}': {reason}"
    others = [name for name in backbones if name not in PATCH_PX and name != study.preset.model["backbone"]]
    if others and isinstance(study.weights_choice, str) and study.weights_choice != NO_FILE:
        return (
            f"{study.weights_choice} is given for every backbone, but cell '{backbones[others[0]]}' has "
            f"{others[0]}; give each its own, as in --config 'weights={{vit_base: FILE, {others[0]}: FILE}}', "
            "where none in place of a FILE draws the weights from the seed."
        )
    for backbone in backbones:
        file = file_for(study.weights_choice, backbone)
        if file is not None and not Path(file).is_file():
            return f"there are no weights at {file}; correct --config weights=PATH."
    return None
