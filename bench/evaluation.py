"""Time and memory of distances, mAP and CMC: ours, NumPy's argsort, fast-reid, torchreid and TransReID-SSL.

    python bench/evaluation.py [--size market1501] [--peers DIR] [--rounds 5] [--threads N]
    python bench/evaluation.py --size million

DIR holds checkouts named fast-reid (JDAI-CV/fast-reid at c9bc3ce), deep-person-reid (KaiyangZhou/deep-person-reid at
f8cd150) and TransReID-SSL (damo-cv/TransReID-SSL at fc39e88); the first two with their Cython built in place. Their
functions are called as they stand, with the distance that each uses by default. All contestants start from the same
float32 features in memory and must find the same mAP to 1e-5.

What bounds us: at the size of Market-1501 the float32 product takes 0.46 of our 0.7 s of CPU time on one thread, the
exact distances of the positives 0.11 s, counting 0.09 s, checking and normalising 0.06 s. Exact float64 distances of
everything, which the estimates spare us, took 0.93 s. They are still computed where the features are so poor that most
of the gallery lies as near as a positive, as in `million`. With two threads only the product gets faster; to count one
tile while the next is multiplied makes both slower. The peers' sort depends on NumPy: from version 2 on it uses AVX-512
where there is some, 0.7 s for all rows, 3.5 s without.

`million` scores 1,000 queries against growing parts of 1,000,000 memory-mapped features, ours alone.

Legend: Q queries, G gallery images.
"""

import argparse
import importlib
import importlib.util
import json
import sys
import tempfile
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import contest
import numpy as np
from inputs import SIZES, WIDTH, draw

OUT = contest.RESULTS / "evaluation.json"
PEERS = ("fast-reid", "torchreid", "TransReID-SSL")
MILLION_PARTS = (62_500, 125_000, 250_000, 500_000, 1_000_000)


def ours(given: dict[str, Any]) -> float:
    from reidablate.metrics import score

    return score(**given).summary()["mAP"]


def argsort(given: dict[str, Any]) -> float:
    """Returns mAP in the plain way: the whole matrix of distances, every row sorted."""
    query, gallery = (given[f"{side}_features"] for side in ("query", "gallery"))
    query, gallery = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (query, gallery))
    order = np.argsort(1 - query @ gallery.T, axis=1, kind="stable")
    precisions = []
    for i, ranking in enumerate(order):
        same = given["gallery_pids"][ranking] == given["query_pids"][i]
        own = same & (given["gallery_camids"][ranking] == given["query_camids"][i])
        hits = np.flatnonzero(same[~own])
        if hits.size:
            precisions.append(np.mean(np.arange(1, hits.size + 1) / (hits + 1)))
    return float(np.mean(precisions))


def fast_reid(peers: Path) -> Callable[[dict[str, Any]], float]:
    """Returns fast-reid's evaluation, as its `ReidEvaluator` calls it with the Cython ranker."""
    import torch

    sys.path[:0] = [str(peers / "fast-reid"), str(peers / "fast-reid" / "fastreid" / "evaluation" / "rank_cylib")]
    faiss: Any = types.ModuleType("faiss")  # fast-reid searches with it on a GPU only
    faiss.METRIC_L2 = 1
    sys.modules["faiss"] = faiss
    dist: Any = importlib.import_module("fastreid.utils.compute_dist")
    rank: Any = importlib.import_module("rank_cy")

    def evaluate(given: dict[str, Any]) -> float:
        query, gallery = (torch.from_numpy(given[f"{side}_features"]) for side in ("query", "gallery"))
        distances = dist.build_dist(query, gallery, "cosine")
        _, precision, _ = rank.evaluate_cy(distances, *labels(given), 50, False)
        return float(np.mean(precision))

    return evaluate


def torchreid(peers: Path) -> Callable[[dict[str, Any]], float]:
    """Returns torchreid's evaluation, as its `Engine` calls it with the Cython ranker."""
    import torch

    metrics = peers / "deep-person-reid" / "torchreid" / "metrics"
    sys.path.insert(0, str(metrics / "rank_cylib"))
    rank: Any = importlib.import_module("rank_cy")
    # The file alone: the package would import everything else of torchreid.
    spec = importlib.util.spec_from_file_location("torchreid_distance", metrics / "distance.py")
    assert spec is not None
    assert spec.loader is not None
    dist: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(dist)

    def evaluate(given: dict[str, Any]) -> float:
        query, gallery = (torch.from_numpy(given[f"{side}_features"]) for side in ("query", "gallery"))
        distances = dist.compute_distance_matrix(query, gallery, "cosine").numpy()
        return float(rank.evaluate_cy(distances, *labels(given), 50, False)[1])

    return evaluate


def transreid(peers: Path) -> Callable[[dict[str, Any]], float]:
    """Returns TransReID-SSL's evaluation, as its `R1_mAP_eval` does it with normalised features."""
    import torch

    sys.path.insert(0, str(peers / "TransReID-SSL" / "transreid_pytorch"))
    metrics: Any = importlib.import_module("utils.metrics")

    def evaluate(given: dict[str, Any]) -> float:
        both = torch.from_numpy(np.concatenate((given["query_features"], given["gallery_features"])))
        both = torch.nn.functional.normalize(both, dim=1, p=2)
        query, gallery = both.split([len(given["query_pids"]), len(given["gallery_pids"])])
        return float(metrics.eval_func(metrics.euclidean_distance(query, gallery), *labels(given))[1])

    return evaluate


def labels(given: dict[str, Any]) -> list[Any]:
    return [given[key] for key in ("query_pids", "gallery_pids", "query_camids", "gallery_camids")]


def child(name: str, given: dict[str, Any], peers: Path | None) -> dict[str, Any]:
    """Returns the measurement of one contestant, after a small call that loads what it needs."""
    made = {"fast-reid": fast_reid, "torchreid": torchreid, "TransReID-SSL": transreid}
    if name in made:
        assert peers is not None
        work = made[name](peers)
    else:
        work = {"ours": ours, "argsort": argsort}[name]
    work(draw(SIZES["small"]))
    return contest.measure(lambda: work(given))


def million(arguments: Any) -> None:
    """Scores growing galleries that are memory-mapped, and records time and memory."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "gallery"
        gallery = np.memmap(path, np.float16, "w+", shape=(MILLION_PARTS[-1], WIDTH))
        for start in range(0, len(gallery), 50_000):
            gallery[start : start + 50_000] = rng.standard_normal((50_000, WIDTH), np.float32)
        gallery.flush()
        del gallery
        found = {}
        for number in MILLION_PARTS:
            options = ["--size", "million", "--mapped", str(path), "--gallery", str(number)]
            part = contest.turns(__file__, ["ours"], options, rounds=1, threads=arguments.threads)["ours"][0]
            found[number] = part
    contest.record(OUT, f"1,000 queries, memory-mapped float16, {arguments.threads} threads", {"gallery": found}, ABOUT)


def million_child(path: Path, number: int) -> dict[str, Any]:
    """Returns the measurement of one gallery, with the anonymous memory at its peak."""
    from reidablate.metrics import score

    gallery = np.memmap(path, np.float16, "r", shape=(number, WIDTH))
    rng = np.random.default_rng(1)
    given: dict[str, Any] = {
        "query_features": rng.standard_normal((1000, WIDTH), np.float32),
        "gallery_features": gallery,
        "query_pids": np.arange(1000),
        "gallery_pids": np.arange(number) % 5000,
        "query_camids": np.zeros(1000, int),
        "gallery_camids": np.ones(number, int),
    }
    anonymous = Sampler()
    with anonymous:
        found = contest.measure(lambda: score(**given).summary()["mAP"])
    return {**found, "anonymous_bytes": anonymous.peak}


class Sampler:
    """Watches the anonymous memory of this process, a hundred times a second."""

    def __enter__(self) -> "Sampler":
        import threading

        self.peak, self._done = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.01):
            self.peak = max(self.peak, contest.memory_bytes("RssAnon"))


ABOUT = {
    "what": "cost of distances, mAP and CMC of float32 features with 768 columns, on the CPU",
    "peers": {
        "fast-reid": "JDAI-CV/fast-reid@c9bc3ce",
        "torchreid": "KaiyangZhou/deep-person-reid@f8cd150",
        "TransReID-SSL": "damo-cv/TransReID-SSL@fc39e88",
    },
}


def main() -> None:
    options = contest.parser(__doc__)
    options.add_argument("--size", choices=[*SIZES, "million"], default="market1501")
    options.add_argument("--mapped", type=Path, help=argparse.SUPPRESS)
    options.add_argument("--gallery", type=int, help=argparse.SUPPRESS)
    arguments = options.parse_args()
    if arguments.child:
        if arguments.mapped:
            print(json.dumps(million_child(arguments.mapped, arguments.gallery)))
        else:
            print(json.dumps(child(arguments.child, draw(SIZES[arguments.size]), arguments.peers)))
        return
    if arguments.size == "million":
        million(arguments)
        return
    names = ["ours", "argsort", *(PEERS if arguments.peers else ())]
    names = arguments.only.split(",") if arguments.only else names
    passed = ["--size", arguments.size, *(["--peers", str(arguments.peers)] if arguments.peers else [])]
    found = contest.turns(__file__, names, passed, rounds=arguments.rounds, threads=arguments.threads)
    values = [entries[0]["found"] for entries in found.values()]
    assert max(values) - min(values) < 1e-5, f"the contestants disagree on mAP: {values}"
    entry = {"rounds": arguments.rounds, "threads": arguments.threads, **contest.summary(found, "ours")}
    entry["commits"] = contest.commits(arguments.peers)
    size = SIZES[arguments.size]._asdict()
    contest.record(OUT, f"{arguments.size}, {arguments.threads} threads", {"size": size, **entry}, ABOUT)


if __name__ == "__main__":
    main()
