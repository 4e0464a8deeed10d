"""Simulated experiments with a known truth, for `calibration` and `families`.

Shapes: E experiments, S seeds, Q queries, P (identity, camera) pairs, G identities.

An experiment draws the scores of cells on a test set with the size and the identity and camera structure of a real
one. Effects of zero mean matter: two systems that do equally well on average but on different identities differ on any
one test set, and an interval that forgets this finds a difference that is not there. Comparing identical systems cannot
show it.

Two shapes of score. `normal`: D = gain + seed + identity + interaction + pair, normal, which is the model the interval
was derived from. `skewed`: each score is Phi(latent), between 0 and 1 and piled up near 1, with the latent a sum of the
query's difficulty and the same effects drawn for each cell. Since E Phi(a + b Z) = Phi(a / sqrt(1 + b^2)), its true
mean is known exactly.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from reidablate.rng import generator
from reidablate.stats.paired import Array

MOST = {3: 0.075, 5: 0.065, 10: 0.065}
"""Most that a nominal 5 % may reject without a true difference, for one contrast and for a family, by seeds."""

_CHUNK = 500_000  # scores drawn at once; small enough for the processor's cache


@dataclass(frozen=True)
class Structure:
    """The structure of a test set: how its queries fall into (identity, camera) pairs and identities."""

    mean: float  # mean AP to simulate, a fraction
    queries: NDArray[np.int64]  # queries of each pair, (P,)
    pairs: NDArray[np.int64]  # pairs of each identity, (G,)

    @property
    def counts(self) -> Array:
        """Queries of each identity, (G,)."""
        return np.add.reduceat(self.queries, _starts(self.pairs)).astype(np.float64)


@dataclass(frozen=True)
class Effects:
    """Standard deviations of the difference, in points: of a seed, and per identity and pair.

    `identity` is the same on every seed, `interaction` is an identity's own move on each seed, `pair` that of the
    queries of one identity and camera.
    """

    seed: float
    identity: float
    interaction: float
    pair: float


@dataclass(frozen=True)
class Setting:
    """One row block of the calibration table."""

    test_set: str
    shape: Literal["normal", "skewed"]
    effects: str
    seeds: int


# From public reports: a run's mAP varies with a standard deviation of 0.1-0.3 points on Market-1501 and 0.3-0.5 on
# Occluded-Duke. `weak` puts the identity variance near a quarter of the seed variance at 5 seeds, where the interval
# is known to be most liberal. `training` has nothing but seeds: where a bootstrap of few seeds shows its worst.
EFFECTS: dict[str, dict[str, Effects]] = {
    "market1501": {
        "training": Effects(seed=0.3, identity=0.0, interaction=0.5, pair=1.0),
        "none": Effects(seed=0.15, identity=0.0, interaction=2.0, pair=3.0),
        "weak": Effects(seed=0.25, identity=1.5, interaction=2.0, pair=3.0),
        "typical": Effects(seed=0.15, identity=2.5, interaction=2.0, pair=3.0),
    },
    "occluded_duke": {
        "training": Effects(seed=0.5, identity=0.0, interaction=1.0, pair=2.0),
        "none": Effects(seed=0.3, identity=0.0, interaction=4.0, pair=6.0),
        "weak": Effects(seed=0.5, identity=2.0, interaction=4.0, pair=6.0),
        "typical": Effects(seed=0.3, identity=6.0, interaction=4.0, pair=6.0),
    },
}


def settings(seeds: Sequence[int] = (3, 5, 10)) -> list[Setting]:
    """Returns every setting of the calibration table: test set, shape, effects and number of seeds."""
    return [
        Setting(name, shape, effects, count)
        for name in EFFECTS
        for shape in ("normal", "skewed")
        for effects in EFFECTS[name]
        for count in seeds
    ]


def structure_of(name: str) -> Structure:
    """Returns the structure of a test set with the real number of queries, identities and (identity, camera) pairs.

    Market-1501: 3,368 queries of 750 identities, one a camera, at most 6. Occluded-Duke: 2,210 queries of 519
    identities in 858 pairs, at most 8 cameras. How they are spread within these totals is drawn once: the rest of the
    cameras falls on any identity alike, the rest of the queries on pairs with geometric weights, so some are large.
    """
    rng = generator(0, f"calibration/{name}")
    if name == "market1501":
        return Structure(0.93, np.ones(3368, dtype=np.int64), _spread(3368, 750, 6, np.ones(750), rng))
    assert name == "occluded_duke", name
    pairs = _spread(858, 519, 8, np.ones(519), rng)
    return Structure(0.63, _spread(2210, 858, 2210, rng.standard_exponential(858), rng), pairs)


def simulate(
    setting: Setting, gain_points: float, experiments: int, *, rng: np.random.Generator
) -> Iterator[tuple[Array, Array]]:
    """Yields (sums of D over each identity (E, S, G), queries of each identity (G,)) until `experiments` are drawn."""
    structure = structure_of(setting.test_set)
    effects = EFFECTS[setting.test_set][setting.effects]
    draw = _draw_skewed if setting.shape == "skewed" else _draw_normal
    size = max(1, _CHUNK // (setting.seeds * len(structure.queries)))
    for start in range(0, experiments, size):
        number = min(size, experiments - start)
        yield draw(structure, effects, setting.seeds, gain_points / 100, number, rng), structure.counts


def _draw_normal(
    structure: Structure, effects: Effects, seeds: int, gain: float, number: int, rng: np.random.Generator
) -> Array:
    """Returns sums of normal differences, (E, S, G)."""
    counts = structure.counts
    squares = np.add.reduceat(np.square(structure.queries), _starts(structure.pairs))
    per_query = gain + effects.seed / 100 * rng.standard_normal((number, seeds, 1))
    per_query = per_query + effects.identity / 100 * rng.standard_normal((number, 1, len(counts)))
    moving = np.sqrt(np.square(effects.interaction * counts) + effects.pair**2 * squares) / 100
    return np.asarray(counts * per_query + moving * rng.standard_normal((number, seeds, len(counts))))


def _draw_skewed(
    structure: Structure, effects: Effects, seeds: int, gain: float, number: int, rng: np.random.Generator
) -> Array:
    """Returns sums of differences of scores Phi(latent), (E, S, G)."""
    sums = skewed_cells(structure, effects, seeds, [structure.mean + gain, structure.mean], number, rng)
    return sums[:, 0] - sums[:, 1]


def normal_cells(
    structure: Structure, effects: Effects, seeds: int, num_cells: int, number: int, rng: np.random.Generator
) -> Array:
    """Returns sums of normal scores of equally good cells over each identity, (E, cells, S, G).

    The effects are those of a difference, so those of one cell are smaller by the root of two.
    """
    counts = structure.counts
    squares = np.add.reduceat(np.square(structure.queries), _starts(structure.pairs))
    unit = 1 / 100 / np.sqrt(2)
    per_query = unit * effects.seed * rng.standard_normal((number, num_cells, seeds, 1))
    per_query = per_query + unit * effects.identity * rng.standard_normal((number, num_cells, 1, len(counts)))
    moving = unit * np.sqrt(np.square(effects.interaction * counts) + effects.pair**2 * squares)
    return np.asarray(counts * per_query + moving * rng.standard_normal((number, num_cells, seeds, len(counts))))


def skewed_cells(
    structure: Structure,
    effects: Effects,
    seeds: int,
    means: Sequence[float],
    number: int,
    rng: np.random.Generator,
) -> Array:
    """Returns sums of scores Phi(latent) of cells with these true means over each identity, (E, cells, S, G).

    A latent standard deviation is the wanted one in points over the slope of the mean score, shared by two cells.
    """
    of_query = np.repeat(np.arange(len(structure.queries)), structure.queries)
    of_pair = np.repeat(np.arange(len(structure.pairs)), structure.pairs)
    firsts = _starts(structure.counts.astype(np.int64))
    difficulty = 1.5
    slope = stats.norm.pdf(special.ndtri(structure.mean)) / np.sqrt(1 + difficulty**2)
    sds = {name: value / 100 / slope / np.sqrt(2) for name, value in vars(effects).items()}
    spread = np.sqrt(1 + difficulty**2 + sum(sd**2 for sd in sds.values()))

    def normal(*shape: int, sd: float) -> NDArray[np.float32]:
        return np.float32(sd) * rng.standard_normal((number, *shape), dtype=np.float32)

    # Half of the difficulty's variance belongs to the identity, half to the query.
    hard = normal(1, len(structure.pairs), sd=difficulty / np.sqrt(2))[..., of_pair][..., of_query]
    hard += normal(1, len(of_query), sd=difficulty / np.sqrt(2))
    sums: list[Array] = []
    for mean in means:
        effect = normal(seeds, 1, sd=sds["seed"]) + normal(1, len(structure.pairs), sd=sds["identity"])
        effect = effect + normal(seeds, len(structure.pairs), sd=sds["interaction"])
        effect = effect[..., of_pair] + normal(seeds, len(structure.queries), sd=sds["pair"])
        latent = effect[..., of_query] if len(of_query) != len(structure.queries) else effect
        latent += hard + np.float32(special.ndtri(mean) * spread)
        sums.append(np.add.reduceat(special.ndtr(latent), firsts, axis=-1).astype(np.float64))
    return np.stack(sums, axis=1)


def _starts(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns where each of consecutive blocks of these sizes begins."""
    return np.concatenate([[0], np.cumsum(sizes)[:-1]])


def _spread(total: int, units: int, most: int, weights: Array, rng: np.random.Generator) -> NDArray[np.int64]:
    """Returns `units` whole numbers from 1 to `most` that sum to `total`, the rest falling by the weights."""
    sizes = np.ones(units, dtype=np.int64)
    while (missing := total - int(sizes.sum())) > 0:
        open_units = np.where(sizes < most, weights, 0.0)
        sizes += rng.multinomial(missing, open_units / open_units.sum())
        sizes = np.minimum(sizes, most)
    return sizes
