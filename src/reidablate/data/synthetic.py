"""Synthetic re-identification sets: procedural pedestrians in the layouts and file grammars of the real ones.

A set is planned first (which person, which camera, which file name), from the seed alone; every image then
has its own random stream, so files are the same bits whatever the number of worker processes.
"""

import multiprocessing
import os
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from math import pi
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from reidablate.artifacts import only_writer, write_text
from reidablate.config import Counts, Style, SyntheticRecipe
from reidablate.data import scene
from reidablate.data.formats import SYNTHETIC_COMMENT as COMMENT
from reidablate.data.formats import SYNTHETIC_FILE as MARK
from reidablate.data.formats import Grammar, Split
from reidablate.data.identity import Identity, look_alike, sample_identity, sample_pose
from reidablate.data.naming import DOUBLED, Sitter, encoded, lists_of, names_of, place_of
from reidablate.data.occluders import occluder
from reidablate.data.table import layout_of
from reidablate.errors import UserError
from reidablate.rng import generator

GENERATOR_VERSION = 1
"""Raised whenever the same seed gives other images."""
ALSO_OCCLUDED: dict[Split, float] = {"train": 0.30, "gallery": 0.10}
"""Share of the training and gallery images that occluded_duke hides in part."""
OCCLUDED_AREA = (0.2, 0.4)
"""Least and greatest share of an occluded image's area that is hidden."""
FAMILY: dict[str, int] = {"market1501": 3, "occluded_duke": 2}
"""Identities come in families of this size that share most attributes."""
DRAWN_LIKE: dict[str, Literal["market1501", "occluded_duke"]] = {
    "market1501": "market1501",
    "occluded_duke": "occluded_duke",
    "dukemtmc": "market1501",
    "msmt17_v1": "market1501",
    "msmt17_v2": "market1501",
    "cuhk03_detected": "market1501",
    "cuhk03_labeled": "market1501",
    "occluded_reid": "occluded_duke",
}
"""Whose people, scenes and structure the images of a layout have."""


def official_counts(style: str) -> Counts:
    """Returns the published counts of a set as counts to draw.

    Raises:
        UserError: There is no such data set in `dataset_table`, or nothing is published about it.
    """
    published = layout_of(style).published
    if published is None:
        raise UserError(f"nothing is published about the size of '{style}'; give --counts as JSON.")
    train, query, gallery = published.train, published.query, published.gallery
    others = {"distractors": published.distractors, "junk": published.junk}
    shared = {"shared_queries": 1_870} if style == "occluded_duke" else {}
    own = gallery.images - sum(others.values())
    return Counts(train.images, train.ids, query.images, query.ids, own, gallery.ids, **others, **shared)


@dataclass(frozen=True)
class Shot:
    """One image to be made: file name, who (of which group of people), which camera, and its random stream."""

    name: str
    group: str
    person: int
    camera: int
    kind: Literal["person", "crowd", "empty", "junk"]
    occluded: bool
    key: int


@dataclass(frozen=True)
class Recipe:
    """What all images of a set have in common."""

    style: str
    population: str
    seed: int
    size: tuple[int, int]
    occluded_area: tuple[float, float]


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
    _check(style, counts, image_size, occluded_share, occluded_area, workers)
    grammar = _grammar(style)
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


def _grammar(style: str) -> Grammar:
    grammar = layout_of(style).grammar
    assert grammar is not None
    return grammar


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


def check_recipe(recipe: SyntheticRecipe) -> None:
    """Plans a set and draws nothing.

    Raises:
        UserError: No set can have these counts.
    """
    _check(recipe.style, recipe.counts, recipe.image_size, recipe.occluded_share, OCCLUDED_AREA, workers=1)
    plan(recipe.style, recipe.counts, recipe.seed, recipe.occluded_share)


def _check(
    style: str,
    counts: Counts,
    size: tuple[int, int],
    share: float,
    area: tuple[float, float],
    workers: int,
) -> None:
    c = counts
    tested = bool(c.query_images or c.gallery_images)
    known = get_args(Style)
    if style not in known:
        raise UserError(f"cannot synthesize: style {style!r} is unknown; choose one of {', '.join(known)}.")
    untrained = "train" not in _grammar(style).folders
    demands = [
        (min(asdict(c).values()) >= 0, "counts cannot be negative"),
        (
            untrained or (c.train_ids >= 1 and c.train_images >= 2 * c.train_ids),
            "training needs at least two images an identity",
        ),
        (not untrained or not (c.train_ids or c.train_images), f"{style} has no training images"),
        (not untrained or tested, f"{style} needs a query and a gallery"),
        (not tested or 1 <= c.query_ids <= c.query_images, "queries need at least one image an identity"),
        (not tested or c.query_ids <= c.gallery_ids, "every query identity must be in the gallery: raise gallery_ids"),
        (c.shared_queries <= c.query_images, "shared_queries cannot exceed query_images"),
        (style == "occluded_duke" or not c.shared_queries, "only occluded_duke has shared queries"),
        (style == "market1501" or not (c.distractors or c.junk), "only market1501 has distractors and junk"),
        (tested or not (c.distractors or c.junk), "distractors and junk need a query and a gallery"),
        (c.train_ids + c.gallery_ids <= 9_999, "file names have room for 9,999 identities"),
        (min(size) >= 16 and size[0] >= size[1], f"image_size {size} must be (height, width), upright, 16 px or more"),
        (0 <= share <= 1, f"occluded_share {share} is outside 0..1"),
        (0 < area[0] <= area[1] <= 0.6, f"occluded_area {area} must be (least, greatest) within (0, 0.6]"),
        (workers >= 1, f"workers {workers} must be 1 or more"),
    ]
    for holds, complaint in demands:
        if not holds:
            raise UserError(f"cannot synthesize: {complaint}.")


def _refuse_foreign(folder: Path) -> None:
    for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
        if path.is_dir():
            continue
        if not path.is_file():
            raise UserError(f"{path} is not a regular file; choose an empty folder to synthesize into.")
        with path.open("rb") as stream:
            if COMMENT.encode() not in stream.read(4096):
                raise UserError(f"{path} was not written by this generator; choose an empty folder to synthesize into.")


def spread(rng: np.random.Generator, total: int, low: NDArray[np.int64], high: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns integers between `low` and `high` (elementwise) that sum to `total`, unevenly spread at random."""
    if not low.sum() <= total <= high.sum():
        raise UserError(
            f"cannot synthesize: {total} images cannot be shared out to {len(low)} identities, which need"
            f" {low.sum()} to {high.sum()}; change the counts."
        )
    weights = rng.gamma(3.0, size=len(low))
    numbers = low.copy()
    while (rest := total - int(numbers.sum())) > 0:
        room = weights * (numbers < high)
        numbers = np.minimum(high, numbers + rng.multinomial(rest, room / room.sum()))
    return numbers


def plan(style: Style, counts: Counts, seed: int, occluded_share: float) -> dict[Split, list[Shot]]:
    """Returns the images of every split; identities of train and test are disjoint people with disjoint pids."""
    drawn = DRAWN_LIKE[style]
    rng = generator(seed, f"{counts.population} plan {drawn}")
    total = counts.train_images + counts.query_images + counts.gallery_images + counts.distractors + counts.junk
    pids = 1 + rng.permutation(counts.train_ids + counts.gallery_ids)
    book = _Book(drawn, rng, rng.permutation(max(1_000_000, total)), _grammar(style).cameras)
    train = spread(rng, counts.train_images, np.full(counts.train_ids, 2), np.full(counts.train_ids, total))
    shots: dict[Split, list[Shot]] = {"train": [], "query": [], "gallery": []}
    for person, number in enumerate(train):
        cameras = book.cameras(int(rng.integers(2, book.num_cameras + 1)), int(number))
        shots["train"] += [book.shot("train", person, pids[person], camera) for camera in cameras]
    if counts.gallery_images:
        _plan_test(book, counts, pids[counts.train_ids :], shots, occluded_share)
    if drawn == "occluded_duke":
        queries = {shot.key for shot in shots["query"]}  # a shared file stays as it is in the query folder
        for split, share in ALSO_OCCLUDED.items():
            book.occlude(shots[split], [shot.key for shot in shots[split] if shot.key not in queries], share)
    if style != drawn:
        return _renamed(style, shots)
    if style == "market1501" and counts == official_counts(style):
        return _with_doubled_endings(shots)
    return shots


def _renamed(style: Style, shots: dict[Split, list[Shot]]) -> dict[Split, list[Shot]]:
    """Returns the images under names of another data set than the one whose drawing they share."""
    sitters = {
        split: [Sitter(int(shot.name.partition("_")[0]), shot.person, shot.camera) for shot in planned]
        for split, planned in shots.items()
    }
    names = names_of(style, sitters)
    return {
        split: [replace(shot, name=name) for shot, name in zip(planned, names[split], strict=True)]
        for split, planned in shots.items()
    }


def _with_doubled_endings(shots: dict[Split, list[Shot]]) -> dict[Split, list[Shot]]:
    """Returns the images of Market-1501 with as many names ending in `.jpg.jpg` as the published archive has."""
    chosen: set[int] = set()
    for kind, split, number in (("person", "query", DOUBLED["query"]), ("person", "gallery", DOUBLED["gallery"]),
                                ("junk", "gallery", DOUBLED["junk"])):  # fmt: skip
        keys = [shot.key for shot in shots[split] if shot.kind == kind]  # type: ignore[index]
        chosen.update(keys[i * len(keys) // number] for i in range(number))
    return {
        split: [replace(shot, name=f"{shot.name}.jpg") if shot.key in chosen else shot for shot in planned]
        for split, planned in shots.items()
    }


class _Book:
    """Hands out cameras, names and random streams while a set is planned."""

    def __init__(self, style: str, rng: np.random.Generator, frames: NDArray[np.int64], num_cameras: int) -> None:
        self.style, self.rng, self.frames, self.num_cameras = style, rng, frames, num_cameras
        self.key = 0

    def cameras(self, distinct: int, number: int) -> list[int]:
        """Returns `number` cameras, of which min(distinct, number) are different ones."""
        distinct = min(distinct, number)
        chosen = self.rng.permutation(self.num_cameras)[:distinct]
        return [int(c) for c in chosen] + [int(c) for c in self.rng.choice(chosen, number - distinct)]

    def shot(self, group: str, person: int, pid: int, camera: int, kind: str = "person", box: int = -1) -> Shot:
        """Returns the next image, named in the grammar of the style."""
        frame = int(self.frames[self.key])
        self.key += 1
        if self.style == "market1501":
            box = box if box >= 0 else int(self.rng.integers(1, 8))
            label = "-1" if pid < 0 else f"{pid:04d}"
            name = f"{label}_c{camera + 1}s{self.rng.integers(1, 7)}_{frame:06d}_{box:02d}.jpg"
        else:
            name = f"{pid:04d}_c{camera + 1}_f{frame:07d}.jpg"
        return Shot(name, group, int(person), camera, kind, False, self.key)  # type: ignore[arg-type]

    def occlude(self, shots: list[Shot], among: list[int], share: float) -> None:
        """Marks round(share * number) of the images whose key is in `among` as occluded."""
        chosen = set(self.rng.permutation(among)[: round(share * len(among))].tolist())
        shots[:] = [Shot(**{**asdict(s), "occluded": s.occluded or s.key in chosen}) for s in shots]


def _plan_test(
    book: _Book, counts: Counts, pids: NDArray[np.int64], shots: dict[Split, list[Shot]], occluded_share: float
) -> None:
    rng, ids = book.rng, counts.gallery_ids
    queried = rng.permutation(ids)[: counts.query_ids]
    # Market-1501 has at most one query per person and camera, Occluded-Duke several from one or two cameras.
    most = book.num_cameras if book.style == "market1501" else counts.query_images
    queries = np.zeros(ids, dtype=np.int64)
    queries[queried] = spread(rng, counts.query_images, np.ones(counts.query_ids, int), np.full(counts.query_ids, most))
    distinct = rng.integers(2, max(3, book.num_cameras - 1), ids)
    least = np.full(ids, 2)
    if book.style == "market1501":  # every camera of a query has gallery images of the person too
        distinct = np.where(queries > 0, np.maximum(2, queries), distinct)
        least = np.where(queries > 0, distinct, 2)
    images = counts.gallery_images - counts.shared_queries
    own = spread(rng, images, least, np.full(ids, images))
    for person in range(ids):
        cameras = book.cameras(int(distinct[person]), int(own[person]))
        shots["gallery"] += [book.shot("test", person, pids[person], camera) for camera in cameras]
        seen = list(dict.fromkeys(cameras))
        if book.style == "occluded_duke":
            seen = seen[: int(rng.integers(1, 3))]
        for number in range(int(queries[person])):
            shots["query"].append(book.shot("test", person, pids[person], seen[number % len(seen)], box=0))
    if book.style == "occluded_duke":
        book.occlude(shots["query"], [shot.key for shot in shots["query"]], occluded_share)
    shared = rng.permutation(counts.query_images)[: counts.shared_queries]
    shots["gallery"] += [shots["query"][index] for index in shared]
    for number in range(counts.distractors):
        kind = "empty" if number % 5 < 2 else "crowd"
        shots["gallery"].append(book.shot("crowd", number, 0, int(rng.integers(book.num_cameras)), kind))
    for _ in range(counts.junk):
        camera = int(rng.integers(book.num_cameras))
        shots["gallery"].append(book.shot("test", int(rng.integers(ids)), -1, camera, "junk"))


@lru_cache(maxsize=16)
def _camera(recipe: Recipe, index: int) -> scene.Camera:
    rng = generator(recipe.seed, f"{recipe.population} camera {recipe.style}", index)
    return scene.sample_camera(rng, recipe.size, index)


@lru_cache(maxsize=8192)
def _identity(recipe: Recipe, group: str, index: int) -> Identity:
    purpose = f"{recipe.population} {group} identity {recipe.style}"
    family, member = divmod(index, FAMILY[recipe.style])
    founder = sample_identity(generator(recipe.seed, purpose, family))
    if member == 0:
        return founder
    return look_alike(founder, generator(recipe.seed, f"{purpose} look-alike", index))


def render(recipe: Recipe, shot: Shot) -> bytes:
    """Returns the file of one planned image, in the format that its name states."""
    rng = generator(recipe.seed, f"{recipe.population} image {recipe.style}", shot.key)
    camera = _camera(recipe, shot.camera)
    canvas = scene.background(rng, camera, recipe.size)
    foot = (0.5 + rng.normal(0, 0.035), 0.97 + rng.normal(0, 0.02))
    unit = 0.96 * float(np.exp(rng.normal(0, 0.06)))
    if shot.kind == "junk":
        unit, foot = unit * rng.uniform(1.7, 2.8), (rng.uniform(0.1, 0.9), rng.uniform(1.1, 2.4))
    elif shot.kind == "crowd":
        unit, foot = unit * rng.uniform(0.8, 1.5), (rng.uniform(0.25, 0.75), rng.uniform(0.9, 1.4))
    elif rng.random() < 0.08:  # the detector lost the feet, or more
        unit, foot = unit * rng.uniform(1.1, 1.4), (foot[0], rng.uniform(1.05, 1.4))
    if shot.kind != "empty":
        person = _identity(recipe, shot.group, shot.person)
        habit = generator(
            recipe.seed, f"{recipe.population} walk {shot.group} {recipe.style}", shot.person, shot.camera
        )
        view = camera.view + habit.normal(0, 0.7) + rng.normal(0, 0.25) + pi * (rng.random() < 0.08)
        pose = sample_pose(rng, view)
        drawing, shadow = scene.draw_person(rng, person, pose, recipe.size, foot=foot, unit=unit)
        canvas = scene.over(canvas * (1 - shadow[..., None]), scene.volume(drawing, camera.light))
    comment = f"{COMMENT} v{GENERATOR_VERSION} seed={recipe.seed}"
    if shot.occluded:
        hidden = occluder(rng, recipe.size, rng.uniform(*recipe.occluded_area), foot[0])
        canvas = scene.over(canvas, hidden)
        comment += f" occluded={float(hidden[..., 3].mean()):.3f}"
    return encoded(scene.encode(scene.expose(rng, camera, canvas), camera.quality, comment), shot.name, comment)


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
