"""What the source study published and recorded: its gains as claims, and the cells that claims are about.

Three files in `workflow/config` hold the facts: `claims.yaml`, `published/slides.csv` (the rows of the slides) and
`published/author_configurations.yaml` (what the author's code was set to).
"""

import datetime
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from reidablate import places
from reidablate.cells import Cell, select
from reidablate.config import Preset, Section, nearest, validate
from reidablate.errors import UserError
from reidablate.metrics.registry import SHIPPED
from reidablate.trees import flatten, load_yaml, merge, yaml_files

RECORDED = "workflow/config/published/author_configurations.yaml"

Side = Literal["before_neck", "after_neck"]


class Quoted(Section):
    """The row that a published gain was measured against: another cell, perhaps on the other side of the neck.

    Attributes:
        cell: The cell.
        side: The side of the neck that was tested.
    """

    cell: str
    side: Side


class Defined(Section):
    """The comparison of the method as the slides define it, which did not run.

    Attributes:
        cell: The method as defined.
        reference: What it is compared with.
    """

    cell: str
    reference: str


class Claim(Section):
    """One published sentence about a cell as it ran.

    A claim of kind `gain` is judged as `cell` over `reference`, on `side`, where both trained for `epochs`. The other
    kinds wait for tables of diagnostics and are not tested.

    Attributes:
        name: Name of the claim in tables.
        title: The claim as a sentence.
        kind: A `gain` of a score, a `divergence` of the training, or a `hypothesis` about the cause.
        dataset: Data set that it is about.
        cell: The method as it was run.
        reference: The baseline as it was run, under the same conditions.
        side: Side of the neck that was tested.
        epochs: Epochs of cell and reference at the published scale.
        quoted: The row that the gain was printed against.
        defined: The comparison of the method as defined.
        metric: Metric of the gain.
        gain_points: Published gain in points, 0 to 100.
        source: Where it is published.
        schedule: What is known of the schedule.
        contradictions: What else was published that does not fit.
        presets: Presets whose runs test the claim.
        weights: Patterns of the names of weight files from which a run tests the claim.
    """

    name: str
    title: str
    kind: Literal["gain", "divergence", "hypothesis"] = "gain"
    dataset: str
    cell: str
    reference: str
    side: Side = "after_neck"
    epochs: Annotated[int, Field(ge=1)] | None = None
    quoted: Quoted | None = None
    defined: Defined | None = None
    metric: str = "mAP"
    gain_points: Annotated[float, Field(ge=0, le=100)] | None = None
    source: str
    schedule: str = ""
    contradictions: tuple[str, ...] = ()
    presets: tuple[str, ...]
    weights: tuple[str, ...]

    @property
    def cells(self) -> list[str]:
        """Every cell that has to run for this claim and for what stands beside it."""
        named = [self.cell, self.reference]
        named += [self.quoted.cell] if self.quoted else []
        named += [self.defined.cell, self.defined.reference] if self.defined else []
        return list(dict.fromkeys(named))


class ClaimFile(Section):
    """A file of claims.

    Attributes:
        claims: The claims.
    """

    claims: tuple[Claim, ...]


def load_claims(path: Path) -> list[Claim]:
    """Returns the claims of a YAML file.

    Raises:
        UserError: The file is missing or malformed, has an unknown key, names a claim twice, or has a gain without
            a size.
    """
    claims = list(validate(ClaimFile, load_yaml(path), where=str(path)).claims)
    names = [claim.name for claim in claims]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UserError(f"{path}: claim '{twice[0]}' stands twice; give each claim its own name.")
    for claim in claims:
        if claim.kind == "gain" and claim.gain_points is None:
            raise UserError(f"{path}: claim '{claim.name}' is a gain without 'gain_points'; add how many points.")
    return claims


def study_claims(study: Path, planned: Iterable[str]) -> list[Claim]:
    """Returns the package's claims about cells that the study has, and all of its own; of one name, its own counts.

    Args:
        study: The study folder.
        planned: Names of cells of the study; those that its folder of cells has a file for are added.

    Raises:
        UserError: A file of claims is malformed.
    """
    settings = places.settings(study)
    cells = study / str(settings["ablations"])
    present = {*planned, *(path.stem for path in (yaml_files(cells) if cells.is_dir() else []))}
    claims: dict[str, Claim] = {}
    for path in places.layers(places.CLAIMS, study):
        own = path == study / places.CLAIMS
        loaded = load_claims(path)
        _check_metrics(loaded, path, settings.get("metrics") or [])
        claims |= {claim.name: claim for claim in loaded if own or claim.cell in present}
    return list(claims.values())


def _check_metrics(claims: Iterable[Claim], path: Path, own: Iterable[str]) -> None:
    known = [*(metric.name for metric in SHIPPED), *(use.rpartition(":")[2] for use in own)]
    for claim in claims:
        if claim.metric not in known:
            raise UserError(
                f"{path}: claim '{claim.name}': unknown metric '{claim.metric}'; {nearest(claim.metric, known)}"
            )


def with_asked(chosen: list[Cell], cells: Mapping[str, Cell], preset: Preset, claims: Iterable[Claim]) -> list[Cell]:
    """Returns the chosen cells and those that the preset asks for beside its tier, parents before their children.

    These are its `also_cells` and, with `claims: true`, the cells that the claims about this preset name. Cells that
    this folder does not have are left out: a folder of the user's own need not hold the shipped ones.
    """
    claimed = [name for claim in claims if preset.claims and preset.name in claim.presets for name in claim.cells]
    asked = [name for name in (*preset.also_cells, *claimed) if name in cells]
    return select(cells, names=[*(cell.name for cell in chosen), *asked], tier="core")


class RecordedState(Section):
    """What the author's code was set to when a state of it ran, in the options of this project."""

    cell: str
    datasets: list[str]
    date: datetime.date
    commit: str
    about: str
    unrecorded: list[str] = []
    set: dict[str, Any]


class RecordedFile(Section):
    """The file of recorded configurations: what all of them share, and each."""

    shared: dict[str, Any]
    states: list[RecordedState]


def recorded_table(cells: Mapping[str, Cell], preset: Preset) -> list[str]:
    """Returns the lines of a Markdown table: how the cell that stands for each recorded state differs from it.

    Only options that the record names are compared, and only cells that `cells` holds: a study need not have them all.
    """
    path = places.packaged(RECORDED)
    file = validate(RecordedFile, load_yaml(path), where=str(path))
    lines = ["| cell | data set | recorded state | differs: recorded -> cell | not recorded |", "|---|---|---|---|---|"]
    for state in (state for state in file.states if state.cell in cells):
        wanted = flatten(merge(file.shared, state.set))
        for dataset in state.datasets:
            config = cells[state.cell].resolve(preset, dataset)
            train = config.train
            scale = {"lr": train.base_lr, "epochs": train.num_epochs, "warmup_epochs": train.warmup_epochs}
            found = flatten(merge(config.dump(), {"train": scale}))
            pairs = [(key, None if old == "none" else old, found.get(key)) for key, old in wanted.items()]
            differing = [f"`{key}`: {old} -> {new}" for key, old, new in pairs if not _equal(old, new)]
            entries = [
                f"`{state.cell}`",
                dataset,
                f"{state.date}, `T@{state.commit}`",
                "; ".join(differing) or "nothing",
            ]
            lines.append(f"| {' | '.join([*entries, ', '.join(state.unrecorded) or '-'])} |")
    return lines


def _equal(recorded: Any, found: Any) -> bool:
    if isinstance(recorded, float) and isinstance(found, float):
        return math.isclose(recorded, found)
    return bool(recorded == found)
