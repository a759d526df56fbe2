"""Whether an automatic brain mask can be one: what gives a failed mask away, and what to do about it.

A failure is refused or told, never silent. The limits come from simulated heads; few failures were seen.
"""

from __future__ import annotations

from dataclasses import dataclass

from recon.types import NoMask, Vector

GOOD_CONTACT, BAD_CONTACT, NO_SCALP = 0.002, 0.008, 0.05
"""Share of the core near the head's surface: below it the core is cut from the scalp; above it, it may not be; above
it after every erosion, there is no scalp in the image."""

SMALLEST_ML, SMALLEST_WHOLE_ML, LARGEST_ML = 150.0, 800.0, 2200.0
LARGEST_MM = (165.0, 205.0, 165.0)
HEAD_SHARE = (0.3, 0.8)
LEAST_OVERLAP = 0.92
MOST_BRIGHT = 0.25
"""Good masks have 0.02-0.1, and 0.2-0.35 where the marrow is bright and the bone thin; masks that had lost 5 % of the
brain or more have 0.26-0.64."""
MOST_DARK_ML = 70.0
FACES = 6


@dataclass(frozen=True, slots=True)
class Signs:
    """What is known of a mask.

    Parameters
    ----------
    volume_ml, head_ml, dark_ml
        Volume of the mask; of the head in the image; of what has no signal and was taken for lesions.
    extent_mm
        Of the mask, left-right, front-back, head-foot.
    contact
        Share of the core that lies near the head's surface.
    scalp, limited
        Whether there is a scalp around the brain; whether the deformable surface had to bound the core.
    overlap
        Of the mask and its mirror image (Dice).
    bright_share
        Share of the mask's surroundings that is as bright as brain: the mask ends inside some tissue.
    faces
        Faces of the image that the mask touches.
    """

    volume_ml: float
    head_ml: float
    dark_ml: float
    extent_mm: Vector
    contact: float
    scalp: bool
    limited: bool
    overlap: float
    bright_share: float
    faces: tuple[str, ...]


def judged(signs: Signs) -> tuple[str, ...]:
    """What to look at before trusting the mask.

    Raises
    ------
    NoMask
        If it cannot be a brain.
    """
    volume = f"the automatic mask holds {signs.volume_ml:.0f} mL"
    contact = f"{100 * signs.contact:.1f} % of the mask's core lies at the scalp"
    if signs.volume_ml < SMALLEST_ML:
        raise NoMask(f"{volume}, a brain at least {SMALLEST_ML:.0f} mL: supply a mask")
    if signs.volume_ml < SMALLEST_WHOLE_ML and not signs.faces:
        raise NoMask(
            f"{volume} and ends inside the image, a whole brain at least {SMALLEST_WHOLE_ML:.0f} mL: supply a mask"
        )
    if len(signs.faces) == FACES:
        raise NoMask("the automatic mask touches all six faces of the image: this is no head; supply a mask")
    if signs.volume_ml > LARGEST_ML and signs.contact > BAD_CONTACT:
        raise NoMask(f"{volume} and {contact}: it has run into the scalp; supply a mask")
    share = signs.volume_ml / signs.head_ml
    extent = " x ".join(f"{edge:.0f}" for edge in signs.extent_mm)
    found = {
        f"{volume}, more than most brains": signs.volume_ml > LARGEST_ML,
        contact: signs.contact > BAD_CONTACT,
        "no scalp was found around the automatic mask": not signs.scalp,
        "a deformable surface had to keep the automatic mask from running out of the skull": signs.limited,
        f"the automatic mask fills {100 * share:.0f} % of the head": not HEAD_SHARE[0] < share < HEAD_SHARE[1],
        f"the automatic mask and its mirror image overlap by {100 * signs.overlap:.0f} % only": (
            signs.overlap < LEAST_OVERLAP
        ),
        f"{100 * signs.bright_share:.0f} % of what surrounds the automatic mask is as bright as brain": (
            signs.bright_share > MOST_BRIGHT
        ),
        f"{signs.dark_ml:.0f} mL without signal at the surface were taken for lesions": signs.dark_ml > MOST_DARK_ML,
        f"the automatic mask reaches {extent} mm, farther than brains do": any(
            edge > limit for edge, limit in zip(signs.extent_mm, LARGEST_MM, strict=True)
        ),
        f"the automatic mask touches the image's end: {', '.join(signs.faces)}": bool(signs.faces),
    }
    return tuple(f"{words}: check it" for words, true in found.items() if true)
