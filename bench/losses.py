"""Time of the position-relation loss against a plain Python loop and against the published code.

    python bench/losses.py [--peers DIR] [--rounds 15] [--threads 1 2]

DIR is a checkout of SeongSuKim95/TransReID at b59ce07, whose loss is called as it stands. Every contestant computes
the naive triplet and the position-relation loss, forward and backward, at the published size: 16 x 4 images of
24 x 8 patches, 768 numbers a token, 12 blocks of 12 heads. Contestants take turns in one process, so that other work on
the machine falls on all of them; a ratio is the median over rounds of times within one round: processor time with one
thread, wall time with more. Before timing, the plain loop must give the value of our default, and the published code
that of our options as it was run. Every contestant also pays for the gradient of all tokens, 38 MB of mostly zeros that
autograd makes of a slice; `ours_triplet_only` shows about how much that is.

What the published training computes before its loss, the (144, 192, 192) biases of all pairs, is not timed; ours reads
the tables themselves.

Legend: B batch, n patches, D feature, L blocks, h heads, R table rows, N chosen patches.
"""

import argparse
import functools
import importlib
import itertools
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reidablate.artifacts import write_json
from reidablate.config import LossesConfig, PositionRelationConfig
from reidablate.losses import Batch, PositionState, Shape, StudyLoss
from reidablate.losses.mining import batch_hard
from reidablate.losses.triplet import triplet_loss
from reidablate.models.position import full_index
from reidablate.provenance import git_state, machine, versions
from reidablate.rng import torch_generator

NUM_IDS, NUM_INSTANCES, NUM_CLASSES = 16, 4, 751
GRID, WIDTH, BLOCKS, HEADS = (24, 8), 768, 12, 12
PEER = "SeongSuKim95/TransReID@b59ce07"
OUT = Path(__file__).parent / "results" / "losses.json"


@dataclass(frozen=True)
class Inputs:
    """A batch after the backbone, and the position parameters."""

    tokens: Tensor  # (B, 1+n, D)
    classifier: Tensor  # (C, D)
    labels: Tensor  # (B,)
    ape: Tensor  # (1+n, D)
    tables: Tensor  # (L, R, h)
    index: Tensor  # (n, n)

    def clear(self) -> None:
        """Forgets the gradients."""
        for tensor in (self.tokens, self.ape, self.tables):
            tensor.grad = None


def inputs() -> Inputs:
    """Returns tokens as a layer norm leaves them, and position parameters of the initial spread."""
    generator = torch_generator(0, "bench:losses")
    num_patches, num_rows = GRID[0] * GRID[1], (2 * GRID[0] - 1) * (2 * GRID[1] - 1)

    def normal(*shape: int, sd: float = 1.0) -> Tensor:
        return (torch.randn(*shape, generator=generator) * sd).requires_grad_()

    return Inputs(
        tokens=normal(NUM_IDS * NUM_INSTANCES, 1 + num_patches, WIDTH),
        classifier=normal(NUM_CLASSES, WIDTH, sd=0.05).detach(),
        labels=torch.arange(NUM_IDS).repeat_interleave(NUM_INSTANCES),
        ape=normal(1 + num_patches, WIDTH, sd=0.02),
        tables=normal(BLOCKS, num_rows, HEADS, sd=0.02),
        index=full_index(GRID),
    )


@functools.cache
def study_loss(config: LossesConfig) -> StudyLoss:
    """Returns the loss of a configuration, made once as in a training."""
    return StudyLoss(config, Shape(num_classes=NUM_CLASSES, width=WIDTH))


def ours(batch: Inputs, config: LossesConfig) -> Tensor:
    """Returns the sum of naive triplet and position-relation loss by this package."""
    feature = batch.tokens[:, 0]
    given = Batch(
        feature=feature,
        feature_after_neck=feature,
        logits=feature.new_zeros(0),
        classifier=batch.classifier,
        labels=batch.labels,
        camids=batch.labels,
        cls=feature,
        patches=batch.tokens[:, 1:],
        positions=PositionState(batch.ape, batch.tables, batch.index),
    )
    total: Tensor = study_loss(config)(given)["total"]
    return total


def loop(batch: Inputs, relation: PositionRelationConfig) -> Tensor:
    """Returns the same from the definition, image by image and pair by pair; for default options only."""
    feature = batch.tokens[:, 0]
    triplets = batch_hard(feature, batch.labels)
    log_p = []
    for image, label in enumerate(batch.labels):
        scores = batch.tokens[image, 1:].detach() @ batch.classifier[label]
        chosen = scores.topk(relation.patches).indices.tolist()
        values = []
        for a, b in itertools.combinations(chosen, 2):
            absolute = batch.ape[1 + a] @ batch.ape[1 + b]
            values.append(absolute + batch.tables[:, batch.index[a, b]])  # (L, h)
        log_p.append(torch.stack(values, -1).log_softmax(-1))
    total = feature.new_zeros(())
    for image, positive in enumerate(triplets.positive.tolist()):
        log_m = (0.5 * (log_p[image].exp() + log_p[positive].exp())).log()
        for side in (log_p[image], log_p[positive]):
            total = total + 0.5 * (side.exp() * (side - log_m)).sum(-1).mean()
    return total / len(log_p) + triplet_loss(feature, triplets)


def reference(folder: Path, batch: Inputs, num_chosen: int) -> Callable[[], Tensor]:
    """Returns the published loss over `batch`, head-wise, with its biases gathered once."""
    sys.path.insert(0, str(folder))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        published: Any = importlib.import_module("loss.triplet_loss")
    sys.path.remove(str(folder))
    loss = published.TripletAttentionLoss_ss_pos_6(
        1.0, NUM_INSTANCES, True, True, False, num_chosen, True, True, HEADS
    )  # fmt: skip
    biases = batch.tables.detach()[:, batch.index].permute(0, 3, 1, 2).flatten(0, 1).contiguous()
    return lambda: loss(batch.tokens, batch.labels, biases, batch.ape, batch.classifier)[0]


def contestants(batch: Inputs, num_chosen: int, peers: Path | None) -> dict[str, Callable[[], Tensor]]:
    """Returns every contestant by name, after checking that those that should agree do."""
    default = PositionRelationConfig(patches=num_chosen, select="classifier")
    as_run = default.model_copy(update={"divergence": "ag_mean", "grad_to_rpe": False})
    relations = {"ours": default, "ours_as_run": as_run, "ours_triplet_only": None}
    configs = {name: LossesConfig(identity=None, position_relation=value) for name, value in relations.items()}
    found: dict[str, Callable[[], Tensor]] = {
        name: functools.partial(ours, batch, config) for name, config in configs.items()
    }
    found["loop"] = functools.partial(loop, batch, default)
    torch.testing.assert_close(found["ours"](), found["loop"](), rtol=1e-5, atol=1e-6)
    if peers is not None:
        found["reference"] = reference(peers, batch, num_chosen)
        torch.testing.assert_close(found["ours_as_run"](), found["reference"](), rtol=1e-5, atol=1e-6)
    return found


def measure(
    batch: Inputs, found: dict[str, Callable[[], Tensor]], rounds: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Returns the seconds of forward and backward of every contestant in every round, after one round unmeasured."""
    times: dict[str, list[float]] = {name: [] for name in found}
    for turn in range(rounds + 1):
        for name, loss in found.items():
            batch.clear()
            started = clock()
            loss().backward()
            if turn:
                times[name].append(clock() - started)
    return times


def ratio(theirs: list[float], own: list[float]) -> dict[str, float]:
    """Returns the median and quartiles over rounds of how many times longer `theirs` took than `own`."""
    quotients = [a / b for a, b in zip(theirs, own, strict=True)]
    low, median, high = statistics.quantiles(quotients, n=4)
    return {"median": median, "lower_quartile": low, "upper_quartile": high}


def compare(peers: Path | None, rounds: int, numbers_of_threads: list[int]) -> list[dict[str, Any]]:
    """Returns one entry for each number of threads and of chosen patches."""
    batch, entries = inputs(), []
    for threads, num_chosen in itertools.product(numbers_of_threads, (5, 10)):
        torch.set_num_threads(threads)
        clock = time.process_time if threads == 1 else time.perf_counter
        times = measure(batch, contestants(batch, num_chosen, peers), rounds, clock)
        pairs = [("loop", "ours"), ("reference", "ours"), ("reference", "ours_as_run")]
        ratios = {f"{theirs} / {own}": ratio(times[theirs], times[own]) for theirs, own in pairs if theirs in times}
        medians = {name: statistics.median(values) for name, values in times.items()}
        entry = {"patches": num_chosen, "threads": threads, "clock": clock.__name__, "load": os.getloadavg()[0]}
        entries.append({**entry, "median_s": medians, "ratios": ratios})
        shown = ", ".join(f"{name} {value['median']:.1f}x" for name, value in ratios.items())
        spent = ", ".join(f"{name} {1000 * value:.1f}" for name, value in medians.items())
        print(f"N={num_chosen}, {threads} threads: {shown} (ms: {spent})", flush=True)
    return entries


def commit(folder: Path | None) -> str | None:
    """Returns the commit of a checkout, None without one."""
    if folder is None:
        return None
    done = subprocess.run(["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--peers", type=Path, help=f"a checkout of {PEER}")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    entries = compare(arguments.peers, arguments.rounds, arguments.threads)
    about = {
        "what": "seconds of naive triplet and position-relation loss, forward and backward, float32, CPU",
        "size": {"batch": NUM_IDS * NUM_INSTANCES, "grid": GRID, "width": WIDTH, "blocks": BLOCKS, "heads": HEADS},
        "rounds": arguments.rounds,
        "peer": {"name": PEER, "commit": commit(arguments.peers)},
        "code": git_state(),
        "versions": versions(),
        "machine": machine(),
    }
    write_json(arguments.out, {**about, "results": entries})
    print(f"{arguments.out} written")


if __name__ == "__main__":
    main()
