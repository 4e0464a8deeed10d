"""What choosing by the test set does to a gain that is not there, and what `tune` does.

    python bench/tuning.py [--studies 4000]

A sweep of equally good configurations: none differs from the reference in truth. Their scores are simulated on a test
set with the structure of the real one, as in `reidablate stats calibrate`, and on held-out identities, a tenth as many
as are trained on. The best is chosen in three ways, and its gain on the test set gets the interval of the package:
`first` does not look at all, `tune` chooses by the mean on the held-out identities with the package's own rule, and
`best of n` by the mean on the test set itself.

Simulated is that a configuration is better on some people and worse on others, and that trainings differ by luck; luck
on the held-out identities is not carried over to the test set, as the winner is another training on other images.
"""

import argparse
from collections.abc import Iterator
from typing import Any

import contest
import numpy as np
from numpy.typing import NDArray

from reidablate.rng import generator
from reidablate.stats.intervals import two_way
from reidablate.stats.paired import paired_components
from reidablate.stats.simulation import EFFECTS, Structure, normal_cells, structure_of
from reidablate.tuning import Tried, winner

Array = NDArray[np.float64]
OUT = contest.RESULTS / "tuning.json"
HELD_OUT = {"market1501": 75, "occluded_duke": 70}  # a tenth of the training identities
SEEDS = 5
AT_ONCE = 50


def held_out(structure: Structure, identities: int) -> Structure:
    """Returns the structure of some of the identities of a test set; how many cameras see one is alike in both."""
    pairs = structure.pairs[:identities]
    return Structure(structure.mean, structure.queries[: int(pairs.sum())], pairs)


def by_rule(scores: Array) -> int:
    """Returns the place of the candidate that `tune` chooses by scores (n, S)."""
    candidates = [Tried(str(i), dict(enumerate(map(float, of))), [], []) for i, of in enumerate(scores)]
    return int(winner(candidates) or 0)


def studies(test_set: str, n: int, number: int) -> Iterator[tuple[dict[str, Array], Array]]:
    """Yields, a few studies at a time, each choice minus the reference, sums (E, S, G), and the queries (G,)."""
    whole = structure_of(test_set)
    part, effects = held_out(whole, HELD_OUT[test_set]), EFFECTS[test_set]["typical"]
    rng = generator(0, f"bench/tuning/{test_set}", n)
    for start in range(0, number, AT_ONCE):
        size = min(AT_ONCE, number - start)
        cells = normal_cells(whole, effects, SEEDS, n + 1, size, rng)
        looked_at = normal_cells(part, effects, SEEDS, n, size, rng).sum(axis=-1) / part.counts.sum()
        choices = {
            "first": np.zeros(size, np.int64),
            "tune": np.array([by_rule(scores) for scores in looked_at]),
            "best of n": cells[:, 1:].sum(axis=(2, 3)).argmax(axis=1),
        }
        own = np.arange(size)
        yield {way: cells[own, 1 + place] - cells[:, 0] for way, place in choices.items()}, whole.counts


def measure(test_set: str, n: int, number: int) -> dict[str, Any]:
    """Returns for each way of choosing the mean gain, in points, and how often its interval leaves zero out."""
    found: dict[str, list[Array]] = {}
    for differences, counts in studies(test_set, n, number):
        for way, sums in differences.items():
            parts = paired_components(sums, counts)
            interval = two_way(parts)
            found.setdefault(way, []).append(np.stack([parts.estimate, interval.low, interval.high]))
    entry: dict[str, Any] = {"seeds": SEEDS, "studies": number}
    for way, blocks in found.items():
        gain, low, high = np.concatenate(blocks, axis=1)
        entry[way] = {
            "gain_points": 100 * float(gain.mean()),
            "standard_error_points": 100 * float(gain.std(ddof=1)) / number**0.5,
            "improves": float((low > 0).mean()),
            "worsens": float((high < 0).mean()),
            "holds_zero": float(((low <= 0) & (high >= 0)).mean()),
        }
    return entry


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--studies", type=int, default=4000, help="studies simulated for each setting")
    arguments = options.parse_args()
    for test_set in HELD_OUT:
        for n in (4, 16, 64):
            entry = measure(test_set, n, arguments.studies)
            for way in ("first", "tune", "best of n"):
                gain, improves, zero = (entry[way][key] for key in ("gain_points", "improves", "holds_zero"))
                print(f"{test_set}, {n} configurations, {way}: gain {gain:+.3f} points, improves in "
                      f"{100 * improves:.1f} %, zero in {100 * zero:.1f} % of intervals")  # fmt: skip
            about = {"what": "gains of a chosen configuration over the reference where none is better in truth"}
            contest.record(OUT, f"{test_set}, {n} configurations", entry, about)


if __name__ == "__main__":
    main()
