"""Which images a synthetic set has: of each its person, its camera, its file name and whether something hides it.

It follows from the seed alone, before anything is drawn.
"""

from dataclasses import asdict, dataclass, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from reidablate.config import Counts, Style, SyntheticRecipe
from reidablate.data.formats import Grammar, Split
from reidablate.data.table import layout_of
from reidablate.errors import UserError
from reidablate.rng import generator
from reidablate.synthetic.naming import DOUBLED, Sitter, names_of

ALSO_OCCLUDED: dict[Split, float] = {"train": 0.30, "gallery": 0.10}
"""Share of the training and gallery images that occluded_duke hides in part."""
OCCLUDED_AREA = (0.2, 0.4)
"""Least and greatest share of an occluded image's area that is hidden."""
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


def check_recipe(recipe: SyntheticRecipe) -> None:
    """Plans a set and draws nothing.

    Raises:
        UserError: No set can have these counts.
    """
    check_arguments(recipe.style, recipe.counts, recipe.image_size, recipe.occluded_share, OCCLUDED_AREA, workers=1)
    plan(recipe.style, recipe.counts, recipe.seed, recipe.occluded_share)


def check_arguments(
    style: str,
    counts: Counts,
    size: tuple[int, int],
    share: float,
    area: tuple[float, float],
    workers: int,
) -> None:
    """Refuses arguments of `synthesize` that no set can have.

    Raises:
        UserError: One is out of range, or counts contradict each other.
    """
    c = counts
    tested = bool(c.query_images or c.gallery_images)
    known = get_args(Style)
    if style not in known:
        raise UserError(f"cannot synthesize: style {style!r} is unknown; choose one of {', '.join(known)}.")
    untrained = "train" not in grammar_of(style).folders
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


def grammar_of(style: str) -> Grammar:
    """Returns the file names and folders of the data set that a style imitates."""
    grammar = layout_of(style).grammar
    assert grammar is not None
    return grammar


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
    book = _Book(drawn, rng, rng.permutation(max(1_000_000, total)), grammar_of(style).cameras)
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
