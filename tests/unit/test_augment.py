import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from timm.data.random_erasing import RandomErasing
from torchvision.transforms import functional

from reidablate.data.augment import Decisions, apply, draw, to_float
from reidablate.errors import UserError
from reidablate.rng import torch_generator

HEIGHT, WIDTH, PAD = 24, 12, 5


def batch(num_images: int) -> torch.Tensor:
    shape = (num_images, HEIGHT, WIDTH, 3)
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def draw_small(seed: int, num_images: int, **options: float) -> Decisions:
    generator = torch_generator(seed, "augment")
    return draw(generator, num_images, height=HEIGHT, width=WIDTH, pad=PAD, **options)  # type: ignore[arg-type]


def test_a_worked_example() -> None:
    image = torch.tensor([[[0, 51, 102], [255, 255, 255], [0, 0, 0]], [[255, 0, 0], [0, 255, 0], [0, 0, 255]]])
    decisions = Decisions(
        flip=torch.tensor([True]),
        shift=torch.tensor([[-1, 1]]),
        box=torch.tensor([[0, 2, 1, 1]]),
        noise=torch.tensor([7.0, 8.0, 9.0]),
    )
    # Mirrored rows: (black, white, mixed), (blue, green, red). One up, one to the right: (zero, blue, green), zeros.
    # Then the top right pixel is erased.
    expected = torch.tensor([[[-1, -1, 7], [-1, -1, -1]], [[-1, -1, 8], [-1, -1, -1]], [[-1, 1, 9], [-1, -1, -1]]])
    assert torch.equal(apply(image[None].byte(), decisions), expected[None].float())


def test_bytes_become_numbers_around_zero() -> None:
    image = torch.tensor([0, 51, 255], dtype=torch.uint8).expand(1, 2, 1, 3)
    floats = to_float(image)
    assert floats.shape == (1, 3, 2, 1)
    torch.testing.assert_close(floats[0, :, 1, 0], torch.tensor([-1.0, -0.6, 1.0]))


def test_each_image_is_treated_as_torchvision_treats_it() -> None:
    images, decisions = batch(64), draw_small(3, 64)
    result = apply(images, decisions)
    start = 0
    for image, flip, shift, box, found in zip(
        images, decisions.flip, decisions.shift.tolist(), decisions.box.tolist(), result, strict=True
    ):
        picture = Image.fromarray(image.numpy())
        picture = functional.hflip(picture) if flip else picture
        picture = functional.crop(functional.pad(picture, [PAD]), PAD - shift[0], PAD - shift[1], HEIGHT, WIDTH)
        expected = functional.normalize(functional.to_tensor(picture), [0.5] * 3, [0.5] * 3)
        top, left, height, width = box
        noise = decisions.noise[start : start + 3 * height * width].view(3, height, width)
        start += noise.numel()
        torch.testing.assert_close(found, functional.erase(expected, top, left, height, width, noise))
    assert start == len(decisions.noise) > 0


def test_the_batch_itself_is_not_changed() -> None:
    images = batch(8)
    apply(images, draw_small(0, 8))
    assert torch.equal(images, batch(8))


def timm_boxes(num_images: int) -> np.ndarray:
    """Returns top, left, height, width of the boxes that timm erases in an image of ones."""
    state = random.getstate()
    random.seed(0)
    ones = torch.ones(num_images, 1, HEIGHT, WIDTH)
    erased = RandomErasing(probability=0.5, mode="const", device="cpu")(ones)[:, 0].numpy() == 0
    random.setstate(state)
    erased = erased[erased.any(axis=(1, 2))]
    rows, columns = erased.any(axis=2), erased.any(axis=1)
    return np.stack([rows.argmax(1), columns.argmax(1), rows.sum(1), columns.sum(1)], axis=1)


def test_boxes_are_distributed_as_those_of_timm() -> None:
    ours = draw_small(0, 6000).box.numpy()
    ours = ours[ours[:, 2] > 0]
    theirs = timm_boxes(6000)
    assert stats.fisher_exact(np.array([[len(ours), 6000], [len(theirs), 6000]])).pvalue > 1e-3
    numbers: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "top": lambda box: box[:, 0],
        "left": lambda box: box[:, 1],
        "height": lambda box: box[:, 2],
        "width": lambda box: box[:, 3],
        "area": lambda box: box[:, 2] * box[:, 3],
        "bottom margin": lambda box: HEIGHT - box[:, 0] - box[:, 2],
        "right margin": lambda box: WIDTH - box[:, 1] - box[:, 3],
    }
    for name, number in numbers.items():
        counts = [np.bincount(number(boxes), minlength=HEIGHT * WIDTH) for boxes in (ours, theirs)]
        often = np.stack(counts)[:, np.sum(counts, axis=0) >= 20]
        assert stats.chi2_contingency(often).pvalue > 1e-3, name


def test_flips_shifts_and_noise_have_their_distributions() -> None:
    decisions = draw_small(1, 6000)
    assert stats.binomtest(int(decisions.flip.sum()), 6000, 0.5).pvalue > 1e-3
    for shift in decisions.shift.T + PAD:
        assert stats.chisquare(np.bincount(shift, minlength=2 * PAD + 1)).pvalue > 1e-3
    down, right = decisions.shift.numpy().T
    assert stats.chi2_contingency(np.histogram2d(down, right, bins=2 * PAD + 1)[0]).pvalue > 1e-3
    assert stats.kstest(decisions.noise[:20000].numpy(), "norm").pvalue > 1e-3


def test_everything_can_be_switched_off_and_always_on() -> None:
    images = batch(32)
    off = draw(
        torch_generator(0, "augment"), 32, height=HEIGHT, width=WIDTH, pad=0, flip_probability=0, erase_probability=0
    )
    assert len(off.noise) == 0
    assert torch.equal(apply(images, off), to_float(images))
    on = draw_small(0, 32, flip_probability=1, erase_probability=1)
    assert on.flip.all()
    assert (on.box[:, 2:] > 0).all()


def test_a_box_that_never_fits_is_given_up() -> None:
    never = draw(
        torch_generator(0, "augment"), 50, height=40, width=20, pad=0, erase_probability=1, erase_area=(0.99, 1)
    )
    assert (never.box[:, 2:] == 0).all()


def test_decisions_come_from_the_generator_alone() -> None:
    state = torch.get_rng_state()
    first, again, other = draw_small(4, 16), draw_small(4, 16), draw_small(5, 16)
    assert torch.equal(torch.get_rng_state(), state)
    for name in ("flip", "shift", "box", "noise"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    assert not torch.equal(first.shift, other.shift)


def test_padding_as_large_as_the_image_is_refused() -> None:
    with pytest.raises(UserError, match="pads 12 px around 24 x 12 px"):
        draw(torch_generator(0, "augment"), 1, height=24, width=12, pad=12)
