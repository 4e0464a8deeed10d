"""Who a procedural pedestrian is, and how the body stands in one image."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

Colour = tuple[int, int, int]
"""Red, green and blue, 0..255."""

SKINS: tuple[Colour, ...] = ((236, 200, 175), (222, 178, 146), (196, 148, 112), (150, 105, 76), (98, 66, 48))
HAIRS: tuple[Colour, ...] = ((28, 24, 24), (48, 34, 28), (86, 58, 38), (140, 100, 58), (196, 164, 106), (150, 148, 146))
CLOTH: dict[str, Colour] = {
    "black": (30, 30, 33), "charcoal": (66, 66, 70), "grey": (128, 128, 130), "silver": (186, 187, 190),
    "white": (232, 231, 227), "navy": (34, 42, 82), "blue": (50, 92, 168), "sky": (142, 180, 216),
    "red": (176, 40, 42), "burgundy": (104, 32, 46), "pink": (220, 146, 162), "orange": (214, 118, 48),
    "yellow": (216, 188, 76), "green": (52, 116, 68), "olive": (104, 104, 64), "teal": (42, 122, 126),
    "purple": (100, 64, 132), "beige": (200, 180, 146), "brown": (112, 80, 56), "denim": (70, 94, 136),
}  # fmt: skip
UPPER = ("black", "charcoal", "grey", "silver", "white", "white", "navy", "blue", "sky", "red", "burgundy", "pink",
         "orange", "yellow", "green", "olive", "teal", "purple", "beige", "brown")  # fmt: skip
LOWER = ("black", "black", "charcoal", "grey", "navy", "denim", "denim", "beige", "olive", "brown", "white", "burgundy")
SHOES = ("black", "black", "white", "white", "brown", "red", "blue", "grey", "beige")
BAGS = ("black", "charcoal", "red", "blue", "brown", "beige", "green", "yellow", "pink")
TOPS = ("tshirt", "tshirt", "shirt", "shirt", "jacket", "coat", "vest")
BOTTOMS = ("trousers", "trousers", "trousers", "shorts", "skirt")
PATTERNS = ("plain", "plain", "plain", "hoops", "pinstripe", "check", "block", "logo", "print")
HAIR_STYLES = ("short", "short", "long", "bun", "bald", "cap", "hood")
CARRIED = ("none", "none", "backpack", "backpack", "shoulder", "handbag", "suitcase")


@dataclass(frozen=True)
class Identity:
    """Everything that stays the same over all images of one person."""

    stature: float
    build: float
    skin: Colour
    hair: Colour
    hair_style: str
    top: str
    top_colour: Colour
    top_second: Colour
    pattern: str
    pitch: float
    bottom: str
    bottom_colour: Colour
    side_stripe: bool
    shoes: Colour
    carried: str
    bag: Colour
    bag_side: int


@dataclass(frozen=True)
class Pose:
    """One moment of a walk; angles in radians, `view` 0 faces the camera, pi shows the back."""

    view: float
    stride: float
    knees: tuple[float, float]
    arms: tuple[float, float]
    elbows: tuple[float, float]
    lean: float


def _tinted(rng: np.random.Generator, names: tuple[str, ...]) -> Colour:
    base = CLOTH[names[rng.integers(len(names))]]
    red, green, blue = (int(np.clip(c + rng.normal(0, 12), 12, 246)) for c in base)
    return red, green, blue


def _pick(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[rng.integers(len(options))]


def sample_identity(rng: np.random.Generator) -> Identity:
    """Returns a person drawn at random: body, skin, hair, garments, shoes and what is carried."""
    return Identity(
        stature=float(rng.uniform(0.93, 1.05)),
        build=float(rng.uniform(0.86, 1.22)),
        skin=SKINS[rng.integers(len(SKINS))],
        hair=HAIRS[rng.integers(len(HAIRS))],
        hair_style=_pick(rng, HAIR_STYLES),
        top=_pick(rng, TOPS),
        top_colour=_tinted(rng, UPPER),
        top_second=_tinted(rng, UPPER),
        pattern=_pick(rng, PATTERNS),
        pitch=float(rng.uniform(0.045, 0.075)),
        bottom=_pick(rng, BOTTOMS),
        bottom_colour=_tinted(rng, LOWER),
        side_stripe=bool(rng.random() < 0.15),
        shoes=_tinted(rng, SHOES),
        carried=_pick(rng, CARRIED),
        bag=_tinted(rng, BAGS),
        bag_side=int(rng.choice((-1, 1))),
    )


def look_alike(person: Identity, rng: np.random.Generator) -> Identity:
    """Returns another person in the same clothes colours who differs in two of the lesser attributes."""
    other = sample_identity(rng)
    changes = (
        {"pattern": _another(rng, PATTERNS, person.pattern), "top_second": other.top_second},
        {"carried": _another(rng, CARRIED, person.carried), "bag": other.bag},
        {"bottom": _another(rng, BOTTOMS, person.bottom), "side_stripe": other.side_stripe},
        {"hair": other.hair, "hair_style": _another(rng, HAIR_STYLES, person.hair_style), "skin": other.skin},
        {"top": _another(rng, TOPS, person.top), "shoes": other.shoes},
    )
    chosen = rng.choice(len(changes), 2, replace=False)
    fields: dict[str, Any] = {"stature": other.stature, "build": other.build, "pitch": other.pitch}
    for index in chosen:
        fields.update(changes[index])
    return replace(person, **fields)


def _another(rng: np.random.Generator, options: tuple[str, ...], current: str) -> str:
    return _pick(rng, tuple(option for option in options if option != current))


def sample_pose(rng: np.random.Generator, view: float) -> Pose:
    """Returns a walking or standing pose seen from `view` radians."""
    standing = rng.random() < 0.2
    stride = 0.06 * rng.normal() if standing else float(rng.choice((-1, 1))) * rng.uniform(0.12, 0.52)
    lift = 0.05 if standing else rng.uniform(0.1, 0.7)
    carry = rng.random(2) < 0.15  # a hand held up: phone, strap, cup
    return Pose(
        view=view,
        stride=float(stride),
        knees=(float(lift if stride < 0 else 0.08), float(lift if stride > 0 else 0.08)),
        arms=(float(-stride * rng.uniform(0.6, 1.1)), float(stride * rng.uniform(0.6, 1.1))),
        elbows=(float(1.9 if carry[0] else rng.uniform(0.1, 0.6)), float(1.9 if carry[1] else rng.uniform(0.1, 0.6))),
        lean=float(rng.normal(0, 0.025)),
    )


def shade(colour: Colour, factor: float) -> Colour:
    """Returns `colour` darkened (factor < 1) or lightened, clipped to 0..255."""
    red, green, blue = (min(255, max(0, round(c * factor))) for c in colour)
    return red, green, blue
