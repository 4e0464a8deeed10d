"""What repeatability costs: deterministic algorithms, named random streams, and the checkpoint of every epoch.

    python bench/determinism.py [--device cuda] [--backbone vit_small] [--batch 64] [--rounds 7] [--threads 1]

One process takes training steps (augmentation, forward, the loss of `p1_rpe_jsd`, backward, SGD) in turns: `free` with
PyTorch's default algorithms and one draw after the other from one generator, `streams` with a generator for each
purpose and step, `deterministic` with deterministic algorithms too, which is how every run is trained, and `filled`
also with PyTorch's default of filling new memory with NaN, which we switch off. A ratio is the median over rounds of
times within one round, processor time on one thread of a CPU and wall time elsewhere. The checkpoint (weights,
momentum; written, flushed and hashed) is timed beside them; it comes once an epoch, about 200 steps on Market-1501.
"""

import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import contest
import torch

from reidablate.config import ModelConfig, RunConfig, TrainConfig
from reidablate.data import augment
from reidablate.engine.checkpoint import Checkpoint, checkpoints, save_checkpoint
from reidablate.engine.schedule import build_optimiser
from reidablate.losses import Batch, PositionState, Shape, StudyLoss
from reidablate.models.neck import ReidModel, initialise
from reidablate.rng import seed_int, torch_generator

OUT = contest.RESULTS / "determinism.json"
WAYS = ("free", "streams", "deterministic", "filled")
SIZE = (256, 128)
STEPS_AN_EPOCH = 200
LOSSES: dict[str, Any] = {"triplet": "none", "weighted_triplet": {}, "position_relation": {}}


class Step:
    """A training step that can be taken in each of the ways."""

    def __init__(self, backbone: str, batch: int, device: torch.device) -> None:
        model = ModelConfig.model_validate({"backbone": backbone, "image_size": SIZE, "rpe": {"kind": "full"}})
        train = TrainConfig(lr=1e-4, epochs=1, precision="bf16" if device.type == "cuda" else "fp32")
        self.config = RunConfig.model_validate({"model": model, "losses": LOSSES, "train": train})
        self.model = ReidModel(model, num_classes=751)
        initialise(self.model, seed=0)
        self.model.to(device).train()
        self.loss = StudyLoss(self.config.losses, Shape(num_classes=751, width=self.model.classifier.in_features))
        self.optimiser = build_optimiser(self.model, self.config)
        self.images = torch.randint(
            0, 256, (batch, *SIZE, 3), dtype=torch.uint8, generator=torch_generator(0, "images")
        )
        self.labels = torch.arange(batch, device=device) // 4
        self.device, self.own = device, torch_generator(0, "bench")
        self.taken = 0
        # Processor time where it tells the truth: on one thread of a CPU, whatever else the machine does.
        alone = device.type == "cpu" and torch.get_num_threads() == 1
        self.clock = time.process_time if alone else time.perf_counter

    def take(self, way: str) -> float:
        """Returns the seconds of one step."""
        torch.use_deterministic_algorithms(way in {"deterministic", "filled"})
        torch.utils.deterministic.fill_uninitialized_memory = way == "filled"  # type: ignore[attr-defined]
        started = self.clock()
        generator = self.own if way == "free" else torch_generator(0, "augment", 0, self.taken)
        decisions = augment.draw(
            generator, len(self.images), height=SIZE[0], width=SIZE[1], pad=10, flip_probability=0.5,
            erase_probability=0.5,
        )  # fmt: skip
        inputs = augment.apply(self.images.to(self.device), decisions)
        if way != "free":
            torch.default_generator.manual_seed(seed_int(0, "dropout", 0, self.taken))
        half = self.config.train.precision == "bf16"
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=half):
            out = self.model(inputs)
        positions = PositionState(
            ape=self.model.ape_rows(), tables=self.model.rpe_tables(), index=self.model.rpe_index,
            cls_bias=self.model.cls_bias(),
        )  # fmt: skip
        batch = Batch(
            feature=out.feature_before_neck,
            feature_after_neck=out.feature_after_neck,
            logits=out.logits,
            classifier=self.model.classifier.weight,
            labels=self.labels,
            camids=self.labels,
            cls=out.cls,
            patches=out.patches,
            positions=positions,
        )
        total = self.loss(batch)["total"]
        self.optimiser.zero_grad(set_to_none=True)
        total.backward()
        self.optimiser.step()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self.taken += 1
        return self.clock() - started

    def checkpoint(self) -> tuple[float, int]:
        """Returns the seconds that a checkpoint takes and its size in bytes."""
        with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
            started = time.perf_counter()
            state = {"epochs_done": 1, "steps": {}, "model": self.model.state_dict()}
            state |= {"optimiser": self.optimiser.state_dict()}
            save_checkpoint(Path(folder), Checkpoint(identity={}, state=state))
            return time.perf_counter() - started, checkpoints(Path(folder))[0].stat().st_size


def main() -> None:
    options = contest.parser(__doc__)
    options.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    options.add_argument("--backbone", default="vit_small", choices=["vit_small", "vit_base"])
    options.add_argument("--batch", type=int, default=16)
    arguments = options.parse_args()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(arguments.threads)
    step = Step(arguments.backbone, arguments.batch, torch.device(arguments.device))
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    for turn in range(arguments.rounds + 1):
        for way in WAYS:
            spent = step.take(way)
            if turn:  # the first round warms up
                times[way].append(spent)
    median_s = {way: statistics.median(values) for way, values in times.items()}
    ratios = {
        f"{way} / free": statistics.median(a / b for a, b in zip(times[way], times["free"], strict=True))
        for way in WAYS[1:]
    }
    seconds, size_bytes = step.checkpoint()
    share = seconds / (STEPS_AN_EPOCH * median_s["deterministic"])
    print(f"median s a step: {median_s}\n{ratios}")
    print(f"checkpoint {seconds:.2f} s, {size_bytes / 1e6:.0f} MB, {share:.2%} of an epoch")
    entry = {"rounds": arguments.rounds, "threads": arguments.threads, "median_s": median_s, "ratios": ratios,
             "checkpoint": {"seconds": seconds, "bytes": size_bytes, "share_of_epoch": share}}  # fmt: skip
    name = torch.cuda.get_device_name() if arguments.device == "cuda" else "CPU"
    key = f"{arguments.backbone}, batch {arguments.batch}, {name}, {arguments.threads} threads"
    contest.record(OUT, key, entry, {"about": "Seconds of a training step in four ways; see bench/determinism.py."})


if __name__ == "__main__":
    main()
