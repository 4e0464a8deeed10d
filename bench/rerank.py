"""Time and memory of k-reciprocal re-ranking: ours, fast-reid, torchreid and TransReID-SSL.

    python bench/rerank.py --peers DIR [--size market1501] [--constants 20,6,0.3] [--rounds 1] [--threads N]

DIR holds checkouts as for evaluation.py. Each contestant starts from the same float32 features in memory, computes the
distances it needs with its own code, re-ranks, and returns mAP, which is scored by one and the same code. The peers
disagree on the distance that is re-ranked: TransReID-SSL takes the squared Euclidean one of normalised features, the
others square what they are given. They are given the Euclidean one here, so all re-rank the same, and must find the
same mAP to 1e-4; TransReID-SSL computes in float16 and is only reported.

Without `--peers` only ours runs, for both constants in use if `--constants` is left out.
"""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import contest
import numpy as np
from inputs import SIZES, draw

from reidablate.metrics import score_distances
from reidablate.metrics.checks import check_labels
from reidablate.metrics.protocol import score_by
from reidablate.metrics.rerank import Constants, RerankedDistances

OUT = contest.RESULTS / "rerank.json"
FILES = {
    "fast-reid": "fast-reid/fastreid/evaluation/rerank.py",
    "torchreid": "deep-person-reid/torchreid/utils/rerank.py",
    "TransReID-SSL": "TransReID-SSL/transreid_pytorch/utils/reranking.py",
}
IN_FLOAT16 = "TransReID-SSL"


def constants(text: str) -> Constants:
    k1, k2, weight = text.split(",")
    return Constants(int(k1), int(k2), float(weight))


def labels(given: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in given.items() if not key.endswith("features")}


def ours(given: dict[str, Any], chosen: Constants) -> float:
    shape = len(given["query_pids"]), len(given["gallery_pids"])
    pids, camids = ((given[f"query_{ids}"], given[f"gallery_{ids}"]) for ids in ("pids", "camids"))
    checked = check_labels(shape, pids=pids, camids=camids, names=None)
    source = RerankedDistances(given["query_features"], given["gallery_features"], chosen)
    return score_by(source, checked).summary()["mAP"]


def peer(name: str, peers: Path) -> Callable[[dict[str, Any], Constants], float]:
    """Returns the re-ranking function of a peer, alone from its file, with the distances it wants."""
    import torch

    spec = importlib.util.spec_from_file_location("peer_rerank", peers / FILES[name])
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def rerank(given: dict[str, Any], chosen: Constants) -> float:
        query, gallery = (
            torch.nn.functional.normalize(torch.from_numpy(given[f"{side}_features"])) for side in ("query", "gallery")
        )
        if name == IN_FLOAT16:
            found = module.re_ranking(query, gallery, chosen.k1, chosen.k2, chosen.weight)
        else:
            pairs = ((query, gallery), (query, query), (gallery, gallery))
            distances = [(2 - 2 * left @ right.T).clamp_(min=0).sqrt_().numpy() for left, right in pairs]
            found = module.re_ranking(*distances, chosen.k1, chosen.k2, chosen.weight)
        # Rounding leaves distances of about -1e-7, which scoring refuses; clipping keeps the order of all others.
        return score_distances(np.maximum(found.astype(np.float32), 0), **labels(given)).summary()["mAP"]

    return rerank


def child(name: str, given: dict[str, Any], chosen: Constants, peers: Path | None) -> dict[str, Any]:
    """Returns the measurement of one contestant, after a small call that loads what it needs."""
    if name == "ours":
        work: Callable[[dict[str, Any], Constants], float] = ours
    else:
        assert peers is not None
        work = peer(name, peers)
    work(draw(SIZES["small"]), chosen)
    return contest.measure(lambda: work(given, chosen))


def main() -> None:
    options = contest.parser(__doc__)
    options.add_argument("--size", choices=[*SIZES], default="market1501")
    options.add_argument("--constants", help="K1,K2,LAMBDA")
    options.set_defaults(rounds=1)
    arguments = options.parse_args()
    if arguments.child:
        chosen = constants(arguments.constants)
        print(json.dumps(child(arguments.child, draw(SIZES[arguments.size]), chosen, arguments.peers)))
        return
    names = arguments.only.split(",") if arguments.only else ["ours", *(FILES if arguments.peers else ())]
    for text in [arguments.constants] if arguments.constants else ["20,6,0.3", "50,15,0.3"]:
        print(f"{arguments.size}, {constants(text)}")
        passed = ["--size", arguments.size, "--constants", text]
        passed += ["--peers", str(arguments.peers)] if arguments.peers else []
        found = contest.turns(__file__, names, passed, rounds=arguments.rounds, threads=arguments.threads)
        values = [entries[0]["found"] for name, entries in found.items() if name != IN_FLOAT16]
        assert max(values) - min(values) < 1e-4, f"the contestants disagree on mAP: {values}"
        entry = {"rounds": arguments.rounds, "threads": arguments.threads, **contest.summary(found, "ours")}
        entry |= {"size": SIZES[arguments.size]._asdict(), "commits": contest.commits(arguments.peers)}
        about = {"what": "cost of re-ranking float32 features with 768 columns and scoring it, on the CPU"}
        contest.record(OUT, f"{arguments.size}, {text}, {arguments.threads} threads", entry, about)


if __name__ == "__main__":
    main()
