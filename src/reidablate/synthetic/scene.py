"""Procedural cameras: their streets, their light and optics, and what stands before a pedestrian.

H, W height and width of an image in pixels. Images are float32 RGB in 0..255 until they are encoded.
"""

import io
from dataclasses import dataclass
from math import pi

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from reidablate.synthetic.identity import Colour, Identity, Pose, shade
from reidablate.synthetic.pedestrian import Figure, Layer

Pixels = NDArray[np.float32]

SUPERSAMPLED_HEIGHT = 288
"""Least height in pixels at which figures are drawn before they are reduced to the image."""


@dataclass(frozen=True)
class Camera:
    """One fixed camera: `street` is a panorama of (2H, 8W) pixels whose wall meets the ground at half height."""

    street: Image.Image
    horizon: float
    gain: tuple[float, float, float]
    contrast: float
    gamma: float
    light: float
    view: float
    blur: float
    resolution: float
    noise: float
    quality: int


def scale_of(size: tuple[int, int]) -> int:
    """Returns the supersampling factor for images of `size` = (H, W)."""
    return max(2, -(-SUPERSAMPLED_HEIGHT // size[0]))


def sample_camera(rng: np.random.Generator, size: tuple[int, int], index: int) -> Camera:
    """Returns a camera drawn at random; `index` spreads the main view direction over the cameras."""
    brightness = rng.uniform(0.9, 1.15)
    cast = 1.0 + rng.normal(0, 0.03, 3)
    red, green, blue = (float(g) for g in brightness * cast)
    return Camera(
        street=_street(rng, size),
        horizon=float(rng.uniform(0.2, 0.72)),
        gain=(red, green, blue),
        contrast=float(rng.uniform(0.88, 1.1)),
        gamma=float(rng.uniform(0.9, 1.12)),
        light=float(rng.choice((-1, 1)) * rng.uniform(0.3, 1.0)),
        view=(index * 2.4 + rng.uniform(-0.4, 0.4)) % (2 * pi),
        blur=float(rng.uniform(0.0, 0.0055)),
        resolution=float(rng.uniform(0.55, 1.0)),
        noise=float(rng.uniform(1.0, 4.0)),
        quality=int(rng.integers(68, 93)),
    )


def grey(rng: np.random.Generator, low: float, high: float) -> Colour:
    """Returns a nearly grey colour with a level in low..high."""
    level = rng.uniform(low, high)
    red, green, blue = (int(np.clip(level + rng.normal(0, 4), 0, 255)) for _ in range(3))
    return red, green, blue


def texture(rng: np.random.Generator, size: tuple[int, int]) -> Pixels:
    """Returns smooth noise over three octaves, mean 0 and standard deviation about 1, shape (H, W)."""
    total = np.zeros(size, dtype=np.float32)
    for cells, weight in ((6, 0.7), (20, 0.5), (64, 0.5)):
        shape = (max(2, cells * size[0] // max(size)), max(2, cells * size[1] // max(size)))
        coarse = Image.fromarray(rng.standard_normal(shape).astype(np.float32))
        total += weight * np.asarray(coarse.resize((size[1], size[0]), Image.Resampling.BICUBIC))
    return total


def _street(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Returns the panorama of a camera: a wall with its details above, the ground below, near grey."""
    height, width = 2 * size[0], 8 * size[1]
    wall, ground = grey(rng, 105, 170), grey(rng, 105, 165)
    image = Image.new("RGB", (2 * width, 2 * height), wall)
    draw = ImageDraw.Draw(image)
    kind = int(rng.integers(4))
    (_bricks, _windows, _fence, _panels)[kind](rng, draw, wall, (2 * width, height))
    _pavement(rng, draw, ground, (2 * width, height))
    for _ in range(int(rng.integers(3, 7))):
        _street_object(rng, draw, (2 * width, height))
    grain = 5.0 * texture(rng, (height, width))[..., None] + rng.normal(0, 3, (height, width, 1))
    pixels = np.asarray(image.reduce(2), dtype=np.float32) + grain
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _bricks(rng: np.random.Generator, draw: ImageDraw.ImageDraw, wall: Colour, size: tuple[int, int]) -> None:
    rows = int(rng.integers(14, 26))
    tall = size[1] / rows
    for row in range(rows):
        for column in range(int(size[0] / (2.4 * tall)) + 2):
            x, y = (column - 0.5 * (row % 2)) * 2.4 * tall, row * tall
            colour = shade(wall, rng.uniform(0.9, 1.06))
            draw.rectangle((x, y, x + 2.4 * tall - 2, y + tall - 2), fill=colour)


def _windows(rng: np.random.Generator, draw: ImageDraw.ImageDraw, wall: Colour, size: tuple[int, int]) -> None:
    step = size[1] * rng.uniform(0.5, 0.9)
    glass = shade(wall, rng.uniform(0.35, 0.65))
    for column in range(int(size[0] / step) + 1):
        x = column * step + rng.uniform(0, 0.1) * step
        box = (x, size[1] * 0.25, x + 0.62 * step, size[1] * rng.choice((0.8, 0.8, 0.97)))
        draw.rectangle(box, fill=glass, outline=shade(wall, 1.2), width=4)
        draw.polygon(
            [
                (box[0] + 8, box[3]),
                (box[0] + 0.2 * step, box[1]),
                (box[0] + 0.34 * step, box[1]),
                (box[0] + 0.14 * step, box[3]),
            ],
            fill=shade(glass, 1.25),
        )
        draw.line((x + 0.31 * step, box[1], x + 0.31 * step, box[3]), fill=shade(wall, 1.1), width=4)


def _fence(rng: np.random.Generator, draw: ImageDraw.ImageDraw, wall: Colour, size: tuple[int, int]) -> None:
    green = (int(rng.integers(70, 95)), int(rng.integers(88, 115)), int(rng.integers(62, 84)))
    for _ in range(900):
        x, y, r = rng.uniform(0, size[0]), size[1] * rng.uniform(0.35, 1.0), rng.uniform(6, 22)
        draw.ellipse((x - r, y - r, x + r, y + r), fill=shade(green, rng.uniform(0.7, 1.2)))
    rail = shade(wall, 0.6)
    for x in np.arange(0, size[0], size[1] * 0.07):
        draw.line((x, size[1] * 0.55, x, size[1]), fill=rail, width=3)
    draw.line((0, size[1] * 0.57, size[0], size[1] * 0.57), fill=rail, width=6)


def _panels(rng: np.random.Generator, draw: ImageDraw.ImageDraw, wall: Colour, size: tuple[int, int]) -> None:
    step = size[1] * rng.uniform(0.3, 0.6)
    for column in range(int(size[0] / step) + 1):
        draw.rectangle((column * step, 0, (column + 1) * step - 3, size[1]), fill=shade(wall, rng.uniform(0.9, 1.08)))
    draw.rectangle((0, size[1] * 0.9, size[0], size[1]), fill=shade(wall, 0.75))


def _pavement(rng: np.random.Generator, draw: ImageDraw.ImageDraw, ground: Colour, size: tuple[int, int]) -> None:
    width, top = size
    for row in range(top):
        draw.line((0, top + row, width, top + row), fill=shade(ground, 0.88 + 0.2 * row / top))
    joint = shade(ground, 0.8)
    if rng.random() < 0.7:
        y, step = float(top), top * 0.02
        while y < 2 * top:
            draw.line((0, y, width, y), fill=joint, width=2)
            step *= 1.35
            y += step
        for column in range(-20, 60):
            x = width * (column + 0.5) / 40
            draw.line((x, top, width / 2 + (x - width / 2) * 2.2, 2 * top), fill=joint, width=2)
    else:
        y = top * rng.uniform(1.3, 1.7)
        draw.polygon([(0, y), (width, y * 1.02), (width, y * 1.06), (0, y * 1.05)], fill=shade(ground, 1.3))
    draw.rectangle((0, top, width, top * 1.025), fill=shade(ground, 0.65))


def _street_object(rng: np.random.Generator, draw: ImageDraw.ImageDraw, size: tuple[int, int]) -> None:
    x, colour = rng.uniform(0, size[0]), grey(rng, 70, 190)
    kind = int(rng.integers(4))
    if kind == 0:
        draw.rectangle((x, 0, x + size[1] * 0.05, size[1] * 1.1), fill=colour)
    elif kind == 1:
        draw.rectangle((x, size[1] * 0.3, x + size[1] * 0.5, size[1]), fill=colour, outline=shade(colour, 0.6), width=5)
        draw.ellipse((x + size[1] * 0.41, size[1] * 0.64, x + size[1] * 0.45, size[1] * 0.68), fill=shade(colour, 1.5))
    elif kind == 2:
        draw.rounded_rectangle((x, size[1] * 0.72, x + size[1] * 0.2, size[1] * 1.08), 9, fill=colour)
        draw.rectangle((x, size[1] * 0.76, x + size[1] * 0.2, size[1] * 0.79), fill=shade(colour, 0.6))
    else:
        box = (x, size[1] * 0.35, x + size[1] * 0.36, size[1] * 0.6)
        draw.rectangle(box, fill=colour, outline=shade(colour, 0.5), width=5)
        for row in range(3):
            y = size[1] * (0.4 + 0.06 * row)
            draw.rectangle((x + size[1] * 0.04, y, x + size[1] * 0.3, y + size[1] * 0.02), fill=shade(colour, 0.6))


def background(rng: np.random.Generator, camera: Camera, size: tuple[int, int]) -> Pixels:
    """Returns a random crop (H, W, 3) of the camera's street with the ground line near the camera's horizon."""
    zoom = rng.uniform(0.85, 1.15)
    high, wide = size[0] * zoom, size[1] * zoom
    horizon = min(0.98, max(0.02, camera.horizon + rng.normal(0, 0.04)))
    top = min(max(0.0, size[0] - horizon * high), 2 * size[0] - high)
    left = rng.uniform(0, camera.street.width - wide)
    box = (left, top, left + wide, top + high)
    crop = camera.street.resize((size[1], size[0]), Image.Resampling.BILINEAR, box=box)
    return np.asarray(crop, dtype=np.float32)


def over(canvas: Pixels, drawing: Pixels) -> Pixels:
    """Returns `drawing` (H, W, 4; premultiplied, alpha 0..1) laid over `canvas` (H, W, 3)."""
    return canvas * (1.0 - drawing[..., 3:]) + drawing[..., :3]


def volume(drawing: Pixels, light: float) -> Pixels:
    """Returns the drawing with its sides towards and away from the light lightened and darkened."""
    height = drawing.shape[0]
    alpha = Image.fromarray((drawing[..., 3] * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(height * 0.022))
    slope = np.gradient(np.asarray(alpha, dtype=np.float32), axis=1) * (height / 128.0 / 255.0)
    shaded = drawing.copy()
    shaded[..., :3] *= np.clip(1.0 - 2.2 * light * slope - 1.1 * np.abs(slope), 0.5, 1.35)[..., None]
    return np.minimum(shaded, np.float32(255.0))


def expose(rng: np.random.Generator, camera: Camera, canvas: Pixels) -> Image.Image:
    """Returns the picture the camera takes of `canvas`: light, colour cast, contrast, blur, resolution and noise."""
    height, width = canvas.shape[:2]
    ramp = 1.0 + 0.10 * camera.light * np.linspace(-1, 1, width, dtype=np.float32)[None, :, None]
    gain = np.asarray(camera.gain, dtype=np.float32) * np.float32(1.0 + rng.normal(0, 0.04))
    pixels = np.clip(canvas * ramp * gain, 0, 255) / 255.0
    pixels = (np.power(pixels, np.float32(camera.gamma)) - 0.45) * camera.contrast + 0.45
    image = Image.fromarray((np.clip(pixels, 0, 1) * 255).astype(np.uint8))
    share = camera.resolution * rng.uniform(0.8, 1.0)
    small = (max(8, round(width * share)), max(16, round(height * share)))
    if small[1] < height:
        image = image.resize(small, Image.Resampling.BOX).resize((width, height), Image.Resampling.BILINEAR)
    image = image.filter(ImageFilter.GaussianBlur(camera.blur * height))
    noisy = np.asarray(image, dtype=np.float32) + camera.noise * rng.standard_normal(
        (height, width, 3), dtype=np.float32
    )
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def encode(image: Image.Image, quality: int, comment: str) -> bytes:
    """Returns a JPEG with `comment` in its header."""
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality, comment=comment.encode("ascii"))
    return stream.getvalue()


def draw_person(
    rng: np.random.Generator,
    person: Identity,
    pose: Pose,
    size: tuple[int, int],
    *,
    foot: tuple[float, float],
    unit: float,
) -> tuple[Pixels, Pixels]:
    """Returns the drawing (H, W, 4) and the ground shadow (H, W) in 0..1 of a person.

    Args:
        rng: Stream of the image.
        person: Who.
        pose: How.
        size: (H, W) pixels.
        foot: Where the feet stand, as fractions of W and H.
        unit: Height of a person of average size as a fraction of H.
    """
    scale = scale_of(size)
    layer = Layer(size, scale)
    x, y = foot[0] * layer.width, foot[1] * layer.height
    Figure(layer, person, pose, (x, y), unit * layer.height).draw()
    shadow = Image.new("L", (layer.width, layer.height))
    wide, slant = 0.17 * unit * layer.height, rng.uniform(-0.08, 0.08) * layer.height
    ImageDraw.Draw(shadow).ellipse((x - wide + slant, y - wide * 0.22, x + wide + slant, y + wide * 0.2), fill=120)
    small = shadow.reduce(scale).filter(ImageFilter.GaussianBlur(size[0] * 0.012))
    return layer.reduced(), np.asarray(small, dtype=np.float32) / 255.0
