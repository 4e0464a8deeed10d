"""The drawing of one planned image, as the bytes of its file."""

from dataclasses import dataclass
from functools import lru_cache
from math import pi

import numpy as np

from reidablate.data.formats import SYNTHETIC_COMMENT as COMMENT
from reidablate.rng import generator
from reidablate.synthetic import scene
from reidablate.synthetic.identity import Identity, look_alike, sample_identity, sample_pose
from reidablate.synthetic.naming import encoded
from reidablate.synthetic.occluders import occluder
from reidablate.synthetic.plan import Shot

GENERATOR_VERSION = 1
"""Raised whenever the same seed gives other images."""
FAMILY: dict[str, int] = {"market1501": 3, "occluded_duke": 2}
"""Identities come in families of this size that share most attributes."""


@dataclass(frozen=True)
class Recipe:
    """What all images of a set have in common."""

    style: str
    population: str
    seed: int
    size: tuple[int, int]
    occluded_area: tuple[float, float]


@lru_cache(maxsize=16)
def _camera(recipe: Recipe, index: int) -> scene.Camera:
    rng = generator(recipe.seed, f"{recipe.population} camera {recipe.style}", index)
    return scene.sample_camera(rng, recipe.size, index)


@lru_cache(maxsize=8192)
def _identity(recipe: Recipe, group: str, index: int) -> Identity:
    purpose = f"{recipe.population} {group} identity {recipe.style}"
    family, member = divmod(index, FAMILY[recipe.style])
    founder = sample_identity(generator(recipe.seed, purpose, family))
    if member == 0:
        return founder
    return look_alike(founder, generator(recipe.seed, f"{purpose} look-alike", index))


def render(recipe: Recipe, shot: Shot) -> bytes:
    """Returns the file of one planned image, in the format that its name states."""
    rng = generator(recipe.seed, f"{recipe.population} image {recipe.style}", shot.key)
    camera = _camera(recipe, shot.camera)
    canvas = scene.background(rng, camera, recipe.size)
    foot = (0.5 + rng.normal(0, 0.035), 0.97 + rng.normal(0, 0.02))
    unit = 0.96 * float(np.exp(rng.normal(0, 0.06)))
    if shot.kind == "junk":
        unit, foot = unit * rng.uniform(1.7, 2.8), (rng.uniform(0.1, 0.9), rng.uniform(1.1, 2.4))
    elif shot.kind == "crowd":
        unit, foot = unit * rng.uniform(0.8, 1.5), (rng.uniform(0.25, 0.75), rng.uniform(0.9, 1.4))
    elif rng.random() < 0.08:  # the detector lost the feet, or more
        unit, foot = unit * rng.uniform(1.1, 1.4), (foot[0], rng.uniform(1.05, 1.4))
    if shot.kind != "empty":
        person = _identity(recipe, shot.group, shot.person)
        habit = generator(
            recipe.seed, f"{recipe.population} walk {shot.group} {recipe.style}", shot.person, shot.camera
        )
        view = camera.view + habit.normal(0, 0.7) + rng.normal(0, 0.25) + pi * (rng.random() < 0.08)
        pose = sample_pose(rng, view)
        drawing, shadow = scene.draw_person(rng, person, pose, recipe.size, foot=foot, unit=unit)
        canvas = scene.over(canvas * (1 - shadow[..., None]), scene.volume(drawing, camera.light))
    comment = f"{COMMENT} v{GENERATOR_VERSION} seed={recipe.seed}"
    if shot.occluded:
        hidden = occluder(rng, recipe.size, rng.uniform(*recipe.occluded_area), foot[0])
        canvas = scene.over(canvas, hidden)
        comment += f" occluded={float(hidden[..., 3].mean()):.3f}"
    return encoded(scene.encode(scene.expose(rng, camera, canvas), camera.quality, comment), shot.name, comment)
