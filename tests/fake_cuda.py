"""Training steps on tensors that say they are on a GPU and hold no numbers, for machines without one.

PyTorch's fake tensors follow shapes, types and devices through every operator and refuse what would need a number:
`item`, a mask as index, a branch. Around them stand a mode that refuses copies for which the host would wait, and a
walk over the graph of a backward pass, since PyTorch's own starts a thread for the device.
"""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from reidablate.config import RunConfig
from reidablate.data.augment import Decisions
from reidablate.engine.schedule import build_optimiser
from reidablate.engine.state import TrainingState
from reidablate.engine.step import Inputs, Place, draw_inputs, take_step
from reidablate.losses import Shape, StudyLoss
from reidablate.losses.positions import pair_ranks
from reidablate.models.neck import ReidModel

CUDA = torch.device("cuda")
# They change their arguments and have no form for fake tensors: the kernels of optimiser and loss scaling.
_IN_PLACE = {"_fused_sgd_", "_fused_adamw_", "_amp_update_scale_"}


class HostWaits(AssertionError):
    """The host would wait for the device, or the device for the host's memory."""


class Recorder(TorchDispatchMode):
    """Collects the names of all operators, and refuses copies for which somebody waits."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: set[str] = set()
        self._pinned: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.partition("::")[2]
        self.names.add(name)
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if name == "_pin_memory":
            self._pinned.append(args[0].clone())
            return self._pinned[-1]
        if name in _IN_PLACE:
            assert {tensor.device.type for tensor in tensors} == {"cuda"}, name
            return args[0] if name == "_amp_update_scale_" else None
        out = func(*args, **kwargs)
        if name in {"_to_copy", "copy_"}:
            self._check_copy(args[-1] if name == "copy_" else args[0], out, kwargs)
        return out

    def _check_copy(self, source: Tensor, out: Tensor, options: dict[str, Any]) -> None:
        if source.device.type == out.device.type:
            return
        if out.device.type == "cpu":
            raise HostWaits(f"a copy of {tuple(source.shape)} from the device")
        if not (options.get("non_blocking") and any(source is pinned for pinned in self._pinned)):
            raise HostWaits(f"a copy of {tuple(source.shape)} to the device that is not pinned or not asynchronous")


@contextmanager
def fake_cuda() -> Iterator[tuple[FakeTensorMode, Recorder]]:
    """Yields the mode that makes fake tensors and the one that records; autocast and backward work on them."""
    with pytest.MonkeyPatch.context() as patch, FakeTensorMode() as fake, Recorder() as recorder:
        patch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
        patch.setattr("torch.cuda.is_bf16_supported", lambda *_: True)
        patch.setattr(Tensor, "backward", _backward)
        pair_ranks.cache_clear()  # it keeps tensors by device
        yield fake, recorder
    pair_ranks.cache_clear()


def step_on_fake_cuda(config: RunConfig, *, num_classes: int = 4) -> tuple[dict[str, Tensor], set[str]]:
    """Takes two steps of a training on fake tensors; returns what the second one reports and all operators' names."""
    batch = config.train.num_ids * config.train.num_instances
    images = torch.zeros((batch, *config.model.image_size, 3), dtype=torch.uint8)
    labels = torch.arange(batch) % num_classes
    given = [draw_inputs(config, images, labels, labels, Place(0, 0, step)) for step in range(2)]
    model = ReidModel(config.model, num_classes=num_classes)
    loss = StudyLoss(config.losses, Shape(num_classes=num_classes, width=model.classifier.in_features), seed=0)
    with fake_cuda() as (fake, recorder):
        for module in [*model.modules(), *loss.modules()]:
            _move(module)
        scaler = torch.amp.GradScaler("cuda", enabled=config.train.precision == "fp16")
        optimiser = build_optimiser(model.train(), config, loss)
        state = TrainingState(model=model, loss=loss, optimiser=optimiser, scaler=scaler)
        for number, inputs in enumerate(given):
            decisions = Decisions(*map(fake.from_tensor, vars(inputs.decisions).values()))
            parts = (fake.from_tensor(part) for part in (inputs.images, inputs.labels, inputs.camids))
            images, labels, camids = parts
            values = take_step(state, config, Inputs(images, decisions, labels, camids), CUDA, Place(0, 0, number))
    return values, recorder.names


def _move(module: nn.Module) -> None:
    for name, parameter in module._parameters.items():
        if parameter is not None:
            empty = torch.empty(parameter.shape, dtype=parameter.dtype, device=CUDA)
            module._parameters[name] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
    for name, buffer in module._buffers.items():
        if buffer is not None:
            module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device=CUDA)


def _backward(total: Tensor) -> None:
    """Leaves the gradient of a scalar in every leaf, as `Tensor.backward` does."""
    root: Any = total.grad_fn
    waiting: dict[Any, int] = defaultdict(int)
    known, stack = {root}, [root]
    while stack:
        for node, _ in stack.pop().next_functions:
            if node is not None:
                waiting[node] += 1
                if node not in known:
                    known.add(node)
                    stack.append(node)
    gradients: dict[Any, dict[int, Tensor]] = defaultdict(dict, {root: {0: torch.ones_like(total)}})
    ready = [root]
    while ready:
        node = ready.pop()
        given = gradients.pop(node, {})
        outputs: Any = ()
        if given and hasattr(node, "variable"):
            node.variable.grad = given[0]
        elif given:
            run = node if callable(node) else node.apply  # of a function written in Python
            outputs = run(*(given.get(i) for i in range(len(node._input_metadata))))
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        for number, (follower, i) in enumerate(node.next_functions):
            if follower is None:
                continue
            found = outputs[number] if number < len(outputs) else None
            if found is not None:
                found = _fitting(found, follower._input_metadata[i])
                slots = gradients[follower]
                slots[i] = slots[i] + found if i in slots else found
            waiting[follower] -= 1
            if not waiting[follower]:
                ready.append(follower)


def _fitting(gradient: Tensor, wanted: Any) -> Tensor:
    """Returns a gradient as the engine hands it on: summed to the shape and of the type that were there."""
    assert gradient.device == wanted.device, f"a gradient on {gradient.device} of a tensor on {wanted.device}"
    return gradient.sum_to_size(tuple(wanted.shape)).to(wanted.dtype)
