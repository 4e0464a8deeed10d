import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reidablate.data.augment import Decisions, _apply_at_once, _apply_one_by_one, draw
from reidablate.rng import torch_generator


@st.composite
def batches(draw_value: st.DrawFn) -> tuple[torch.Tensor, Decisions, int]:
    num_images, height, width = (draw_value(st.integers(1, high)) for high in (6, 20, 14))
    pad = draw_value(st.integers(0, min(height, width) - 1))
    generator = torch_generator(draw_value(st.integers(0, 2**32)), "augment")
    images = torch.randint(0, 256, (num_images, height, width, 3), generator=generator, dtype=torch.uint8)
    probability = draw_value(st.sampled_from([0.0, 0.5, 1.0]))
    decisions = draw(generator, num_images, height=height, width=width, pad=pad, erase_probability=probability)
    return images, decisions, pad


def by_definition(images: torch.Tensor, decisions: Decisions, pad: int) -> np.ndarray:
    """Flip, pad, crop, normalise and erase, image by image with NumPy."""
    height, width = images.shape[1:3]
    noise, results = decisions.noise.numpy(), []
    for pixels, flip, (down, right), (top, left, rows, columns) in zip(
        images.numpy(), decisions.flip, decisions.shift.tolist(), decisions.box.tolist(), strict=True
    ):
        image = pixels[:, ::-1] if flip else pixels
        image = np.pad(image, ((pad, pad), (pad, pad), (0, 0)))
        image = image[pad - down : pad - down + height, pad - right : pad - right + width]
        result = ((image / 255 - 0.5) / 0.5).transpose(2, 0, 1)
        box, noise = np.split(noise, [3 * rows * columns])
        result[:, top : top + rows, left : left + columns] = box.reshape(3, rows, columns)
        results.append(result)
    assert len(noise) == 0
    return np.stack(results)


@settings(deadline=None, max_examples=150)
@given(batches())
def test_both_ways_of_applying_decisions_follow_the_definition(case: tuple[torch.Tensor, Decisions, int]) -> None:
    images, decisions, pad = case
    one_by_one = _apply_one_by_one(images, decisions)
    assert one_by_one.dtype == torch.float32
    assert one_by_one.is_contiguous()
    np.testing.assert_allclose(one_by_one.numpy(), by_definition(images, decisions, pad), atol=1e-6)
    assert torch.equal(one_by_one, _apply_at_once(images, decisions))


@settings(deadline=None, max_examples=150)
@given(batches())
def test_decisions_stay_inside_the_image(case: tuple[torch.Tensor, Decisions, int]) -> None:
    images, decisions, pad = case
    frame = torch.tensor(images.shape[1:3])
    corner, size = decisions.box[:, :2], decisions.box[:, 2:]
    assert (decisions.shift.abs() <= pad).all()
    assert (corner >= 0).all()
    assert (corner + size <= frame).all()
    assert (size < frame).all()
    assert decisions.noise.isfinite().all()
