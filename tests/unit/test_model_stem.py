"""The stems against a plain functional re-implementation, layer by layer, and against published counts (a1)."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from reidablate.models.stem import ConvStem, IbnStem, patch_grid


def _random_stem(patch: int, width: int) -> IbnStem:
    stem = IbnStem(patch, width)
    generator = torch.Generator().manual_seed(0)
    for tensor in (*stem.parameters(), *stem.buffers()):
        if tensor.dtype.is_floating_point:
            tensor.data.uniform_(0.2, 1.0, generator=generator)
    return stem


def _norm(x: Tensor, dims: tuple[int, ...], weight: Tensor, shift: Tensor) -> Tensor:
    mean = x.mean(dims, keepdim=True)
    variance = ((x - mean) ** 2).mean(dims, keepdim=True)
    return (x - mean) / (variance + 1e-5).sqrt() * weight[:, None, None] + shift[:, None, None]


def _ibn(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    first, rest = x[:, :32], x[:, 32:]
    first = _norm(first, (2, 3), state[f"{name}.instance.weight"], state[f"{name}.instance.bias"])
    rest = _norm(rest, (0, 2, 3), state[f"{name}.batch.weight"], state[f"{name}.batch.bias"])
    return torch.cat([first, rest], dim=1)


@pytest.mark.parametrize("patch", [16, 8])
def test_ibn_stem_equals_the_layers_written_out(patch: int) -> None:
    stem = _random_stem(patch, 20).double()
    images = torch.randn(3, 3, 64, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    state = dict(stem.state_dict())
    x = F.conv2d(images, state["conv1.weight"], stride=2, padding=3)
    assert x.shape == (3, 64, 32, 16)
    x = _ibn(x, state, "norm1").clamp(min=0)
    x = F.conv2d(x, state["conv2.weight"], stride=1, padding=1)
    x = _ibn(x, state, "norm2").clamp(min=0)
    x = F.conv2d(x, state["conv3.weight"], stride=1, padding=1)
    x = _norm(x, (0, 2, 3), state["norm3.weight"], state["norm3.bias"]).clamp(min=0)
    x = F.conv2d(x, state["projection.weight"], state["projection.bias"], stride=patch // 2)
    assert x.shape == (3, 20, 64 // patch, 32 // patch)
    torch.testing.assert_close(stem(images), x)


def test_ibn_stem_uses_running_statistics_in_its_batch_half_only() -> None:
    stem = _random_stem(8, 20).eval()
    x = torch.randn(2, 64, 6, 4, generator=torch.Generator().manual_seed(1))
    batch = stem.norm1.batch
    assert batch.running_mean is not None
    assert batch.running_var is not None
    scaled = (x[:, 32:] - batch.running_mean[:, None, None]) / (batch.running_var[:, None, None] + 1e-5).sqrt()
    expected = scaled * batch.weight[:, None, None] + batch.bias[:, None, None]
    torch.testing.assert_close(stem.norm1(x)[:, 32:], expected)
    torch.testing.assert_close(stem.norm1(x)[:, :32], stem.norm1.train()(x)[:, :32])


@pytest.mark.parametrize(
    ("stem", "width", "count"),
    [(IbnStem, 768, 3_230_016), (IbnStem, 384, 1_656_768), (ConvStem, 768, 590_592)],
)
def test_published_parameter_counts(stem: type, width: int, count: int) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in stem(16, width).parameters()) == count


def test_parameter_count_of_each_layer() -> None:
    with torch.device("meta"):
        stem = IbnStem(16, 768)
    counts = {name: sum(p.numel() for p in module.parameters()) for name, module in stem.named_children()}
    assert counts == {
        "conv1": 9_408,
        "norm1": 128,
        "conv2": 36_864,
        "norm2": 128,
        "conv3": 36_864,
        "norm3": 128,
        "projection": 3_145_728 + 768,
    }


@pytest.mark.parametrize(("precision", "stays"), [(torch.float16, True), (torch.bfloat16, False)])
def test_under_fp16_on_a_cpu_the_stem_stays_in_float32(precision: torch.dtype, stays: bool) -> None:
    stem = _random_stem(16, 20)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", dtype=precision):
        grid = patch_grid(stem, images)
        product = grid.flatten(2) @ grid.flatten(2).mT  # what comes after it is in the precision asked for
    assert torch.equal(grid, stem(images)) == stays
    assert product.dtype == precision
