"""Jitter: options of the recipe that a preset draws anew for every seed, the same in every cell.

A comparison at one recipe may hold for that recipe alone. Where each seed draws its own, the paired differences vary
with the recipe as well, so their interval covers it, and the estimate is the mean difference over recipes.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from reidablate.config import Preset, RunConfig, nearest, validate
from reidablate.distributions import draw
from reidablate.errors import UserError
from reidablate.planned import PlannedCell
from reidablate.rng import generator
from reidablate.trees import flatten, merge, nested

SECTIONS = ("losses", "train")
Recipe = dict[str, Any]  # option -> value


def recipe(jitter: Mapping[str, str], seed: int) -> Recipe:
    """Returns what a seed draws for each option, from a stream of the seed that the option names."""
    return {option: draw(written, generator(seed, f"jitter/{option}")) for option, written in jitter.items()}


def with_recipe(config: RunConfig, seed: int, *, where: str) -> RunConfig:
    """Returns the configuration that a run of a seed computes with; as it is where nothing is drawn.

    Raises:
        UserError: A drawn value is none that the option may have.
    """
    if not config.jitter:
        return config
    options = config.dump()
    for option, value in recipe(config.jitter, seed).items():
        options = merge(options, nested(option, value))
    return validate(RunConfig, {**options, "jitter": {}}, where=f"{where}, jitter, seed {seed}")


def check_recipes(preset: Preset, cells: Iterable[PlannedCell], seeds: Iterable[int]) -> None:
    """Checks that what is drawn is an option that every cell has, with the preset's value, and may have what is drawn.

    Args:
        preset: The preset.
        cells: The cells of the study.
        seeds: Their seeds.

    Raises:
        UserError: Naming the option, the cell and what to do.
    """
    if not preset.jitter:
        return
    where = f"preset '{preset.name}', jitter"
    base = {"model": preset.model, "losses": preset.losses, "train": preset.train}
    common = flatten(validate(RunConfig, base, where=f"preset '{preset.name}'").dump())
    for option in preset.jitter:
        if option.split(".")[0] not in SECTIONS or option not in common:
            known = [name for name in common if name.split(".")[0] in SECTIONS]
            raise UserError(f"{where}: the preset has no '{option}' in losses or train; {nearest(option, known)}")
    drawn = sorted(set(seeds))
    for cell in cells:
        if cell.external:
            raise UserError(f"{where}: another code base trains {cell.name} and draws no recipe; leave it out.")
        for config in (cell.config, *(special.config for special in cell.by_dataset.values())):
            found = flatten(config.dump())
            for option in preset.jitter:
                _check_option(where, option, cell.name, found, common[option])
            for seed in drawn:
                with_recipe(config, seed, where=f"{where}, cell {cell.name}")


def _check_option(where: str, option: str, cell: str, found: Mapping[str, Any], common: Any) -> None:
    if option not in found:
        raise UserError(
            f"{where}: {cell} has no {option}, and a recipe is the same in every cell; take the option out of "
            "'jitter', or the cell out of the study."
        )
    if found[option] != common:
        raise UserError(
            f"{where}: {cell} sets {option} itself ({found[option]} against {common}), so it cannot be drawn; take it "
            "out of 'jitter', or the cell out of the study."
        )


def notice(jitter: Mapping[str, str]) -> str:
    """Returns the line of the plan and the report that says what is estimated."""
    drawn = " and ".join(f"{option} from {written}" for option, written in jitter.items())
    return (
        f"Each seed draws its own recipe, the same in every cell: {drawn}. A difference is the mean over recipes, and "
        "its interval covers them; the notes show it in each."
    )
