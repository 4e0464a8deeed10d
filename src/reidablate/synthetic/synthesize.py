"""Writes synthetic re-identification sets: procedural pedestrians in the layouts and file grammars of the real ones.

A set is planned first (which person, which camera, which file name), from the seed alone; every image then
has its own random stream, so files are the same bits whatever the number of worker processes.
"""

import multiprocessing
import os
import shutil
from collections.abc import Iterable
from dataclasses import asdict
from functools import partial
from pathlib import Path

from rich.progress import track

from reidablate.artifacts import only_writer, write_text
from reidablate.config import Counts, Style, SyntheticRecipe
from reidablate.data.formats import SYNTHETIC_COMMENT as COMMENT
from reidablate.data.formats import SYNTHETIC_FILE as MARK
from reidablate.data.formats import Grammar, Split
from reidablate.errors import UserError
from reidablate.synthetic.naming import lists_of, place_of
from reidablate.synthetic.plan import DRAWN_LIKE, OCCLUDED_AREA, Shot, check_arguments, grammar_of, plan
from reidablate.synthetic.render import GENERATOR_VERSION, Recipe, render


def synthesize(
    root: Path,
    style: Style,
    *,
    counts: Counts,
    seed: int,
    image_size: tuple[int, int],
    occluded_share: float,
    workers: int,
    occluded_area: tuple[float, float] = OCCLUDED_AREA,
) -> None:
    """Writes a synthetic set in the layout of `style` under `root`, each folder whole or not at all.

    The file `SYNTHETIC` is written last: a root without it is unfinished. The same set is left alone; folders of
    another synthetic set are replaced; a folder with images that do not carry our mark is never touched.

    Args:
        root: Folder that gets the folders of the data set, such as `bounding_box_train`, and its lists.
        style: Data set whose layout, file names, number of cameras and kind of clutter it has.
        counts: Exact numbers of images and identities.
        seed: Every file follows from it.
        image_size: (height, width) in pixels.
        occluded_share: Share of the queries, in [0, 1], that an object hides in part; market1501 has no such objects.
        workers: Number of processes.
        occluded_area: Least and greatest share of an occluded image's area that is hidden, within (0, 0.6].

    Raises:
        UserError: An argument is out of range, counts contradict each other, or `root` holds foreign images.
    """
    check_arguments(style, counts, image_size, occluded_share, occluded_area, workers)
    grammar = grammar_of(style)
    splits = grammar.splits if counts.gallery_images else ("train",)
    drawn = DRAWN_LIKE[style]
    recipe = Recipe(drawn, counts.population, seed, image_size, occluded_area)
    shots = plan(style, counts, seed, occluded_share)
    folders = _folders(grammar, {split: shots[split] for split in splits})
    for folder in folders:
        _refuse_foreign(root / folder)
    facts = {"style": style, "seed": seed, "generator_version": GENERATOR_VERSION, "image_size": image_size,
             **asdict(counts)}  # fmt: skip
    if drawn == "occluded_duke":
        facts |= {"occluded_share": occluded_share, "occluded_area": occluded_area}
    lines = ["Procedural pedestrians written by reidablate: drawings, no photographs, no real people.", ""]
    mark = "\n".join(lines + [f"{key}: {value}" for key, value in facts.items()]) + "\n"
    with only_writer(root, "synthesize"):
        if _is_whole(root, mark, folders):
            return
        (root / MARK).unlink(missing_ok=True)
        for folder, files in folders.items():
            _write_folder(root / folder, recipe, files, workers)
        for name, text in lists_of({split: [shot.name for shot in shots[split]] for split in splits}, grammar).items():
            write_text(root / name, text)
        write_text(root / MARK, mark)


def synthesize_recipe(root: Path, recipe: SyntheticRecipe, *, workers: int) -> None:
    """Writes the set that a recipe decides; see `synthesize`.

    Raises:
        UserError: What `synthesize` refuses.
    """
    synthesize(
        root,
        recipe.style,
        counts=recipe.counts,
        seed=recipe.seed,
        image_size=recipe.image_size,
        occluded_share=recipe.occluded_share,
        workers=workers,
    )


def _folders(grammar: Grammar, shots: dict[Split, list[Shot]]) -> dict[str, dict[str, Shot]]:
    """Returns {folder: {path below it: image}}; query and gallery may share a folder."""
    folders: dict[str, dict[str, Shot]] = {}
    for split, planned in shots.items():
        files = folders.setdefault(grammar.folders[split], {})
        files.update((place_of(shot.name, grammar), shot) for shot in planned)
    return folders


def _is_whole(root: Path, mark: str, folders: dict[str, dict[str, Shot]]) -> bool:
    """Whether this very set is there already, left by another process that this one waited for."""
    if not (root / MARK).is_file() or (root / MARK).read_text(encoding="utf-8") != mark:
        return False
    return all(_files_below(root / folder) == files.keys() for folder, files in folders.items())


def _files_below(folder: Path) -> set[str]:
    walked = os.walk(folder)
    return {Path(place, name).relative_to(folder).as_posix() for place, _, names in walked for name in names}


def _refuse_foreign(folder: Path) -> None:
    for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
        if path.is_dir():
            continue
        if not path.is_file():
            raise UserError(f"{path} is not a regular file; choose an empty folder to synthesize into.")
        with path.open("rb") as stream:
            if COMMENT.encode() not in stream.read(4096):
                raise UserError(f"{path} was not written by this generator; choose an empty folder to synthesize into.")


def _write(recipe: Recipe, folder: Path, file: tuple[str, Shot]) -> None:
    place, shot = file
    (folder / place).write_bytes(render(recipe, shot))


def _write_folder(folder: Path, recipe: Recipe, files: dict[str, Shot], workers: int) -> None:
    partial_folder = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial_folder, ignore_errors=True)
    try:
        partial_folder.mkdir(parents=True)
        for below in sorted({(partial_folder / place).parent for place in files} - {partial_folder}):
            below.mkdir()
        write = partial(_write, recipe, partial_folder)
        if workers == 1:
            _drain(map(write, files.items()), folder.name, len(files))
        else:
            # spawn: no lock or thread of the calling process is copied into a worker
            with multiprocessing.get_context("spawn").Pool(workers) as pool:
                _drain(pool.imap_unordered(write, files.items(), chunksize=32), folder.name, len(files))
        os.sync()
        shutil.rmtree(folder, ignore_errors=True)
        partial_folder.rename(folder)
    except OSError as error:
        raise UserError(
            f"cannot write {folder}: {error.strerror}; free the disk or fix the folder's rights."
        ) from error
    finally:
        shutil.rmtree(partial_folder, ignore_errors=True)


def _drain(results: Iterable[None], title: str, total: int) -> None:
    for _ in track(results, description=title, total=total):
        pass
