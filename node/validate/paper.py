"""What Chen W. et al., Radiology 2014;270:496 measured, in the units of this study. Shares are fractions."""

from __future__ import annotations

from phantoms.study.record import Image
from phantoms.study.tables import Diagnosed, Measure

CITATION = "Chen W. et al., Radiology 2014;270:496-505"

PATIENTS = 38
LESIONS = 151
"""Hemorrhages and calcifications, those in deep nuclei too; five mixed lesions are not among them."""

READERS: dict[Image, dict[tuple[Diagnosed, Measure], tuple[float, float]]] = {
    "qsm": {
        ("hemorrhage", "sensitivity"): (0.90, 0.89),
        ("hemorrhage", "specificity"): (0.95, 0.94),
        ("calcification", "sensitivity"): (0.79, 0.82),
        ("calcification", "specificity"): (0.96, 0.91),
    },
    "phase": {
        ("hemorrhage", "sensitivity"): (0.69, 0.73),
        ("hemorrhage", "specificity"): (0.79, 0.81),
        ("calcification", "sensitivity"): (0.62, 0.67),
        ("calcification", "specificity"): (0.80, 0.73),
    },
}
"""Table 3: the first and the second reader of each image."""

KAPPA: dict[Image, float] = {"qsm": 0.91, "phase": 0.55}
ONE_SIGN: dict[Image, float] = {"qsm": 0.967}
HETEROGENEOUS: dict[Image, float] = {"phase": 0.503}
DIAMAGNETIC_IN_NUCLEI = 0.16
"""Share of the calcifications in deep nuclei that QSM showed as diamagnetic."""

VOLUME_CM3: dict[Image, float] = {"qsm": 0.97, "phase": 1.78, "truth": 0.99}
"""Mean volume of calcifications; CT stands for the truth."""

SLOPE: dict[Image, float] = {"qsm": 0.93, "phase": 0.74}
R2: dict[Image, float] = {"qsm": 0.90, "phase": 0.53}
"""Of log10 total susceptibility, and of log10 total phase, against log10 total CT number."""


def mean(image: Image, kind: Diagnosed, measure: Measure) -> float | None:
    """Mean of the two readers; None for an image that the paper has not."""
    if image not in READERS:
        return None
    return sum(READERS[image][kind, measure]) / 2
