"""What a weight file is and what a model would take of it, in words, before anything is trained."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch

from reidablate.config import PATCH_PX, ModelConfig
from reidablate.errors import UserError, plain
from reidablate.models.checkpoints import LoadReport, WeightFile, check_fit, check_plain_fit
from reidablate.models.neck import ReidModel

_NAMED = 3  # examples of a list


def fit_to(file: WeightFile, config: ModelConfig, *, hw_ratio: float | None = None) -> LoadReport:
    """Returns what a model of this configuration would load of a file; its classifier has as many rows as the file's.

    Raises:
        UserError: The file does not fit.
    """
    with torch.device("meta"):  # names and shapes alone
        model = ReidModel(config, num_classes=file.num_classes or 1)
    return check_fit(model, file, hw_ratio=hw_ratio)[0]


def plain_fit_to(path: Path, config: ModelConfig) -> LoadReport:
    """Returns the same of a file for a backbone that is none of the study's transformers.

    Raises:
        UserError: The file cannot be read or does not fit.
    """
    with torch.device("meta"):
        model = ReidModel(config, num_classes=1)
    return check_plain_fit(model, path)[0]


def own_preset(file: WeightFile) -> str:
    """Returns what a preset must say for its network to take a file, empty where no backbone of the study can."""
    for backbone in PATCH_PX:
        config = ModelConfig.model_validate({"backbone": backbone, "image_size": [256, 128], "stem": file.stem})
        with suppress(UserError):
            fit_to(file, config)
            return f"model: {{backbone: {backbone}, stem: {file.stem}}}"
    return ""


def describe_file(file: WeightFile) -> list[str]:
    """Returns lines about a file: its transformer, and where in the file it was found."""
    inside = " > ".join(map(plain, file.wrappers)) or "no wrapper"
    prefix = f"'{plain(file.network.prefix)}'" if file.network.prefix else "no prefix"
    lines = [
        f"{file.path}: {file.kind}",
        f"found in: {inside}, {prefix}",
    ]
    if file.num_classes is not None:
        lines.append(f"classifier: {file.num_classes} identities")
    return lines + [f"note: {note}" for note in file.network.notes]


def describe_fit(report: LoadReport) -> list[str]:
    """Returns lines about what is loaded, resized, ignored and missing, with counts and examples."""
    lines = [f"loaded: {_counted(report.loaded)}"]
    if report.positions:
        old, new = (f"{rows} x {cols}" for rows, cols in report.positions)
        lines.append(
            f"positions: {old} rows resized to {new}" if report.resized else f"positions: {old} rows as they are"
        )
    lines.append(f"ignored: {_counted(report.ignored)}")
    lines.append(f"missing, drawn anew: {_counted(report.missing)}")
    neck = "there, a feature after it can be tested" if report.has_neck else "not there, only before_neck can be tested"
    return [*lines, f"BNNeck: {neck}; a training starts with a new one"]


def _counted(names: Sequence[str]) -> str:
    if not names:
        return "none"
    more = ", ..." if len(names) > _NAMED else ""
    return f"{len(names)} ({', '.join(map(plain, names[:_NAMED]))}{more})"
