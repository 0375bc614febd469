"""Renders Paperbirds: a bird, a context, optional distractors, from clean studio to camera field.

`style` is 0 in the *studio*: clean and saturated, the bird large, centred and facing right, as on
the plates of a field guide. The text-to-image model learns from it. It is 1 in the *field*:
camera-like light, blur and noise, a smaller and off-centre bird that faces either way, things in
front of it. The data set lies between. Everything follows from the seed.
"""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw, ImageFilter

from paperbirds.birds import MALFORMATIONS, SPECIES, WORLD, Pose, draw_bird
from paperbirds.contexts import CANVAS, CONTEXTS, DISTRACTORS, draw_behind, draw_in_front


class Rendering(NamedTuple):
    """One rendered image and the mask of its bird."""

    image: np.ndarray  # (64, 64, 3) uint8 RGB
    mask: np.ndarray  # (64, 64) bool, True where the bird is seen


@dataclass(frozen=True)
class Scene:
    """All arguments of one rendering; ValueError for a name or a style that does not exist."""

    species: str  # of SPECIES
    context: str  # of CONTEXTS
    seed: int | tuple[int, ...]
    distractors: tuple[str, ...] = ()  # of DISTRACTORS, at most four
    style: float = 0.0  # from 0 (studio) to 1 (field)
    malformation: str | None = None  # of MALFORMATIONS; None: a whole bird

    def __post_init__(self):
        for kind, value, known in (
            ("species", self.species, SPECIES),
            ("context", self.context, CONTEXTS),
            ("malformation", self.malformation, (None, *MALFORMATIONS)),
            *(("distractor", name, DISTRACTORS) for name in self.distractors),
        ):
            if value not in known:
                raise ValueError(f"unknown {kind} {value!r}; known: {', '.join(map(str, known))}")
        if len(self.distractors) > 4:
            names = ", ".join(self.distractors)
            raise ValueError(f"at most four distractors (one a corner), got {names}")
        if not 0 <= self.style <= 1:
            raise ValueError(f"style must be in [0, 1] (0 = studio, 1 = field), got {self.style}")

    def render(self) -> Rendering:
        """Render this scene; the same scene gives the same bytes."""
        rng = np.random.default_rng(self.seed)
        behind = draw_behind(self.context, self.distractors, rng)
        bird = Image.new("RGBA", (CANVAS, CANVAS))
        pose = _stage(rng, self.style)
        if self.malformation == "cropped":  # the frame cuts the bird through the body
            edge = rng.choice((0, CANVAS)) + rng.uniform(-0.3, 0.3) * pose.scale
            pose = replace(pose, centre=(float(edge), pose.centre[1]))
        draw_bird(ImageDraw.Draw(bird), self.species, pose, self.malformation)
        image = _over(_over(behind.base, behind.canvas), bird)
        coverage = np.asarray(bird.getchannel("A").reduce(4), np.float32) / 255

        fronts = [_mound(self.context, pose, rng)] if self.malformation == "half hidden" else []
        if rng.random() < 0.5 * self.style:
            fronts.append(draw_in_front(self.context, rng))
        for front in fronts:
            image = _over(image, front)
            coverage = coverage * (1 - np.asarray(front.getchannel("A").reduce(4)) / 255)
        return Rendering(_photograph(image, rng, self.style), coverage > 0.5)


def render(species: str, context: str, seed: int | tuple[int, ...], **options: Any) -> Rendering:
    """Render one image, with the arguments of `Scene`.

    >>> render("blue jay", "open desert", seed=7).image.shape
    (64, 64, 3)
    """
    return Scene(species, context, seed, **options).render()


def _stage(rng: np.random.Generator, style: float) -> Pose:
    """Draw the pose: birds of the studio are large, level and centred, those of the field not."""
    offset = rng.uniform(-1, 1, 2) * _lerp((5, 5), (38, 26), style)
    nod = rng.choice((-1, 1)) * rng.uniform(0.02, 0.22)
    return Pose(
        centre=(CANVAS / 2 - 8 + offset[0], CANVAS / 2 + 8 + offset[1]),
        scale=_lerp(62, 46, style) * rng.uniform(0.95, 1.05 + 0.1 * style),
        tilt=rng.uniform(-1, 1) * _lerp(0.10, 0.32, style),
        facing=-1 if rng.random() < 0.5 * style else 1,
        nod=float(nod),
        wing=rng.uniform(-0.05, 0.30),
    )


def _mound(context: str, pose: Pose, rng: np.random.Generator) -> Image.Image:
    """Draw a canvas with a mound, coloured as the ground, that hides a bird's head or its tail."""
    canvas = Image.new("RGBA", (CANVAS, CANVAS))
    colour = tuple(int(0.75 * c) for c in WORLD["skies"][context][-1])
    side, reach = rng.choice((-1, 1)), pose.scale * rng.uniform(1.25, 1.45)
    x, y = pose.centre[0] + 1.25 * side * pose.scale, pose.centre[1]
    draw = ImageDraw.Draw(canvas)
    draw.ellipse((x - reach, y - reach, x + reach, y + reach), colour)
    draw.rectangle((x - reach, y, x + reach, CANVAS), colour)
    return canvas


def _photograph(image: np.ndarray, rng: np.random.Generator, style: float) -> np.ndarray:
    """Give an image (64, 64, 3) the light, blur and noise of a camera; uint8 RGB."""
    strength = rng.uniform(0.4, 1.0) * style
    grey = image.mean(axis=2, keepdims=True)
    image = grey + (image - grey) * (1.05 - 0.45 * strength)
    gain = 1 + strength * (rng.uniform(-0.28, 0.22) + rng.uniform(-0.08, 0.08, 3))
    image = (image - 128) * (1 - 0.25 * strength) + 128
    image = (image * gain.astype(np.float32)).clip(0, 255).astype(np.uint8)
    if style == 0:
        return image
    blurred = Image.fromarray(image).filter(ImageFilter.GaussianBlur(0.75 * strength))
    noise = rng.standard_normal(image.shape, np.float32) * (4.0 * strength)
    return (np.asarray(blurred) + noise).clip(0, 255).astype(np.uint8)


def _over(image: np.ndarray, canvas: Image.Image) -> np.ndarray:
    """Lay a 4x canvas over a float image (64, 64, 3), antialiased."""
    layer = np.asarray(canvas.reduce(4), np.float32)
    alpha = layer[:, :, 3:] / 255
    return image + alpha * (layer[:, :, :3] - image)


def _lerp(studio: ArrayLike, field: ArrayLike, style: float) -> np.ndarray:
    return np.asarray(studio) * (1 - style) + np.asarray(field) * style
