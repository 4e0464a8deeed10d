"""What stands between the camera and a procedural pedestrian: cars, hedges, poles, people, boards, umbrellas.

H, W height and width of an image in pixels.
"""

from collections.abc import Callable
from math import pi

import numpy as np

from reidablate.synthetic.identity import Colour, sample_identity, sample_pose, shade
from reidablate.synthetic.pedestrian import Figure, Layer
from reidablate.synthetic.scene import Pixels, grey, scale_of

OCCLUDERS = ("car", "car", "car", "hedge", "hedge", "pole", "person", "person", "board", "umbrella")
"""Drawn with equal chance: cars are the commonest occluders of the real set, whole bodies stay the rarest."""


def occluder(rng: np.random.Generator, size: tuple[int, int], share: float, foot_x: float) -> Pixels:
    """Returns an object (H, W, 4) that hides `share` of the image's area, to within about one percent.

    `foot_x` is where the pedestrian stands, as a fraction of W: narrow objects are put before it.
    """
    kind = OCCLUDERS[rng.integers(len(OCCLUDERS))]
    state = int(rng.integers(2**32))
    draw = _OCCLUDER_DRAWINGS[kind]

    def drawn(amount: float, scale: int) -> Layer:
        layer = Layer(size, scale)
        draw(np.random.Generator(np.random.PCG64(state)), layer, amount, foot_x * layer.width)
        return layer

    low, high = 0.0, 1.0
    for _ in range(7):
        middle = (low + high) / 2
        covered = float(np.mean(np.asarray(drawn(middle, 1).image.getchannel("A")))) / 255.0
        low, high = (middle, high) if covered < share else (low, middle)
    return drawn((low + high) / 2, scale_of(size)).reduced()


def _car(rng: np.random.Generator, layer: Layer, amount: float, _: float) -> None:
    paint: Colour = ((176, 178, 182), (62, 64, 70), (118, 72, 70), (80, 92, 116), (204, 204, 202))[rng.integers(5)]
    high, wide = layer.height, layer.width
    top = high * (1.02 - 0.95 * amount)
    lean, turn = rng.uniform(0.1, 0.5) * wide, int(rng.choice((-1, 1)))
    middle = wide / 2

    def flipped(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
        return [(middle + turn * (x - middle), y) for x, y in points]

    roof = top + 0.05 * high
    layer.polygon(
        flipped(
            [
                (-1, top),
                (wide * 0.55, top),
                (wide * 0.72 + lean, roof + 0.1 * high),
                (wide + 1, roof + 0.12 * high),
                (wide + 1, high),
                (-1, high),
            ]
        ),
        paint,
    )
    layer.polygon(
        flipped(
            [
                (-1, top + 0.018 * high),
                (wide * 0.5, top + 0.018 * high),
                (wide * 0.62 + lean * 0.6, roof + 0.085 * high),
                (-1, roof + 0.085 * high),
            ]
        ),
        shade(paint, 0.35),
    )
    layer.polygon(
        flipped(
            [
                (-1, roof + 0.15 * high),
                (wide + 1, roof + 0.17 * high),
                (wide + 1, roof + 0.18 * high),
                (-1, roof + 0.16 * high),
            ]
        ),
        shade(paint, 0.75),
    )
    layer.ellipse(middle + turn * wide * 0.28, top + 0.42 * high, 0.13 * high, 0.13 * high, (26, 26, 28))
    layer.ellipse(middle + turn * wide * 0.28, top + 0.42 * high, 0.065 * high, 0.065 * high, (150, 152, 156))


def _hedge(rng: np.random.Generator, layer: Layer, amount: float, _: float) -> None:
    high, wide = layer.height, layer.width
    top = high * (1.0 - amount)
    green = (int(rng.integers(66, 90)), int(rng.integers(86, 110)), int(rng.integers(58, 78)))
    layer.draw.rectangle((0, top + 0.03 * high, wide, 1.03 * high), fill=(*shade(green, 0.75), 255))
    leaves = rng.random((170, 4))
    for x, y, r, tone in leaves:
        radius = (0.012 + 0.022 * r) * high
        layer.ellipse(x * wide, top + radius + y * (high - top), radius, radius, shade(green, 0.65 + 0.6 * tone))


def _pole(rng: np.random.Generator, layer: Layer, amount: float, foot_x: float) -> None:
    colour = grey(rng, 50, 150) if rng.random() < 0.5 else (92, 76, 62)
    half = amount * layer.width * 0.55
    centre = foot_x + rng.choice((-1, 1)) * rng.uniform(0.08, 0.26) * layer.width
    for step in range(8):
        left = centre - half + step * half / 4
        layer.draw.rectangle(
            (left, 0, left + half / 4, layer.height),
            fill=(*shade(colour, 0.7 + 0.45 * np.sin(0.35 + step * 0.36)), 255),
        )
    for mark in rng.random((14, 2)):
        x, y = centre - half + mark[0] * 2 * half, mark[1] * layer.height
        layer.draw.line((x, y, x, y + 0.06 * layer.height), fill=(*shade(colour, 0.62), 255), width=max(1, layer.scale))


def _passer_by(rng: np.random.Generator, layer: Layer, amount: float, foot_x: float) -> None:
    person = sample_identity(rng)
    pose = sample_pose(rng, rng.uniform(0, 2 * pi))
    side = 1 if foot_x < layer.width / 2 else -1
    unit = layer.height * (0.75 + 0.55 * amount)
    x = foot_x + side * layer.width * (0.75 - 0.62 * amount)
    Figure(layer, person, pose, (x, layer.height * (1.0 + 0.2 * amount)), unit).draw()


def _board(rng: np.random.Generator, layer: Layer, amount: float, foot_x: float) -> None:
    colour = grey(rng, 80, 200)
    high, wide = layer.height, layer.width
    tall, half = high * min(1.0, 0.12 + 0.9 * amount), wide * (0.22 + 0.36 * amount)
    bottom = high * rng.uniform(0.92, 1.02)
    box = (foot_x - half, bottom - tall, foot_x + half, bottom)
    layer.draw.rectangle(box, fill=(*colour, 255), outline=(*shade(colour, 0.55), 255), width=2 * layer.scale)
    for row in range(5):
        y = box[1] + tall * (0.14 + 0.15 * row)
        end = box[2] - half * (0.2 + 0.9 * rng.random())
        layer.draw.rectangle(
            (box[0] + half * 0.2, y, end, y + tall * 0.06), fill=(*shade(colour, 0.6 if row else 0.3), 255)
        )


def _umbrella(rng: np.random.Generator, layer: Layer, amount: float, foot_x: float) -> None:
    colour: Colour = ((120, 66, 68), (62, 68, 92), (56, 58, 60), (150, 142, 112), (84, 110, 102))[rng.integers(5)]
    reach, rise = layer.width * (0.3 + 0.45 * amount), layer.height * (0.08 + 0.75 * amount)
    rim = rise * 0.98
    for part in range(6):
        tone = shade(colour, 0.8 + 0.3 * (part % 2))
        left, right = foot_x - reach + part * reach / 3, foot_x - reach + (part + 1) * reach / 3
        layer.polygon(
            [(foot_x, rim - rise), (left, rim), ((left + right) / 2, rim + 0.03 * layer.height), (right, rim)], tone
        )
    layer.draw.chord(
        (foot_x - reach, rim - rise * 0.9, foot_x + reach, rim + rise * 0.9), 180, 360, fill=(*colour, 255)
    )
    for part in range(1, 6):
        x = foot_x - reach + part * reach / 3
        layer.draw.line((foot_x, rim - rise * 0.9, x, rim), fill=(*shade(colour, 0.7), 255), width=max(1, layer.scale))


_OCCLUDER_DRAWINGS: dict[str, Callable[[np.random.Generator, Layer, float, float], None]] = {
    "car": _car, "hedge": _hedge, "pole": _pole, "person": _passer_by, "board": _board, "umbrella": _umbrella,
}  # fmt: skip
