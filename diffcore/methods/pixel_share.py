"""Mass: the share of generated pixels that a method shows, on average over all it trains on.

Adding an image shows all of it and mixing shows a part, so that at the same number of images the
two differ in mass. To ask whether it is the *mixing* that helps, mass has to be held: here are the
mass of any settings, and settings of any mass. Beyond what mixing into real images can reach, some
pairs trade places: then a part of the real image is mixed into the generated one.
"""

from collections.abc import Mapping

import numpy as np
from scipy.special import betaincinv

_DRAWS = 4096  # quantiles of λ that an expectation is taken over

#: What is compared at equal mass, and the share of each one's mixing that is at patch level.
MASS_ARMS = {"added": None, "pixel": 0.0, "patch": 1.0, "both levels": 0.5, "mixed and added": 0.5}


def mixed_mass(alpha: float, patch_share: float) -> float:
    """Expected share of the generated image where a pair is mixed.

    At pixel level 1/2. At patch level less: of a box of side s, centred anywhere, the border leaves
    s - s²/4 of each side.

    >>> round(mixed_mass(1.0, 0.0), 3), round(mixed_mass(1.0, 1.0), 3)
    (0.5, 0.321)
    """
    side = np.sqrt(1 - betaincinv(alpha, alpha, (np.arange(_DRAWS) + 0.5) / _DRAWS))
    return (1 - patch_share) / 2 + patch_share * float(((side - side**2 / 4) ** 2).mean())


def mass_of(method: str, settings: Mapping[str, float]) -> float:
    """Share of generated or edited pixels of a method of `diffcore.methods.registry`; else 0."""
    share = settings.get("probability", 0.0)
    if method == "diffusemix":
        return share * (1 - settings["fractal_share"]) / 2
    if method not in {"added", "diffcoremix", "mixed_added"}:
        return 0.0
    if method == "added":
        return share
    swapped = settings.get("swapped", 0.0)
    mixed = settings["mixed_share"] * mixed_mass(settings["alpha"], settings["patch_share"])
    return share + (1 - share) * (mixed + swapped * (1 - 2 * mixed))


def settings_of_mass(arm: str, mass: float, alpha: float = 1.0) -> tuple[str, dict[str, float]]:
    """Method and settings by which one of `MASS_ARMS` shows a mass in (0, 1).

    "mixed and added" shows half of it by adding and half by mixing.

    >>> settings_of_mass("pixel", 0.3)[1]["mixed_share"]
    0.6
    """
    if arm == "added":
        return "added", {"probability": mass}
    added = mass / 2 if arm == "mixed and added" else 0.0
    settings = {"alpha": alpha, "patch_share": MASS_ARMS[arm]}
    settings |= _mixing_of_mass((mass - added) / (1 - added), mixed_mass(**settings))
    if arm == "mixed and added":
        return "mixed_added", {"probability": added, **settings}
    return "diffcoremix", settings


def _mixing_of_mass(mass: float, once: float) -> dict[str, float]:
    """Shares of the pairs that are mixed and swapped; a mixed pair shows `once` without a swap."""
    if mass <= once:
        return {"mixed_share": mass / once, "swapped": 0.0}
    if mass >= 1 - once:
        return {"mixed_share": (1 - mass) / once, "swapped": 1.0}
    return {"mixed_share": 1.0, "swapped": (mass - once) / (1 - 2 * once)}
