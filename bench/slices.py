"""Time and memory of scoring every pair of cameras, beside scoring the whole gallery once.

    python bench/slices.py [--size market1501] [--rounds 5] [--threads N]

Evaluation of a run scores both sides of the neck and the pairs of cameras of one side: what the pairs cost decides
whether they may be written for every run. Both start from the same float32 features in memory.
"""

import json
from typing import Any

import contest
from inputs import SIZES, WIDTH, draw

from reidablate.metrics.breakdown import by_camera_pair
from reidablate.metrics.checks import check_labels
from reidablate.metrics.distances import FeatureDistances
from reidablate.metrics.protocol import score_by

OUT = contest.RESULTS / "slices.json"


def work(name: str, given: dict[str, Any]) -> float:
    """Returns the mean average precision of all queries, or of all pairs of a query and a camera that has a match."""
    shape = len(given["query_pids"]), len(given["gallery_pids"])
    pids, camids = ((given[f"query_{ids}"], given[f"gallery_{ids}"]) for ids in ("pids", "camids"))
    labels = check_labels(shape, pids=pids, camids=camids, names=None)
    source = FeatureDistances(given["query_features"], given["gallery_features"])
    if name == "whole gallery":
        return score_by(source, labels).summary()["mAP"]
    table = by_camera_pair(source, labels)
    return float((table["mAP"] * table["num_queries"]).sum() / table["num_queries"].sum())


def main() -> None:
    options = contest.parser(__doc__)
    options.add_argument("--size", choices=[*SIZES], default="market1501")
    arguments = options.parse_args()
    if arguments.child:
        work(arguments.child, draw(SIZES["small"]))
        given = draw(SIZES[arguments.size])
        print(json.dumps(contest.measure(lambda: work(arguments.child, given))))
        return
    names = ["camera pairs", "whole gallery"]
    found = contest.turns(
        __file__, names, ["--size", arguments.size], rounds=arguments.rounds, threads=arguments.threads
    )
    entry = {"rounds": arguments.rounds, "threads": arguments.threads, **contest.summary(found, names[0])}
    entry |= {"size": SIZES[arguments.size]._asdict() | {"width": WIDTH}}
    about = {"what": "cost of scoring every pair of cameras beside the whole gallery once, on the CPU"}
    contest.record(OUT, f"{arguments.size}, {arguments.threads} threads", entry, about)


if __name__ == "__main__":
    main()
