"""What a validation run consists of: levels, seeds, protocols."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from phantoms.protocol import REFERENCE_PROTOCOL, SMALL_PROTOCOL
from phantoms.study.cohort import PAPER, QUICK, Plan
from recon.inversion import Tkd
from recon.recipe import RECIPES, Recipe

TUNING_SEEDS = (1, 2, 3)
"""Cohorts on which readers and distributions were calibrated: no result of the study is ever from these."""

STUDY_SEED = 2014
"""The cohort of the study, which nothing was tuned on."""

HEADS = (121, 122, 123, 124)
"""Head seeds of the solver part; parameters of the reconstruction were tuned on 1-7."""

STUDY_PROTOCOL = replace(REFERENCE_PROTOCOL, shape=(160, 192, 72), voxel_mm=(1.2, 1.2, 2.0))
"""Chen et al. 2014 on voxels four times as large as theirs (2.9 mm3): 38 patients in minutes."""

SOLVER_PROTOCOL = replace(SMALL_PROTOCOL, snr=50.0)

TKD = Recipe(name="tkd", inversion=Tkd())
"""The default recipe with the plain inversion that it is compared with."""


@dataclass(frozen=True, slots=True)
class Level:
    """How much of everything is run: the study's ``plan``, and ``heads`` by ``recipes`` for the solver part."""

    name: Literal["quick", "full"]
    seed: int
    plan: Plan
    heads: tuple[int, ...]
    recipes: tuple[Recipe, ...]


LEVELS = {
    "quick": Level("quick", STUDY_SEED + 1, QUICK, HEADS[:1], (RECIPES["default"], RECIPES["fast"], TKD)),
    "full": Level("full", STUDY_SEED, PAPER, HEADS, (*RECIPES.values(), TKD)),
}
