"""A step of every core cell on fake CUDA tensors: no host wait, no mixed devices, no operator that may vary."""

import re
from collections.abc import Callable

import pytest
import torch
import yaml
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

from fake_cuda import CUDA, HostWaits, fake_cuda, step_on_fake_cuda
from reidablate.config import Preset, RunConfig
from reidablate.engine.spec import be_deterministic
from reidablate.pinned import to_device
from reidablate.trees import merge
from support import ROOT, shipped_cells

PRESET = Preset.model_validate(yaml.safe_load((ROOT / "tests" / "tiny.yaml").read_text()))
CELLS = {name: cell for name, cell in shipped_cells([PRESET]).items() if cell.tier == "core"}
# Beside the core cells, what only they do on a GPU.
CELLS |= {name: shipped_cells([PRESET])[name] for name in ("shaw_key", "cls_per_patch", "cls_term", "gap")}

# What the documentation of `torch.use_deterministic_algorithms` lists, and the operators behind each entry, without
# those of MPS and of quantised and sparse tensors. An entry whose operators run here would end a training.
RAISES = {
    "torch.nn.AvgPool3d": ["avg_pool3d_backward"],
    "torch.nn.AdaptiveAvgPool2d": ["_adaptive_avg_pool2d_backward"],
    "torch.nn.AdaptiveAvgPool3d": ["_adaptive_avg_pool3d_backward"],
    "torch.nn.AdaptiveMaxPool2d": ["adaptive_max_pool2d_backward"],
    "torch.nn.FractionalMaxPool2d": ["fractional_max_pool2d_backward"],
    "torch.nn.FractionalMaxPool3d": ["fractional_max_pool3d_backward"],
    "torch.nn.MaxUnpool1d": ["max_unpool2d"],
    "torch.nn.MaxUnpool2d": ["max_unpool2d"],
    "torch.nn.MaxUnpool3d": ["max_unpool3d"],
    "torch.nn.functional.interpolate": [
        f"upsample_{name}_backward" for name in ("linear1d", "bilinear2d", "bicubic2d", "trilinear3d")
    ],
    "torch.nn.ReflectionPad1d": ["reflection_pad1d_backward"],
    "torch.nn.ReflectionPad2d": ["reflection_pad2d_backward"],
    "torch.nn.ReflectionPad3d": ["reflection_pad3d_backward"],
    # The kernel of images alone (aten/src/ATen/native/cuda/NLLLoss2d.cu) raises; that of (B, C) logits does not.
    "torch.nn.NLLLoss": ["nll_loss2d_forward", "nll_loss2d_backward"],
    "torch.nn.CTCLoss": ["_ctc_loss_backward", "_cudnn_ctc_loss"],
    "torch.nn.EmbeddingBag": ["_embedding_bag_backward", "_embedding_bag_dense_backward"],
    "torch.Tensor.put_": ["put", "put_"],
    "torch.histc": ["histc"],
    "torch.bincount": ["bincount"],
    "torch.median": ["median", "nanmedian"],
    "torch.nn.functional.grid_sample": ["grid_sampler_2d_backward", "grid_sampler_3d_backward"],
    "torch.Tensor.scatter_reduce": ["scatter_reduce", "scatter_reduce_"],
    "torch.Tensor.index_put": [],  # on MPS
    "torch.Tensor.index_reduce": [],
    "torch.kthvalue": [],
    "torch.nn.Embedding": [],
    "torch.nn.MaxPool2d": [],
    "torch.nn.MaxPool3d": [],
    "torch.Tensor.resize_": [],  # quantised
}
# These repeat themselves once deterministic algorithms are on.
VARIES = {
    **{f"torch.nn.Conv{d}d": ["convolution", "convolution_backward"] for d in (1, 2, 3)},
    **{f"torch.nn.ConvTranspose{d}d": ["convolution", "convolution_backward"] for d in (1, 2, 3)},
    **{f"torch.nn.ReplicationPad{d}d": [f"replication_pad{d}d_backward"] for d in (1, 2, 3)},
    "torch.bmm": [],  # sparse
    "torch.cumsum": ["cumsum"],
    "torch.Tensor.__getitem__": ["index_put"],
    "torch.Tensor.index_put": ["index_put", "index_put_"],
    "torch.Tensor.put_": ["put_"],
    "torch.Tensor.scatter_add_": ["scatter_add", "scatter_add_"],
    "torch.gather": ["scatter_add"],
    "torch.index_add": ["index_add", "index_add_"],
    "torch.index_select": ["index_add"],
    "torch.repeat_interleave": ["repeat_interleave"],
    "torch.Tensor.index_copy": ["index_copy", "index_copy_"],
    "torch.Tensor.scatter": ["scatter", "scatter_"],
    "torch.Tensor.scatter_reduce": ["scatter_reduce"],
    "torch.nn.MaxPool3d": ["max_pool3d_with_indices_backward"],
    "torch.nn.Embedding": ["embedding_dense_backward"],
}


def published(after: str) -> set[str]:
    """Returns the names in the list of PyTorch's own documentation that follows a sentence."""
    text = str(torch.use_deterministic_algorithms.__doc__).split(after)[1]
    items = re.split(r"\n\n    [^ ]", text.partition("mode=True``:")[2].lstrip("\n"))[0]
    lines = [line for line in items.splitlines() if line.strip().startswith("*")]
    return {name for line in lines for name in re.findall(r"`(torch[\w.]+)`", line)}


def test_the_lists_are_those_of_this_pytorch() -> None:
    assert published("operations will act") == set(VARIES)
    assert published("operations will throw") == set(RAISES)


@pytest.mark.parametrize("cell", sorted(CELLS))
def test_a_step_neither_waits_nor_varies(cell: str) -> None:
    be_deterministic(1)
    over = {"model": {"stem": "ics"}, "train": {"precision": "fp16"}}
    config = RunConfig.model_validate(merge(CELLS[cell].resolve(PRESET).dump(), over))
    values, names = step_on_fake_cuda(config)
    assert {value.device for value in values.values()} == {torch.device("cuda", 0)}
    assert {"total", "identity", "gradient_norm", "loss_scale", "skipped"} <= set(values)
    assert {"convolution_backward", "_fused_sgd_", "_amp_foreach_non_finite_check_and_unscale_"} <= names
    assert not names & {name for behind in RAISES.values() for name in behind}
    assert not names & {"scatter_add", "scatter_add_"}  # the gradient of relative keys is a gather
    assert torch.are_deterministic_algorithms_enabled()  # which is what keeps those of VARIES from varying


@pytest.mark.parametrize("over", [{"precision": "bf16"}, {"precision": "fp32"}, {"optimiser": "adamw"}])
def test_so_it_is_in_other_precisions_and_with_the_other_optimiser(over: dict[str, str]) -> None:
    config = RunConfig.model_validate(merge(CELLS["p1_rpe_jsd"].resolve(PRESET).dump(), {"train": over}))
    values, names = step_on_fake_cuda(config)
    assert {value.device.type for value in values.values()} == {"cuda"}
    assert ("_fused_adamw_" in names) == ("optimiser" in over)


WAITS: dict[str, tuple[Callable[[Tensor, Tensor], object], type[Exception]]] = {
    "a number": (lambda device, _: device.sum().item(), DataDependentOutputException),
    "a branch": (lambda device, _: bool(device.any()), DataDependentOutputException),
    "a mask": (lambda device, _: device[device > 0], DynamicOutputShapeException),
    "an index on the device": (lambda device, _: device[device.argmax()], DataDependentOutputException),
    "a copy back": (lambda device, _: device.cpu(), HostWaits),
    "a copy that is not pinned": (lambda _, host: host.to(CUDA, non_blocking=True), HostWaits),
    "a copy that is waited for": (lambda _, host: host.pin_memory().to(CUDA), HostWaits),
    "mixed devices": (lambda device, host: device + host, RuntimeError),
}


@pytest.mark.parametrize("name", WAITS)
def test_whatever_waits_is_found(name: str) -> None:
    act, error = WAITS[name]
    with fake_cuda() as (fake, _):
        host, device = fake.from_tensor(torch.zeros(3)), torch.zeros(3, device=CUDA)
        assert to_device(host, CUDA).device.type == "cuda"
        with pytest.raises(error):
            act(device, host)
