"""One YAML file of `ablations/`: its keys, its checks, and the points of its sweep."""

import itertools
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import yaml
from pydantic import AfterValidator, Field, field_validator

from reidablate.config import EvaluateConfig, Section, validate
from reidablate.distributions import Sampled
from reidablate.errors import UserError, plain
from reidablate.external import External
from reidablate.trees import flatten, load_yaml, merge, nested

SECTIONS = ("model", "losses", "train")
# What belongs to the preset, and what a cell may use in its place.
PRESET_ONLY = {"train.lr": "train.lr_factor", "train.epochs": "train.epochs_factor", "model.image_size": None}
MOST_SEED = 10**9
MOST_POINTS = 500  # of the sweep of one file
_SAFE_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
Tier = Literal["core", "extended", "optional"]
Words = Annotated[str, AfterValidator(plain)]  # one line that steers no terminal
TIERS: tuple[Tier, ...] = ("core", "extended", "optional")


def check_name(name: str, what: str) -> None:
    """Checks that a name may be that of a folder; `what` begins the sentence.

    Raises:
        UserError: It may not.
    """
    if not _SAFE_NAME.fullmatch(name):
        raise UserError(
            f"{what} '{name}' is not a safe folder name; "
            "use small letters, digits, '_', '-' and '.', at most 64, starting with a letter or digit."
        )


class DatasetOptions(Section):
    """What a cell does differently on one data set.

    Attributes:
        model: Options of the network that differ there.
        losses: Options of the losses that differ there.
        train: Options of the training that differ there.
    """

    model: dict[str, Any] = {}
    losses: dict[str, Any] = {}
    train: dict[str, Any] = {}


class CellFile(Section):
    """What may stand in `ablations/<name>.yaml`; the three sections hold only what differs from the parent.

    Attributes:
        name: Name of the cell and of its file: small letters, digits, `_`, `-` and `.`, at most 64.
        title: The cell in words, for tables and figures; its name by default.
        group: Section of the report that the cell stands in; its parent's by default, or `main`.
        tier: Which calls run the cell without naming it: all (`core`), or those for `extended` or `optional` cells; its
            parent's by default.
        question: What the cell asks, one sentence that heads its comparison in the report.
        notes: What a reader of its results should know, shown beside them.
        notes_not_under: Presets under which the notes are not shown.
        primary: Whether the cell's comparisons are judged in a family of their own. To be declared before its first run
            is scored.
        extends: The cell whose options this one starts from; none starts from the preset.
        reference: Cells that it is compared with; by default its parent and the ancestor of all.
        seed_offset: Number of the first seed; cells of another offset than their reference are not paired by seed.
        sweep: Options by dotted name, each with a list of values; the file becomes one cell for each combination.
        sample: Options by dotted name, each with a distribution, and how many cells are drawn from them.
        tune: Whether the points of the sweep or sample are scored on held-out training identities and the best becomes
            one cell that is tested.
        model: Options of the network.
        losses: Options of the losses.
        train: Options of the training.
        by_dataset: The same three sections for single data sets: what differs there from the rest of the file.
        evaluate: What else the cell's runs are scored on.
        external: The command of another code base that trains this cell.
    """

    name: str
    title: Words = ""
    group: Words = ""
    tier: Tier | None = None
    question: Words = ""
    notes: str = ""
    notes_not_under: list[str] = []
    primary: bool = False
    extends: str | None = None
    reference: list[str] | None = None
    seed_offset: Annotated[int, Field(ge=0, le=MOST_SEED)] | None = None
    sweep: dict[str, Annotated[list[Any], Field(min_length=1)]] = {}
    sample: Sampled | None = None
    tune: bool = False
    model: dict[str, Any] = {}
    losses: dict[str, Any] = {}
    train: dict[str, Any] = {}
    by_dataset: dict[str, DatasetOptions] = {}
    evaluate: EvaluateConfig | None = None
    external: External | None = None

    @field_validator("reference", mode="before")
    @classmethod
    def _one_reference(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @property
    def is_candidate(self) -> bool:
        """Whether it is a point of a sweep or sample that is tuned, to be scored on held-out identities alone."""
        return self.tune and not self.is_tuned

    @property
    def is_tuned(self) -> bool:
        """Whether it becomes the best of its candidates."""
        return self.tune and (bool(self.sweep) or self.sample is not None)

    @property
    def options(self) -> dict[str, Any]:
        """The declared differences as a nested mapping."""
        return {name: getattr(self, name) for name in SECTIONS if getattr(self, name)}

    def options_on(self, dataset: str) -> dict[str, Any]:
        """The declared differences on one data set."""
        own = self.by_dataset.get(dataset)
        return merge(self.options, own.model_dump(exclude_unset=True)) if own else self.options


def read_cell_file(path: Path) -> CellFile:
    """Returns what a file of `ablations/` says.

    Raises:
        UserError: It is not readable as YAML, or a key or value is not one of a cell.
    """
    data = _names_as_written(load_yaml(path), path)
    special = data.get("by_dataset")
    for part in (data, *(special.values() if isinstance(special, dict) else ())):
        for dotted in PRESET_ONLY.keys() & flatten(part if isinstance(part, dict) else {}).keys():
            _refuse_presets(path, dotted, verb="scale it with")
        _refuse_code(path, part)
    return checked(data, path)


def _refuse_code(path: Path, part: Any) -> None:
    model, losses = (part.get(name) if isinstance(part, dict) else None for name in ("model", "losses"))
    if isinstance(model, dict) and "backbone_code" in model:
        raise UserError(f"{path}: 'model.backbone_code' is written by the program alone; remove it.")
    for name, section in losses.items() if isinstance(losses, dict) else ():
        if isinstance(section, dict) and "code" in section:
            raise UserError(f"{path}: 'losses.{name}.code' is written by the program alone; remove it.")


def _names_as_written(data: dict[str, Any], path: Path) -> dict[str, Any]:
    """Returns the content of a cell file with names as text, also where YAML reads a number or date (2024_05)."""
    keys = ("name", "extends", "reference")
    values = [value for key in keys for value in (data[key] if isinstance(data.get(key), list) else [data.get(key)])]
    if all(value is None or isinstance(value, str) for value in values):
        return data
    written = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    return {**data, **{key: written[key] for key in keys if key in written and data[key] is not None}}


def _refuse_presets(path: Path, dotted: str, *, verb: str) -> NoReturn:
    factor = PRESET_ONLY[dotted]
    instead = f"{verb} '{factor}' instead" if factor else "change it in a preset of your own (--config preset=FILE)"
    raise UserError(f"{path}: '{dotted}' belongs to the preset; {instead}.")


def checked(data: Mapping[str, Any], path: Path) -> CellFile:
    """Returns the content of a file as a cell.

    Raises:
        UserError: A key or value is not one of a cell.
    """
    file = validate(CellFile, data, where=str(path))
    check_name(file.name, f"{path}: cell name")
    return file


def _points(file: CellFile) -> int:
    return file.sample.n if file.sample else math.prod(len(values) for values in file.sweep.values())


def _drawn(file: CellFile) -> list[tuple[str, dict[str, Any]]]:
    """Returns a label and the value of every option for each configuration that the file's sweep or sample makes."""
    if file.sample:
        return [(str(number), point) for number, point in enumerate(file.sample.draw(file.name), start=1)]
    points = [dict(zip(file.sweep, values, strict=True)) for values in itertools.product(*file.sweep.values())]
    return [("_".join(f"{key.rsplit('.', 1)[1]}_{value}" for key, value in point.items()), point) for point in points]


def expand(file: CellFile, path: Path) -> list[CellFile]:
    """Returns one file per point of its sweep or sample, or the file itself.

    With `tune`, the file itself stands behind its points, with its sweep or sample and the options of the first: it is
    one of them, which one is not known yet.
    """
    if file.tune and _points(file) < 2:
        raise UserError(f"{path}: 'tune' chooses between the points of a sweep or sample; give it two or more.")
    if file.sweep and file.sample:
        raise UserError(f"{path}: 'sweep' tries all combinations and 'sample' draws some; leave one of them out.")
    varied = file.sample.options if file.sample else file.sweep
    if (not varied or file.tune) and path.stem != file.name:
        raise UserError(f"{path}: the file holds cell '{file.name}'; rename the file to {file.name}.yaml.")
    if not varied:
        return [file]
    word = "sample" if file.sample else "sweep"
    if (number := _points(file)) > MOST_POINTS:
        raise UserError(f"{path}: the {word} has {number} points, more than {MOST_POINTS}; write fewer values.")
    for key in varied:
        if key.split(".")[0] not in SECTIONS or "." not in key:
            raise UserError(f"{path}: {word} key '{key}' should start with {', '.join(SECTIONS)} and a dot.")
        if key in PRESET_ONLY:
            _refuse_presets(path, key, verb=word)
    if file.tune and "train.holdout" in varied:
        raise UserError(
            f"{path}: candidates are compared on the same held-out identities, so 'tune' cannot vary train.holdout; "
            "write one share under 'train'."
        )
    points = []
    for label, point in _drawn(file):
        options: dict[str, Any] = file.options
        for key, value in point.items():
            options = merge(options, nested(key, value))
        shown = ", ".join(f"{key.rsplit('.', 1)[1]}: {value}" for key, value in point.items())
        title = f"{file.title or file.name} ({shown})"
        swept = {"name": f"{file.name}_{label}".lower(), "title": title, "sweep": {}, "sample": None, **options}
        points.append(checked({**file.model_dump(), **swept}, path))
    whole = {"name": file.name, "title": file.title, "sweep": file.sweep, "sample": file.sample}
    return points + [checked({**points[0].model_dump(), **whole}, path)] * file.tune
