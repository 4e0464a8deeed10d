"""How fast trainings are here, measured on a few real steps of each before anything starts."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from reidablate.config import RunConfig
from reidablate.engine.devices import lease
from reidablate.engine.extract import forward
from reidablate.engine.spec import RunSpec, be_deterministic, naming_batch, torch_device
from reidablate.engine.state import begin
from reidablate.engine.step import Place, draw_inputs, take_step
from reidablate.trees import merge

STEPS = 20
WARM = 3  # steps that load kernels and fill caches
LONGEST_S = 60.0
"""After which a slow probe ends with the steps that it has, but not before it has one that counts."""


class Probed(NamedTuple):
    """A training to probe."""

    spec: RunSpec
    num_classes: int  # identities of its training set
    cameras: tuple[int, ...] = ()  # of its training set, for a network that reads them


@dataclass(frozen=True)
class Speed:
    """What a training costs.

    Attributes:
        start_s: Seconds until the network is built and on the device.
        step_s: Seconds of a training step.
        image_s: Seconds of the features of one image.
        steps: How many steps were taken.
    """

    start_s: float
    step_s: float
    image_s: float
    steps: int


def probe(trainings: Mapping[str, Probed], shown: Callable[[int, int], None]) -> tuple[str, dict[str, Speed]]:
    """Returns the device that trainings would get, and the speed of each from up to `STEPS` of its own steps there.

    Weights and images are random, and nothing is written. Of a training on several GPUs, one takes its part of a
    batch, without the exchange between them.

    Args:
        trainings: By a name, of one study: they share device and threads.
        shown: Called with the steps taken and their number.

    Raises:
        UserError: What a run refuses to begin for: its device cannot be used, or a batch does not fit into its memory.
    """
    first = next(iter(trainings.values())).spec
    found: dict[str, Speed] = {}
    with lease(min(first.gpus, 1), device=first.device) as gpus:  # once: CUDA reads the devices that it may see once
        device = torch_device(first.device, gpus)
        be_deterministic(first.threads)
        for number, (name, training) in enumerate(trainings.items()):

            def step_done(steps: int, before: int = number * STEPS) -> None:
                shown(before + steps, len(trainings) * STEPS)

            with naming_batch(training.spec):
                found[name] = _speed(training, device, step_done)
        return torch.cuda.get_device_name() if device.type == "cuda" else "cpu", found


def _speed(training: Probed, device: torch.device, step_done: Callable[[int], None]) -> Speed:
    spec, config = training.spec, _share(training.spec.config, training.spec.gpus)
    started = time.perf_counter()
    state = begin(
        config,
        num_classes=training.num_classes,
        cameras=training.cameras,
        seed=0,
        device=device,
        recompute=spec.recompute,
    )
    state.model.train()
    _wait(device)
    start_s = time.perf_counter() - started
    train, (height, width) = config.train, config.model.image_size
    shape = (train.batch_size, height, width, 3)
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
    labels = torch.arange(train.num_ids).repeat_interleave(train.num_instances) % training.num_classes
    camids = torch.full_like(labels, training.cameras[0] if training.cameras else 0)
    times: list[float] = []
    for step in range(STEPS):
        began, place = time.perf_counter(), Place(0, 0, step)
        take_step(state, config, draw_inputs(config, images, labels, camids, place), device, place)
        _wait(device)
        times.append(time.perf_counter() - began)
        step_done(step + 1)
        if step and sum(times) > LONGEST_S:
            break
    state.model.eval()
    for _warm in range(2):
        began = time.perf_counter()
        forward(state.model, [images], device, train.precision)
        image_s = (time.perf_counter() - began) / len(images)
    return Speed(start_s, statistics.median(times[WARM:] or times[1:]), image_s, len(times))


def _share(config: RunConfig, gpus: int) -> RunConfig:
    """Returns a configuration whose batch is the part of one of several GPUs, in whole identities."""
    if gpus < 2:
        return config
    return RunConfig.model_validate(merge(config.dump(), {"train": {"num_ids": max(2, config.train.num_ids // gpus)}}))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
