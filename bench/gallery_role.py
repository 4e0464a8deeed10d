"""How much the intervals miss because an identity also stands in the gallery of every other query.

    python bench/gallery_role.py [--redraws 200] [--pairs 4]

Two systems are fixed: random linear features of the same latent people. Test sets are redrawn, people and images
anew, and each is scored by the package. The error of the difference in mAP over redraws is what the true one is; the
error that the intervals use is clustered by the identity of the query, which leaves its part as a gallery image out.
Training is not simulated, so the whole error is that of the test set, where the omission shows most.
"""

import argparse
from typing import Any

import contest
import numpy as np
from numpy.typing import NDArray

from reidablate.metrics.protocol import score
from reidablate.rng import generator
from reidablate.stats.intervals import t_interval
from reidablate.stats.paired import identity_sums, paired_components

Array = NDArray[np.float64]
Ids = NDArray[np.int64]
OUT = contest.RESULTS / "gallery_role.json"
LATENT, CAMERAS = 24, 4
SETTINGS = {  # identities, width of the features, noise of an image, wrong people in the gallery for each test identity
    "easy": (200, 16, 0.35, 0),
    "hard": (200, 12, 0.55, 0),
    "hard, with distractors": (200, 12, 0.5, 2),
}


def draw(rng: np.random.Generator, identities: int, noise: float, distractors: int) -> tuple[Array, Ids]:
    """Returns the latent images of a test set, two for each identity and camera, and their identities."""
    people = rng.standard_normal((identities * (1 + distractors), LATENT))
    pids = np.repeat(np.arange(len(people), dtype=np.int64), 2 * CAMERAS)
    return people[pids] + noise * rng.standard_normal((len(pids), LATENT)), pids


def difference(systems: Array, images: Array, pids: Ids, identities: int) -> tuple[float, float, float]:
    """Returns the difference in mAP of two systems, its variance clustered by identity, and the mean mAP."""
    camids = np.tile(np.repeat(np.arange(CAMERAS), 2), len(pids) // (2 * CAMERAS))
    asked = np.flatnonzero((np.arange(len(pids)) % 2 == 0) & (pids < identities))
    found = []
    for system in systems:
        features = images @ system
        scores = score(features[asked], features, query_pids=pids[asked], gallery_pids=pids,
                       query_camids=camids[asked], gallery_camids=camids)  # fmt: skip
        found.append(scores)
    precision = np.stack([one.queries["average_precision"] for one in found])
    sums, counts = identity_sums((precision[0] - precision[1])[None], pids[asked])
    parts = paired_components(sums, counts)
    return float(parts.estimate), float(parts.identity), float(precision.mean())


def measure(name: str, redraws: int, pairs: int) -> dict[str, Any]:
    """Returns, for some pairs of systems, the true and the estimated error and how often a 95 % interval misses."""
    identities, width, noise, distractors = SETTINGS[name]
    ratios, missed, levels = [], [], []
    for pair in range(pairs):
        rng = generator(pair, "gallery role", identities, width, distractors)
        own, other = rng.standard_normal((2, LATENT, width))
        systems = np.stack([own, 0.8 * own + 0.6 * other])
        sets = (draw(rng, identities, noise, distractors) for _ in range(redraws))
        drawn = np.array([difference(systems, *images, identities) for images in sets])
        estimate, variance = drawn[:, 0], drawn[:, 1]
        interval = t_interval(estimate - estimate.mean(), variance, np.full(redraws, identities - 1.0))
        ratios.append(float(estimate.std(ddof=1) / np.sqrt(variance.mean())))
        missed.append(float(np.mean((interval.low > 0) | (interval.high < 0))))
        levels.append(float(drawn[:, 2].mean()))
    return {
        "identities": identities,
        "mean_ap": float(np.mean(levels)),
        "error_true_over_estimated": float(np.sqrt(np.mean(np.square(ratios)))),
        "missed_at_nominal_5_percent": float(np.mean(missed)),
        "redraws": redraws,
        "pairs": pairs,
        "standard_error_of_ratio": float(1 / np.sqrt(2 * redraws * pairs)),
    }


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--redraws", type=int, default=200, help="test sets drawn for each pair of systems")
    options.add_argument("--pairs", type=int, default=4, help="pairs of systems")
    arguments = options.parse_args()
    for name in SETTINGS:
        entry = measure(name, arguments.redraws, arguments.pairs)
        print(f"{name}: mAP {entry['mean_ap']:.2f}, error {entry['error_true_over_estimated']:.3f} times the "
              f"estimated one, {entry['missed_at_nominal_5_percent']:.3f} of intervals miss")  # fmt: skip
        about = {"what": "error of a difference in mAP over redrawn people, over that clustered by query identity"}
        contest.record(OUT, name, entry, about)


if __name__ == "__main__":
    main()
