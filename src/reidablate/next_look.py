"""How many seeds a call asks for in a study that adds them until its comparisons are decided (`seeds=auto`).

Looks are declared with the study: once one of its runs has been scored, neither can looks be added to a fixed number of
seeds nor can their cap be changed, because whoever does so has seen how it stands.
"""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import pandas as pd

from reidablate.artifacts import read_table
from reidablate.cells import Cell
from reidablate.errors import UserError
from reidablate.planned import PlannedDataset
from reidablate.scope import Scope
from reidablate.seeds import AUTO, cap_of, look_seeds
from reidablate.settings import Settings
from reidablate.study import Selection


def with_looks(settings: Settings, scope: Scope | None, root: Path) -> Settings:
    """Returns the settings with the looks that the study has been declared with.

    Raises:
        UserError: A study with scored runs would get looks, lose them, or get others.
    """
    asked = cap_of(settings.seeds)
    if scope is None or scope.looks == asked or not any(root.glob("*/*/seed*/metrics.json")):
        return settings
    if scope.looks is None:
        raise UserError(
            f"seeds={AUTO}: {root} has a fixed number of seeds and scored runs, and looks are declared before the "
            "first score; keep the number, or start another study with --config results=FOLDER."
        )
    if settings.seeds != "preset":
        raise UserError(
            f"seeds={settings.seeds}: {root} adds seeds in looks up to {scope.looks}, and runs have been scored; leave "
            "'seeds' out, or start another study with --config results=FOLDER."
        )
    return settings.model_copy(update={"seeds": f"{AUTO}:{scope.looks}"})


def without_looks(settings: Settings) -> Settings:
    """Returns the settings of a smoke test, which has as many seeds as its preset says where they would be added."""
    return settings.model_copy(update={"seeds": "preset"}) if cap_of(settings.seeds) else settings


def asked_seeds(
    chosen: Iterable[Cell], datasets: Iterable[PlannedDataset], *, cap: int, planned: Selection, root: Path
) -> Selection:
    """Returns the runs that a call asks for: those planned so far, and where a look is over, those of the next one.

    Args:
        chosen: The cells that the call asks for, with their references.
        datasets: The data sets that it asks for.
        cap: Most seeds.
        planned: What the study has planned so far.
        root: `results/<preset>`.
    """
    cells = {cell.name: cell.seed_offset for cell in chosen}
    more = _after_this_look(root / "tables", cells, cap)
    found: Selection = {}
    for dataset in (entry.name for entry in datasets):
        before = {name: len(planned.get(dataset, {}).get(name, ())) for name in cells}
        number = {
            name: min(max(look_seeds(cap)[0], before[name], more.get(dataset, {}).get(name, 0)), cap) for name in cells
        }
        found[dataset] = {name: [offset + k for k in range(number[name])] for name, offset in cells.items()}
    return found


def notice(cap: int) -> str:
    """Returns the line of the plan and the report on a study that adds seeds."""
    *first, last = map(str, look_seeds(cap))
    return (
        f"Seeds are added until a comparison is decided: looks at {', '.join(first)} and {last} seeds, each at a level "
        "that allows for all of them."
    )


def _after_this_look(tables: Path, cells: Mapping[str, int], cap: int) -> dict[str, dict[str, int]]:
    """Returns {dataset: {cell: seeds}} of the next look, empty before there are verdicts."""
    table = pd.DataFrame()
    with suppress(UserError):  # it is made again by the next call that runs
        table = read_table(tables / "contrasts.parquet")
    if "look_seeds" not in table:
        return {}
    from reidablate.stats.looking import next_seeds
    from reidablate.stats.looks import Looks

    return next_seeds(table[table["cell"].isin(list(cells)) & table["reference"].isin(list(cells))], Looks.up_to(cap))
