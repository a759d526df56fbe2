"""The solver part: a simulated head with lesions, reconstructed by every recipe and scored against its truth.

The true brain is given as mask: what is scored is field, background and inversion.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from node.validate.scores import SolverScores, flat
from phantoms.anatomy import head
from phantoms.lesions import random_lesions
from phantoms.protocol import Protocol
from phantoms.score import scores
from phantoms.simulate import simulate
from recon.pipeline import reconstruct
from recon.recipe import Recipe

LESIONS = 16
RADIUS_MM = (1.5, 9.0)


@dataclass(frozen=True, slots=True)
class SolverTask:
    """A head to scan, and the recipes that reconstruct it."""

    head_seed: int
    protocol: Protocol
    recipes: tuple[Recipe, ...]


def score_head(task: SolverTask) -> tuple[SolverScores, ...]:
    """Scores of every recipe on one head with lesions of 1.5-9 mm radius and 0.2-2 ppm."""
    bare = head(task.head_seed, ())
    lesions = random_lesions(task.head_seed, LESIONS, bare.depth_mm, RADIUS_MM)
    phantom = simulate(head(task.head_seed, lesions), task.protocol, task.head_seed)
    made = []
    for recipe in task.recipes:
        begun = time.monotonic()
        chi_ppm = reconstruct(phantom.acquisition, recipe, phantom.brain).chi.chi_ppm
        seconds = time.monotonic() - begun
        made.append(
            SolverScores(recipe.name, task.head_seed, task.protocol.snr, seconds, flat(scores(chi_ppm, phantom)))
        )
    return tuple(made)
