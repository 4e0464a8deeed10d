"""A training on this machine: its steps, what waits, what repeats, and what everything around them costs.

    python bench/training.py --device cuda [--peers DIR] [--only cells,peers]   # at most ten minutes on one GPU
    python bench/training.py --device cpu --threads 1 --tiny                    # the same code in a minute

The parts, each with a line of output and an entry in `results/training.json`:

* `tests`: `tests/gpu`, on a GPU only.
* `repeats`: two trainings of the same seed for a few steps each, whose weights must be the same bits.
* `waits`: operations for which the host waits in a step, by PyTorch's synchronisation check and by a profile.
* `cells`: images a second and peak memory of a step of every core cell, and its time over that of `naive_triplet`.
* `deterministic`: the time of a step with deterministic algorithms over one without.
* `kernels`: the share of a step in which the GPU is busy, and the kernels that take longest.
* `checkpoint`: seconds that a training waits for its checkpoint, written in line and beside the next steps.
* `loader`, `extraction`: images a second.
* `peers`: the same batch through the training step of TransReID-SSL (a checkout in `--peers`: its network and losses,
  its order of work) and through timm's ViT with cross-entropy. Contestants take turns, so that other work on the
  machine falls on all of them; a ratio is the median over rounds.

Sizes: ViT-S+ICS 256x128 and ViT-B+ICS 384x128, batch 64, fp16 with loss scaling; with `--tiny` the tests' network.
"""

import collections.abc
import hashlib
import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
import time
import types
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import contest
import numpy as np
import timm
import torch
from torch import Tensor, nn

from reidablate.cells import load_cells
from reidablate.config import ModelConfig, Preset, RunConfig
from reidablate.data.augment import to_float
from reidablate.engine.batches import image_batches
from reidablate.engine.checkpoint import Checkpoint, CheckpointWriter, checkpoints, save_checkpoint
from reidablate.engine.extract import precision_on
from reidablate.engine.spec import AUTOCAST, be_deterministic
from reidablate.engine.state import TrainingState, begin
from reidablate.engine.step import Place, draw_inputs, take_step

ROOT = Path(__file__).parents[1]
OUT = contest.RESULTS / "training.json"
NUM_CLASSES = 751
PARTS = (
    *("tests", "repeats", "waits", "cells", "deterministic"),
    *("kernels", "checkpoint", "loader", "extraction", "peers"),
)
SIZES: dict[str, dict[str, Any]] = {
    "vit_small": {"backbone": "vit_small", "image_size": (256, 128), "stem": "ics"},
    "vit_base": {"backbone": "vit_base", "image_size": (384, 128), "stem": "ics"},
    "tiny": {"backbone": "vit_quickstart", "image_size": (64, 32), "stem": "ics"},
}
Step = Callable[[], object]


class Bench:
    """One size of network on one device."""

    def __init__(self, size: str, device: torch.device, *, batch: int, rounds: int) -> None:
        self.model_options, self.device, self.batch, self.rounds = SIZES[size], device, batch, rounds
        precision = "fp16" if device.type == "cuda" else "fp32"
        train = {"lr": 4e-4, "epochs": 1, "num_ids": batch // 4, "num_instances": 4, "precision": precision}
        preset = {"name": size, "seeds": 1, "weights": "none", "model": self.model_options, "train": train}
        self.preset = Preset.model_validate(preset)
        height, width = self.model_options["image_size"]
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randint(0, 256, (batch, height, width, 3), dtype=torch.uint8, generator=generator)
        self.labels = torch.arange(batch) // 4

    def cells(self) -> dict[str, RunConfig]:
        """Returns the configuration of every core cell, the baseline first."""
        cells = load_cells(ROOT / "ablations", [self.preset])
        found = {name: cell.resolve(self.preset) for name, cell in cells.items() if cell.tier == "core"}
        return {"naive_triplet": found["naive_triplet"], **found}

    def fit(self, config: RunConfig) -> TrainingState:
        """Returns a training at its beginning."""
        fit = begin(config, num_classes=NUM_CLASSES, seed=0, device=self.device)
        fit.model.train()
        return fit

    def step(self, config: RunConfig) -> Step:
        """Returns what takes the next step of a new training."""
        fit, numbers = self.fit(config), iter(range(10**9))

        def take() -> object:
            place = Place(0, 0, next(numbers))
            inputs = draw_inputs(config, self.images, self.labels, self.labels, place)
            return take_step(fit, config, inputs, self.device, place)

        return take

    def seconds(self, step: Step, *, steps: int = 5) -> float:
        """Returns the wall time of one of several steps, the device's work included."""
        self.wait()
        started = time.perf_counter()
        for _ in range(steps):
            step()
        self.wait()
        return (time.perf_counter() - started) / steps

    def wait(self) -> None:
        """Waits for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def turns(self, contestants: dict[str, Step]) -> dict[str, float]:
        """Returns the median seconds of a step of each contestant, who take turns."""
        times: dict[str, list[float]] = {name: [] for name in contestants}
        for turn in range(self.rounds + 1):
            for name, step in contestants.items():
                spent = self.seconds(step, steps=5 if self.device.type == "cuda" else 1)
                if turn:  # the first round warms up
                    times[name].append(spent)
        self.times = times
        return {name: statistics.median(values) for name, values in times.items()}

    def ratio(self, name: str, other: str) -> float:
        """Returns the median over the last turns of the time of one contestant over another's."""
        return statistics.median(a / b for a, b in zip(self.times[name], self.times[other], strict=True))


def tests(bench: Bench, _: Any) -> dict[str, Any]:
    """Runs the tests that need a GPU."""
    if bench.device.type != "cuda":
        return {"skipped": "no GPU"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "tests/gpu"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return {"passed": done.returncode == 0, "last_line": done.stdout.strip().splitlines()[-1]}


def repeats(bench: Bench, _: Any) -> dict[str, Any]:
    """Trains twice for a few steps, with every part of the method."""
    config, digests = bench.cells()["p1_rpe_jsd"], []
    for _turn in range(2):
        fit = bench.fit(config)
        for number in range(5):
            inputs = draw_inputs(config, bench.images, bench.labels, bench.labels, Place(0, 0, number))
            take_step(fit, config, inputs, bench.device, Place(0, 0, number))
        digest = hashlib.sha256()
        for value in fit.model.state_dict().values():
            digest.update(value.cpu().numpy().tobytes())
        digests.append(digest.hexdigest()[:16])
    return {"same_bits": digests[0] == digests[1], "sha256": digests}


def waits(bench: Bench, _: Any) -> dict[str, Any]:
    """Counts the operations of a step, after the first one, that the host waits for."""
    if bench.device.type != "cuda":
        return {"skipped": "no GPU"}
    found = {}
    for name, config in bench.cells().items():
        step = bench.step(config)
        step()
        bench.wait()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            step()
            torch.cuda.set_sync_debug_mode("default")
        found[name] = sorted({f"{Path(warning.filename).name}:{warning.lineno}" for warning in caught})
    return {"by_cell": found, "none": not any(found.values())}


def cells(bench: Bench, _: Any) -> dict[str, Any]:
    """Times a step of every core cell, and takes its peak memory."""
    configs, memory = bench.cells(), {}
    steps = {name: bench.step(config) for name, config in configs.items()}
    for name, step in steps.items():
        if bench.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            step()
            memory[name] = torch.cuda.max_memory_allocated()
    median_s = bench.turns(steps)
    over = {name: bench.ratio(name, "naive_triplet") for name in configs}
    return {"images_per_s": _rates(bench, median_s), "over_naive_triplet": over, "peak_bytes": memory}


def deterministic(bench: Bench, _: Any) -> dict[str, Any]:
    """Times a step with and without deterministic algorithms."""
    step = bench.step(bench.cells()["p1_rpe_jsd"])

    def freely() -> None:
        torch.use_deterministic_algorithms(False)
        step()
        torch.use_deterministic_algorithms(True)

    median_s = bench.turns({"deterministic": step, "free": freely})
    return {"median_s": median_s, "deterministic_over_free": bench.ratio("deterministic", "free")}


def kernels(bench: Bench, _: Any) -> dict[str, Any]:
    """Profiles a few steps: how long the GPU is busy, and with what."""
    step = bench.step(bench.cells()["p1_rpe_jsd"])
    step()
    on_gpu = bench.device.type == "cuda"
    activities = [torch.profiler.ProfilerActivity.CPU] + [torch.profiler.ProfilerActivity.CUDA] * on_gpu
    bench.wait()
    started = time.perf_counter()
    with torch.profiler.profile(activities=activities) as profile:
        for _turn in range(3):
            step()
        bench.wait()
    wall_s = time.perf_counter() - started
    events = profile.key_averages()
    key = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    first = sorted(events, key=lambda event: -getattr(event, key))[:10]
    busy_s = sum(getattr(event, key) for event in events) / 1e6
    top = {event.key[:80]: getattr(event, key) / 3e3 for event in first}
    return {"busy_share": busy_s / wall_s, "milliseconds_a_step": top}


def checkpoint(bench: Bench, _: Any) -> dict[str, Any]:
    """Times some steps and the checkpoint behind them, written in line and on a thread beside the next steps."""
    config, in_turn = bench.cells()["p1_rpe_jsd"], 40 if bench.device.type == "cuda" else 2
    fit, step = bench.fit(config), bench.step(config)
    step()
    made = Checkpoint(identity={}, state=fit.state_dict() | {"epochs_done": 1})

    held_up_s: dict[str, list[float]] = {"in line": [], "beside": []}

    def epoch(way: str, save: Callable[[Checkpoint], object]) -> Step:
        def take() -> None:
            for _turn in range(in_turn):
                step()
            bench.wait()
            started = time.perf_counter()
            save(made)
            held_up_s[way].append(time.perf_counter() - started)

        return take

    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name, CheckpointWriter(Path(name)) as writer:
        folder = Path(name)
        ways = {"in line": epoch("in line", partial(save_checkpoint, folder)), "beside": epoch("beside", writer.save)}
        wall_s = bench.turns(ways)
        writer.wait()
        size_bytes = checkpoints(folder)[0].stat().st_size
    held_s = {way: statistics.median(values[1:]) for way, values in held_up_s.items()}
    return {"steps": in_turn, "wall_s": wall_s, "held_up_s": held_s, "bytes": size_bytes}


def loader(bench: Bench, options: Any) -> dict[str, Any]:
    """Reads random batches of a cache on disk, with the loader processes that a run has."""
    rng, found = np.random.default_rng(0), {}
    count = 64 * bench.batch
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        path = Path(folder) / "train.npy"
        np.save(path, np.concatenate([bench.images.numpy()] * 64))
        images = np.lib.format.open_memmap(path, mode="r")
        for workers in (0, options.workers):
            rows = [rng.integers(0, count, bench.batch) for _ in range(40)]
            batches = image_batches(images, rows, workers=workers, pin=bench.device.type == "cuda")
            next(batches)
            started = time.perf_counter()
            read = sum(len(batch) for batch in batches)
            found[f"{workers} processes"] = read / (time.perf_counter() - started)
    return {"images_per_s": found}


def extraction(bench: Bench, _: Any) -> dict[str, Any]:
    """Times extraction against training."""
    config = bench.cells()["naive_triplet"]
    train, model = bench.step(config), bench.fit(config).model.eval()

    autocast = AUTOCAST.get(precision_on(bench.device, config.train.precision))

    def extract() -> None:
        with torch.inference_mode(), torch.autocast(bench.device.type, dtype=autocast, enabled=autocast is not None):
            model(to_float(bench.images.to(bench.device)))

    median_s = bench.turns({"training": train, "extraction": extract})
    return {"images_per_s": _rates(bench, median_s), "extraction_over_training": bench.ratio("training", "extraction")}


class Recipe(nn.Module):
    """A peer's backbone with neck and classifier."""

    def __init__(self, backbone: nn.Module, width: int) -> None:
        super().__init__()
        self.backbone, self.neck = backbone, nn.BatchNorm1d(width)
        self.classifier = nn.Linear(width, NUM_CLASSES, bias=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Returns logits and the feature before the neck."""
        feature = self.backbone(images)
        return self.classifier(self.neck(feature)), feature


def peer_step(bench: Bench, model: nn.Module, losses: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Step:
    """Returns a step as TransReID-SSL takes it, on images that its loader has augmented already."""
    train = bench.cells()["naive_triplet"].train
    model.to(bench.device).train()
    optimiser = torch.optim.SGD(model.parameters(), lr=4e-4, momentum=0.9, weight_decay=1e-4)
    scaler = torch.amp.GradScaler(bench.device.type, enabled=train.precision == "fp16")
    images, autocast = to_float(bench.images), AUTOCAST.get(train.precision)

    def take() -> None:
        optimiser.zero_grad()
        given, target = images.to(bench.device), bench.labels.to(bench.device)
        with torch.autocast(bench.device.type, dtype=autocast, enabled=autocast is not None):
            logits, feature = model(given)
            loss = losses(logits, feature, target)
        scaler.scale(loss).backward()
        scaler.step(optimiser)
        scaler.update()
        loss.item()
        bench.wait()

    return take


def peers(bench: Bench, options: Any) -> dict[str, Any]:
    """Takes turns with the steps of others on the same batch."""
    shape = ModelConfig.model_validate(bench.model_options)
    contestants = {"ours": bench.step(bench.cells()["naive_triplet"])}
    name = {"vit_small": "vit_small_patch16_224", "vit_base": "vit_base_patch16_224"}.get(shape.backbone)
    if name is None:
        plain = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=shape.image_size, depth=2)
    else:
        plain = timm.create_model(name, num_classes=0, img_size=shape.image_size, drop_path_rate=0.1)
    cross_entropy = nn.functional.cross_entropy
    contestants["timm (no ICS, no triplet)"] = peer_step(
        bench, Recipe(plain, plain.num_features), lambda logits, _, target: cross_entropy(logits, target)
    )
    root = None if options.peers is None else options.peers / "TransReID-SSL" / "transreid_pytorch"
    if root is not None and name is not None:
        network = _module(root / "model" / "backbones" / "vit_pytorch.py")
        backbone = getattr(network, f"{name}_TransReID")(
            img_size=shape.image_size, stride_size=16, drop_path_rate=0.1, stem_conv=True
        )
        triplet = _module(root / "loss" / "triplet_loss.py").TripletLoss()
        contestants["TransReID-SSL"] = peer_step(
            bench,
            Recipe(backbone, backbone.embed_dim),
            lambda logits, feature, target: cross_entropy(logits, target) + triplet(feature, target)[0],
        )
    median_s = bench.turns(contestants)
    ratios = {f"ours / {other}": bench.ratio(other, "ours") for other in contestants if other != "ours"}
    return {"images_per_s": _rates(bench, median_s), "rate_ratios": ratios, "commits": contest.commits(options.peers)}


def _module(path: Path) -> Any:
    """Returns a file of a checkout as a module; it was written for a PyTorch that had `torch._six`."""
    six = types.ModuleType("torch._six")
    six.container_abcs = collections.abc  # type: ignore[attr-defined]
    sys.modules.setdefault("torch._six", six)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _rates(bench: Bench, median_s: dict[str, float]) -> dict[str, float]:
    return {name: bench.batch / seconds for name, seconds in median_s.items()}


def main() -> None:
    options = contest.parser(__doc__)
    options.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    options.add_argument("--tiny", action="store_true", help="the tests' network, to try the bench itself")
    options.add_argument("--batch", type=int, default=64, help="images of a step, a multiple of 4 from 8 on")
    options.add_argument("--workers", type=int, default=4)
    options.add_argument("--out", type=Path, default=OUT)
    arguments = options.parse_args()
    device = torch.device(arguments.device)
    be_deterministic(arguments.threads)
    card = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    parts = arguments.only.split(",") if arguments.only else PARTS
    print(f"{card}, {arguments.threads} threads, load {os.getloadavg()}", flush=True)
    for size in ["tiny"] if arguments.tiny else ["vit_small", "vit_base"]:
        bench = Bench(size, device, batch=arguments.batch, rounds=arguments.rounds)
        entry: dict[str, Any] = {"batch": arguments.batch, "threads": arguments.threads}
        for part in parts:
            if part == "tests" and size == "vit_base":
                continue
            started = time.perf_counter()
            entry[part] = globals()[part](bench, arguments)
            print(f"{size}, {part} ({time.perf_counter() - started:.0f} s): {entry[part]}", flush=True)
        about = {"about": "A training step and what is around it; see bench/training.py."}
        contest.record(arguments.out, f"{size}, {card}", entry, about)


if __name__ == "__main__":
    main()
