"""The twelve species of Paperbirds: cut-paper birds that differ in parts and colours.

Each is named after a real bird and borrows its field marks. Three pairs are alike on purpose
(two red birds, two albatrosses, two black birds), so that telling them apart needs one part of
the bird, as it does in CUB-Birds. Colours are sRGB in [0, 255]; lengths are in units of half the
body's length. Our choice throughout: the paper has no such set.
"""

from dataclasses import dataclass

RGB = tuple[int, int, int]


@dataclass(frozen=True)
class Plumage:
    """Colours (sRGB, 0-255) and shape (in half body lengths) of one species."""

    body: RGB
    belly: RGB
    head: RGB
    wing: RGB
    tail: RGB
    beak: RGB
    legs: RGB = (90, 70, 60)
    eye: RGB = (20, 20, 24)
    slimness: float = 0.60  # body height / length
    head_size: float = 0.44
    neck: float = 0.0  # how far the head sits forward of the shoulders
    beak_length: float = 0.34
    beak_depth: float = 0.22
    hooked: bool = False
    tail_length: float = 0.80
    forked: bool = False
    wing_length: float = 1.0
    crest: bool = False
    marks: tuple[str, ...] = ()
    mark: RGB = (20, 20, 24)


PLUMAGES: dict[str, Plumage] = {
    "northern cardinal": Plumage(
        body=(208, 32, 38), belly=(226, 70, 60), head=(214, 30, 36), wing=(158, 24, 36),
        tail=(150, 22, 32), beak=(244, 128, 50), crest=True, marks=("mask",),
        beak_length=0.30, beak_depth=0.30,
    ),
    "summer tanager": Plumage(
        body=(214, 52, 44), belly=(232, 96, 76), head=(220, 50, 44), wing=(170, 44, 40),
        tail=(160, 40, 38), beak=(216, 196, 140), beak_length=0.46, beak_depth=0.20,
    ),
    "laysan albatross": Plumage(
        body=(242, 242, 238), belly=(252, 252, 250), head=(246, 246, 242), wing=(62, 58, 62),
        tail=(70, 66, 70), beak=(234, 176, 150), slimness=0.50, neck=0.18, hooked=True,
        beak_length=0.66, beak_depth=0.20, tail_length=0.50, wing_length=1.35, head_size=0.38,
        marks=("brow",), mark=(90, 90, 96),
    ),
    "black footed albatross": Plumage(
        body=(84, 70, 64), belly=(108, 94, 86), head=(78, 66, 62), wing=(50, 42, 42),
        tail=(46, 40, 40), beak=(52, 46, 46), slimness=0.50, neck=0.18, hooked=True,
        beak_length=0.66, beak_depth=0.20, tail_length=0.50, wing_length=1.35, head_size=0.38,
        marks=("face",), mark=(236, 230, 220),
    ),
    "brewer blackbird": Plumage(
        body=(34, 34, 46), belly=(44, 44, 58), head=(44, 36, 66), wing=(58, 62, 78),
        tail=(28, 28, 38), beak=(22, 22, 26), eye=(250, 226, 70), tail_length=1.0,
        beak_length=0.40, marks=("pale eye",), mark=(250, 226, 70),
    ),
    "red winged blackbird": Plumage(
        body=(30, 30, 36), belly=(40, 40, 48), head=(28, 28, 34), wing=(54, 54, 66),
        tail=(26, 26, 32), beak=(22, 22, 26), tail_length=1.0, beak_length=0.40,
        marks=("shoulder",), mark=(226, 44, 30),
    ),
    "blue jay": Plumage(
        body=(74, 128, 206), belly=(232, 236, 242), head=(66, 118, 204), wing=(52, 98, 190),
        tail=(50, 94, 186), beak=(36, 38, 44), crest=True, tail_length=1.15,
        marks=("collar", "wing bars"), mark=(24, 26, 36),
    ),
    "indigo bunting": Plumage(
        body=(40, 70, 196), belly=(60, 98, 220), head=(46, 48, 180), wing=(30, 44, 128),
        tail=(30, 44, 130), beak=(150, 152, 162), beak_length=0.26, beak_depth=0.26,
        tail_length=0.62, head_size=0.46,
    ),
    "american goldfinch": Plumage(
        body=(246, 208, 40), belly=(250, 222, 84), head=(246, 208, 40), wing=(34, 32, 36),
        tail=(36, 34, 38), beak=(240, 150, 80), beak_length=0.26, beak_depth=0.26,
        tail_length=0.58, forked=True, head_size=0.46, marks=("cap", "wing bars"),
        mark=(24, 24, 28),
    ),
    "yellow warbler": Plumage(
        body=(238, 206, 56), belly=(248, 222, 96), head=(240, 212, 70), wing=(168, 158, 52),
        tail=(160, 150, 52), beak=(60, 56, 54), beak_length=0.30, beak_depth=0.13,
        tail_length=0.66, head_size=0.46, marks=("streaks",), mark=(184, 84, 40),
    ),
    "painted bunting": Plumage(
        body=(224, 62, 48), belly=(232, 78, 58), head=(58, 76, 204), wing=(104, 172, 62),
        tail=(128, 84, 70), beak=(116, 112, 118), beak_length=0.28, beak_depth=0.26,
        tail_length=0.62, head_size=0.46,
    ),
    "atlantic puffin": Plumage(
        body=(38, 38, 46), belly=(244, 244, 244), head=(36, 36, 44), wing=(70, 70, 82),
        tail=(30, 30, 36), beak=(240, 110, 40), legs=(240, 120, 50), slimness=0.70,
        head_size=0.50, beak_length=0.46, beak_depth=0.46, tail_length=0.36, wing_length=0.85,
        marks=("face",), mark=(232, 232, 234),
    ),
}  # fmt: skip

SPECIES: tuple[str, ...] = tuple(PLUMAGES)
