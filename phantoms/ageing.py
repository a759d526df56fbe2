"""What age does to a brain: iron in the deep nuclei, calcium in the choroid plexus, and atrophy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from phantoms.atlas import Tissue

IRON_MG_PER_100G: dict[str, tuple[float, float, float]] = {
    "pallidum": (21.41, 0.09, 0.37),
    "putamen": (14.62, 0.04, 0.46),
    "caudate": (9.66, 0.05, 0.33),
    "red nucleus": (19.48, 0.10, 0.0),
    "substantia nigra": (18.46, 0.13, 0.0),
    "dentate nucleus": (10.35, 0.08, 0.0),
}
"""a, b, c of iron = a (1 - exp(-b years)) + c in wet tissue (Hallgren B., Sourander P., J Neurochem 1958;3:41). For
the last three nuclei that paper gives means without a course in time: a is its mean, the rate near the pallidum's."""

TEMPLATE_YEARS = 45.0
"""The age at which a nucleus has the susceptibility and R2* of ``phantoms.atlas.TISSUES``."""

BASE_R2S_HZ = 16.0
"""R2* of grey matter without iron at 3 T; the rest of a nucleus' R2* goes with its iron."""


def iron_load(tissue: str, age_years: float) -> float:
    """Iron of a nucleus relative to that at ``TEMPLATE_YEARS``; 1 for every other tissue."""
    if tissue not in IRON_MG_PER_100G:
        return 1.0
    a, b, c = IRON_MG_PER_100G[tissue]
    now, then = (a * (1 - np.exp(-b * years)) + c for years in (age_years, TEMPLATE_YEARS))
    return float(now / then)


def aged(tissues: tuple[Tissue, ...], age_years: float, rng: np.random.Generator) -> tuple[Tissue, ...]:
    """The tissues of a person of this age; people of one age differ in iron by 15 %."""
    person = np.exp(rng.normal(0, 0.15))
    loads = [iron_load(t.name, age_years) * (person if t.name in IRON_MG_PER_100G else 1.0) for t in tissues]
    return tuple(
        replace(t, chi_ppm=t.chi_ppm * load, r2s_hz=BASE_R2S_HZ + (t.r2s_hz - BASE_R2S_HZ) * load)
        if t.name in IRON_MG_PER_100G
        else t
        for t, load in zip(tissues, loads, strict=True)
    )


def with_calcified_plexus(
    tissues: tuple[Tissue, ...], age_years: float, rng: np.random.Generator
) -> tuple[Tissue, ...]:
    """The tissues with a choroid plexus that may have calcified.

    CT shows it in two of three adults, more often at older ages (Daghighi M.H. et al., Folia Morphol 2007;66:115);
    the line through 67 % at 50 years is ours. Susceptibility -0.1 to -0.6 ppm, few protons.
    """
    calcified = rng.random() < min(age_years / 75, 0.95)
    size_ppm = float(rng.uniform(0.1, 0.6))
    return tuple(
        replace(t, chi_ppm=-size_ppm, r2s_hz=40 + 40 * size_ppm, pd=0.5)
        if calcified and t.name == "choroid plexus"
        else t
        for t in tissues
    )


def atrophy(age_years: float, rng: np.random.Generator) -> float:
    """Loss of brain volume, 0 to 1 over the range of healthy ageing from 30 to 85 years."""
    return float(np.clip((age_years - 30) / 55 + rng.normal(0, 0.15), 0, 1))
