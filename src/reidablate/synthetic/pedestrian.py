"""The drawing of a procedural pedestrian.

A body is a small 3D skeleton (x to the person's left, y up, z forward; the height of a person of average
size is 1, feet at 0). It is turned about y by the view angle, projected without perspective and drawn as
supersampled polygons, far parts first. Logos, bags and open jackets are attached in 3D, so they show
only from the sides they would be seen from.
"""

from collections.abc import Callable
from functools import cached_property
from math import cos, hypot, pi, sin

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from reidablate.synthetic.identity import Colour, Identity, Pose, shade

Point = tuple[float, float]
Joint = tuple[float, float, float]


class Layer:
    """A transparent drawing of `size` = (height, width) pixels, `scale` times supersampled."""

    def __init__(self, size: tuple[int, int], scale: int) -> None:
        self.height, self.width = size[0] * scale, size[1] * scale
        self.scale = scale
        self.image = Image.new("RGBA", (self.width, self.height))
        self.draw = ImageDraw.Draw(self.image)

    def polygon(self, points: list[Point], paint: "Colour | Image.Image") -> None:
        """Fills a polygon (pixel coordinates of the supersampled canvas) with a colour or with a cloth image."""
        if isinstance(paint, tuple):
            self.draw.polygon(points, fill=(*paint, 255))
            return
        mask = Image.new("L", self.image.size)
        ImageDraw.Draw(mask).polygon(points, fill=255)
        self.image.paste(paint, mask=mask)

    def ellipse(self, x: float, y: float, rx: float, ry: float, colour: Colour) -> None:
        """Fills an axis-parallel ellipse around (x, y)."""
        self.draw.ellipse((x - rx, y - ry, x + rx, y + ry), fill=(*colour, 255))

    def reduced(self) -> NDArray[np.float32]:
        """Returns the anti-aliased drawing, float32 (height, width, 4), premultiplied, alpha in 0..1."""
        small = np.asarray(self.image.convert("RGBa").reduce(self.scale), dtype=np.float32)
        small[..., 3] /= 255.0
        return small


class Figure:
    """One person on a layer: `foot` = (x, y) and `unit` (the height of an average person) are pixels."""

    def __init__(self, layer: Layer, person: Identity, pose: Pose, foot: Point, unit: float) -> None:
        self.layer, self.person, self.pose = layer, person, pose
        self.foot, self.unit = foot, unit
        self.cos, self.sin = cos(pose.view), sin(pose.view)

    def depth(self, joint: Joint) -> float:
        """Returns how near a joint is to the camera."""
        return joint[2] * self.cos - joint[0] * self.sin

    def at(self, joint: Joint) -> Point:
        """Returns the pixel of a joint."""
        x = joint[0] * self.cos + joint[2] * self.sin + self.pose.lean * joint[1]
        return self.foot[0] + self.unit * x, self.foot[1] - self.unit * self.person.stature * (joint[1] - self.ground)

    @cached_property
    def ground(self) -> float:
        """Lowest point of the feet before the figure is set down."""
        return min(self.leg(side)[2][1] for side in (1, -1)) - 0.035

    @cached_property
    def cloth(self) -> "Colour | Image.Image":
        """The upper garment's colour, or an image of its pattern where it has one all over."""
        person = self.person
        if person.pattern not in ("hoops", "pinstripe", "check", "block"):
            return person.top_colour
        image = Image.new("RGBA", self.layer.image.size, (*person.top_colour, 255))
        draw, second = ImageDraw.Draw(image), (*person.top_second, 255)
        pitch = person.pitch * self.unit
        top = self.at((0, 0.84, 0))[1]
        if person.pattern in ("hoops", "check"):
            share = 0.5 if person.pattern == "hoops" else 0.3
            for row in range(16):
                draw.rectangle((0, top + row * pitch, self.layer.width, top + (row + share) * pitch), fill=second)
        if person.pattern in ("pinstripe", "check"):
            centre = self.at((0, 0.7, 0))[0]
            for column in range(-8, 9):
                x = centre + (column + 0.35) * pitch * 0.9
                draw.rectangle((x, 0, x + 0.32 * pitch, self.layer.height), fill=second)
        if person.pattern == "block":
            draw.rectangle((0, top + 0.17 * self.unit, self.layer.width, top + 2 * self.unit), fill=second)
        return image

    def leg(self, side: int) -> tuple[Joint, Joint, Joint, Joint]:
        """Returns hip, knee, ankle and toe of the left (+1) or right (-1) leg."""
        angle = side * self.pose.stride
        bent = angle - self.pose.knees[0 if side > 0 else 1]
        hip = (side * 0.048 * self.person.build, 0.50, 0.0)
        knee = (hip[0], hip[1] - 0.225 * cos(angle), 0.225 * sin(angle))
        ankle = (knee[0], knee[1] - 0.225 * cos(bent), knee[2] + 0.225 * sin(bent))
        toe = (ankle[0] + side * 0.012, ankle[1] - 0.03, ankle[2] + 0.095)
        return hip, knee, ankle, toe

    def arm(self, side: int) -> tuple[Joint, Joint, Joint]:
        """Returns shoulder, elbow and hand of the left (+1) or right (-1) arm."""
        index = 0 if side > 0 else 1
        angle = self.pose.arms[index]
        bent = angle + self.pose.elbows[index]
        shoulder = (side * 0.098 * self.person.build, 0.788, 0.0)
        elbow = (shoulder[0] + side * 0.026, 0.788 - 0.16 * cos(angle), 0.16 * sin(angle))
        hand = (elbow[0] - side * 0.006, elbow[1] - 0.155 * cos(bent), elbow[2] + 0.155 * sin(bent))
        return shoulder, elbow, hand

    def limb(self, start: Joint, end: Joint, radii: Point, paint: "Colour | Image.Image") -> None:
        """Draws a tapered limb with round ends."""
        (x0, y0), (x1, y1) = self.at(start), self.at(end)
        r0, r1 = radii[0] * self.unit, radii[1] * self.unit
        length = hypot(x1 - x0, y1 - y0) or 1.0
        nx, ny = (y1 - y0) / length, -(x1 - x0) / length
        turn = np.arctan2(ny, nx)
        outline = [(x0 + r0 * cos(turn - k), y0 + r0 * sin(turn - k)) for k in np.linspace(0, pi, 7)]
        outline += [(x1 + r1 * cos(turn - k), y1 + r1 * sin(turn - k)) for k in np.linspace(pi, 2 * pi, 7)]
        self.layer.polygon(outline, paint)

    def draw(self) -> None:
        """Draws the whole person, far parts first."""
        parts: list[tuple[float, Callable[[int], None], int]]
        parts = [(self.depth(self.leg(side)[0]) - 0.06, self.draw_leg, side) for side in (1, -1)]
        parts += [(self.depth(self.arm(side)[0]) * 1.0, self.draw_arm, side) for side in (1, -1)]
        parts += [(0.0, self.draw_trunk, 0)]
        if self.person.carried == "backpack":
            parts.append((self.depth((0, 0.7, -0.05)) * 1.2, self.draw_backpack, 0))
        elif self.person.carried != "none":
            side = self.person.bag_side
            parts.append((self.depth((side * 0.15, 0.5, 0)), self.draw_bag, side))
        for _, part, side in sorted(parts, key=lambda entry: entry[0]):
            part(side)

    def draw_leg(self, side: int) -> None:
        """Draws one leg with its shoe; skirts and shorts leave skin bare."""
        person = self.person
        hip, knee, ankle, toe = self.leg(side)
        far = 0.8 if self.depth(hip) < -0.012 else 1.0
        cloth, skin = shade(person.bottom_colour, far), shade(person.skin, far)
        wide = person.build
        bare = person.bottom in ("shorts", "skirt")
        self.limb(ankle, toe, (0.024, 0.019), shade(person.shoes, far))
        self.limb(
            (ankle[0], ankle[1] - 0.028, ankle[2]),
            (toe[0], toe[1] - 0.012, toe[2]),
            (0.009, 0.008),
            shade(person.shoes, 0.5),
        )
        self.limb(knee, ankle, (0.037 * wide, 0.024) if bare else (0.046 * wide, 0.033), skin if bare else cloth)
        self.limb(hip, knee, (0.062 * wide, 0.043 * wide), skin if person.bottom == "skirt" else cloth)
        if person.bottom == "shorts":
            self.limb(hip, knee, (0.066 * wide, 0.055 * wide), cloth)
        if person.side_stripe and not bare:
            light = shade((235, 235, 235), far)
            outer = side * 0.04 * wide
            if self.depth((outer, 0, 0)) > 0.004:
                for start, end in ((hip, knee), (knee, ankle)):
                    self.limb((start[0] + outer, *start[1:]), (end[0] + outer * 0.8, *end[1:]), (0.009, 0.009), light)

    def draw_arm(self, side: int) -> None:
        """Draws one arm with a dark seam towards the body, its sleeve and the hand."""
        person = self.person
        shoulder, elbow, hand = self.arm(side)
        far = 0.72 if self.depth(shoulder) < -0.03 else 0.93
        wide = 0.035 * (0.5 + 0.5 * person.build)
        sleeve: Colour | Image.Image = self.cloth
        if isinstance(sleeve, tuple):
            sleeve = shade(sleeve, far)
        seam = shade(person.top_colour, 0.55)
        skin = shade(person.skin, far)
        long_sleeve = person.top in ("shirt", "jacket", "coat")
        if person.top == "vest":
            sleeve, seam = skin, shade(person.skin, 0.6)
        self.limb(shoulder, elbow, (wide + 0.006, wide + 0.004), seam)
        self.limb(elbow, hand, (wide + 0.004, 0.024), seam if long_sleeve else shade(person.skin, 0.6))
        self.limb(hand, hand, (0.023, 0.023), skin)
        self.limb(elbow, hand, (wide - 0.003, 0.021), sleeve if long_sleeve else skin)
        self.limb(shoulder, elbow, (wide + 0.001, wide - 0.001), sleeve)

    def outline(self, rows: tuple[tuple[float, float, float], ...]) -> list[Point]:
        """Returns a symmetric outline from rows of (height, half width from the front, half width from the side)."""
        right, left = [], []
        for height, front, side in rows:
            half = self.unit * hypot(front * self.cos, side * self.sin)
            x, y = self.at((0, height, 0))
            right.append((x + half, y))
            left.append((x - half, y))
        return right + left[::-1]

    def draw_trunk(self, _: int) -> None:
        """Draws skirt or waist, upper garment with its front or back details, neck and head."""
        person, wide = self.person, self.person.build
        back_hair = person.hair_style == "long" and self.cos > 0
        if back_hair:
            self.draw_long_hair()
        if person.bottom == "skirt":
            rows = ((0.56, 0.075 * wide, 0.06), (0.48, 0.1 * wide, 0.075), (0.29, 0.125 * wide, 0.145))
            self.layer.polygon(self.outline(rows), person.bottom_colour)
        else:
            rows = ((0.56, 0.078 * wide, 0.058), (0.46, 0.096 * wide, 0.072), (0.44, 0.09 * wide, 0.068))
            self.layer.polygon(self.outline(rows), shade(person.bottom_colour, 0.96))
        self.limb((0, 0.88, 0.0), (0, 0.83, 0), (0.028, 0.034), shade(person.skin, 0.82))
        hem = 0.33 if person.top == "coat" else 0.47
        flare = 0.118 if person.top == "coat" else 0.1
        trunk = (
            (0.852, 0.034, 0.034), (0.84, 0.058 * wide, 0.045),
            (0.822, 0.085 * wide, 0.056), (0.792, 0.11 * wide, 0.068),
            (0.72, 0.107 * wide, 0.082),
            (0.60, 0.096 * wide, 0.078), (0.53, 0.1 * wide, 0.08), (hem, flare * wide, 0.08 if hem > 0.4 else 0.1),
        )  # fmt: skip
        self.layer.polygon(self.outline(trunk), self.cloth)
        self.draw_details(hem)
        self.draw_straps()
        self.draw_head()
        if person.hair_style == "long" and not back_hair:
            self.draw_long_hair()

    def patch(self, centre: Joint, half: Point, facing: float, colour: Colour) -> None:
        """Draws a flat patch on the chest (facing +1) or back (-1), foreshortened, if that side is in view."""
        towards = facing * self.cos
        if towards < 0.12:
            return
        x, y = self.at(centre)
        dx, dy = half[0] * self.unit * towards, half[1] * self.unit
        self.layer.polygon([(x - dx, y - dy), (x + dx, y - dy), (x + dx, y + dy), (x - dx, y + dy)], colour)

    def draw_details(self, hem: float) -> None:
        """Draws what only one side of the upper garment shows: opening, logo, print, collar, belt."""
        person = self.person
        middle = (0.835 + hem) / 2
        if person.top in ("jacket", "coat"):
            inner = (
                person.top_second if person.pattern in ("plain", "logo", "print") else shade(person.top_colour, 0.55)
            )
            self.patch((0, middle, 0.07), (0.026, 0.835 - middle), 1, inner)
            self.patch((0.03, middle, 0.07), (0.004, 0.835 - middle), 1, shade(person.top_colour, 0.6))
        if person.pattern == "logo":
            self.patch((0.0, 0.73, 0.07), (0.05, 0.035), 1, person.top_second)
        if person.pattern == "print":
            self.patch((0.0, 0.70, -0.07), (0.06, 0.075), -1, person.top_second)
            self.patch((0.045, 0.75, 0.07), (0.018, 0.016), 1, person.top_second)
        if person.top in ("shirt", "jacket"):
            self.patch((0, 0.845, 0.03), (0.042, 0.011), 1, shade(person.top_colour, 1.25))
        if person.top == "tshirt":
            self.patch((0, 0.842, 0.03), (0.028, 0.013), 1, shade(person.skin, 0.9))
        seam = self.outline(((hem + 0.008, 0.09 * person.build, 0.07), (hem, 0.09 * person.build, 0.07)))
        self.layer.polygon(seam, shade(person.top_colour, 0.6))

    def draw_straps(self) -> None:
        """Draws the straps of a backpack (front only) or of a shoulder bag (across chest and back)."""
        person = self.person
        dark = shade(person.bag, 0.7)
        if person.carried == "backpack" and self.cos > 0.1:
            for side in (1, -1):
                self.limb((side * 0.06, 0.83, 0.05), (side * 0.07, 0.66, 0.06), (0.011, 0.009), dark)
        if person.carried == "shoulder":
            away = person.bag_side
            z = 0.06 if self.cos > 0 else -0.06
            self.limb((-away * 0.06, 0.83, z * 0.5), (away * 0.1 * person.build, 0.53, z * 0.5), (0.009, 0.009), dark)

    def draw_long_hair(self) -> None:
        """Draws hair falling on the shoulders: behind the trunk from the front, over it from the back."""
        self.limb((0, 0.92, -0.02), (0, 0.80, -0.04), (0.064, 0.058), shade(self.person.hair, 0.92))

    def draw_head(self) -> None:
        """Draws skull, face, ears and hair, cap or hood."""
        person, unit = self.person, self.unit
        x, y = self.at((0, 0.925, 0.012))
        rx, ry = 0.05 * unit, 0.066 * unit
        cover = {"cap": person.top_second, "hood": shade(person.top_colour, 0.85), "bald": person.skin}
        skull = cover.get(person.hair_style, person.hair)
        if person.hair_style == "hood":
            self.layer.ellipse(x, y, rx * 1.28, ry * 1.15, skull)
        else:
            self.layer.ellipse(x, y, rx * 1.04, ry * 1.02, person.hair if person.hair_style == "cap" else skull)
        if self.cos > -0.45:
            face = x + self.sin * rx * 0.45
            half = rx * (0.9 - 0.28 * abs(self.sin)) * min(1.0, 0.65 + self.cos * 0.8 + 0.35)
            self.layer.ellipse(face, y + ry * 0.2, half, ry * 0.8, person.skin)
            if self.cos > 0.1:
                for eye in (-0.4, 0.4):
                    self.layer.ellipse(
                        face + half * eye, y + ry * 0.08, half * 0.17, ry * 0.07, shade(person.skin, 0.4)
                    )
                self.layer.ellipse(face, y + ry * 0.62, half * 0.3, ry * 0.05, shade(person.skin, 0.62))
            self.layer.ellipse(face, y + ry * 0.86, half * 0.55, ry * 0.1, shade(person.skin, 0.8))
        if abs(self.cos) < 0.4 and person.hair_style in ("short", "bald", "cap", "bun"):
            self.layer.ellipse(x - self.sin * rx * 0.15, y + ry * 0.2, rx * 0.16, ry * 0.2, shade(person.skin, 0.85))
        if person.hair_style in ("short", "long", "bun"):
            self.layer.draw.chord(
                (x - rx * 1.08, y - ry * 1.06, x + rx * 1.08, y + ry * 0.5), 180, 360, fill=(*person.hair, 255)
            )
        if person.hair_style == "bun":
            bun_x, bun_y = self.at((0, 0.985, -0.03))
            self.layer.ellipse(bun_x, bun_y, 0.026 * unit, 0.026 * unit, shade(person.hair, 0.9))
        if person.hair_style == "cap":
            self.layer.draw.chord(
                (x - rx * 1.12, y - ry * 1.12, x + rx * 1.12, y + ry * 0.66), 180, 360, fill=(*skull, 255)
            )
            peak = x + self.sin * rx * 1.0
            self.layer.ellipse(
                peak,
                y - ry * 0.24,
                rx * (0.45 + 0.5 * abs(self.cos)) if self.cos > -0.2 else 0,
                ry * 0.1,
                shade(skull, 0.6),
            )

    def draw_backpack(self, _: int) -> None:
        """Draws a backpack behind the trunk; from the front only its straps show."""
        bag, unit = self.person.bag, self.unit
        x, y = self.at((0, 0.70, -0.095))
        half = unit * hypot(0.082 * self.cos, 0.055 * self.sin)
        tall = 0.12 * unit * self.person.stature
        box = (x - half, y - tall, x + half, y + tall)
        self.layer.draw.rounded_rectangle(box, half * 0.45, fill=(*bag, 255))
        if self.cos < -0.1:
            self.layer.draw.rounded_rectangle(
                (x - half * 0.7, y + tall * 0.1, x + half * 0.7, y + tall * 0.85),
                half * 0.3,
                fill=(*shade(bag, 0.72), 255),
            )
            self.layer.draw.rectangle(
                (x - half * 0.75, y - tall * 0.35, x + half * 0.75, y - tall * 0.27), fill=(*shade(bag, 0.5), 255)
            )

    def draw_bag(self, side: int) -> None:
        """Draws a shoulder bag with its strap, a hand bag or a pulled suitcase."""
        person, unit = self.person, self.unit
        if person.carried == "shoulder":
            x, y = self.at((side * 0.12 * person.build, 0.50, -0.02))
            size = (0.07 * unit * (0.55 + 0.45 * abs(self.cos)), 0.055 * unit)
        elif person.carried == "handbag":
            hand = self.arm(side)[2]
            x, y = self.at((hand[0], hand[1] - 0.07, hand[2]))
            size = (0.06 * unit * (0.5 + 0.5 * abs(self.sin)), 0.055 * unit)
        else:
            x, y = self.at((side * 0.2, 0.13 + self.ground, -0.12))
            size = (0.06 * unit, 0.11 * unit)
            self.limb(self.arm(side)[2], (side * 0.2, 0.24 + self.ground, -0.12), (0.006, 0.006), (60, 60, 64))
        box = (x - size[0], y - size[1], x + size[0], y + size[1])
        self.layer.draw.rounded_rectangle(box, size[0] * 0.3, fill=(*person.bag, 255))
        self.layer.draw.rectangle(
            (box[0], y - size[1] * 0.2, box[2], y - size[1] * 0.02), fill=(*shade(person.bag, 0.6), 255)
        )
