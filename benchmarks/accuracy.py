"""Accuracy of the reconstruction on simulated heads that no parameter was tuned on, mask given.

    python -m benchmarks.accuracy [--recipe NAME] [--quick]

Errors are those of maps of mean 0 over the true brain. A lesion's voxels are those that are half lesion or more, its
truth the mean of the fine grid over each voxel. SNR is the magnitude of white matter at the first echo over the
standard deviation of the noise per real channel. The phantoms are made on a grid of half the voxel edge, and cropped
in k-space.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import distance_transform_edt

from phantoms.anatomy import Head, head
from phantoms.lesions import Lesion, random_lesions
from phantoms.physics import centred_axes
from phantoms.protocol import REFERENCE_PROTOCOL, Protocol
from phantoms.score import LesionScore, lesion_table, nrmse_percent, tissue_rmse_ppb
from phantoms.simulate import Phantom, simulate
from recon.pipeline import reconstruct
from recon.recipe import RECIPES, Recipe
from recon.types import FloatArray, Vector

ISO = replace(REFERENCE_PROTOCOL, shape=(256, 256, 128), voxel_mm=(0.94, 0.94, 1.5))
SEED = replace(REFERENCE_PROTOCOL, voxel_mm=(0.58, 0.75, 2.0))
THICK = replace(REFERENCE_PROTOCOL, shape=(416, 320, 60), voxel_mm=(0.58, 0.75, 2.4))
QUICK = replace(REFERENCE_PROTOCOL, shape=(128, 128, 72), voxel_mm=(1.6, 1.6, 2.0))
TILT: Vector = (0.0, float(np.sin(np.pi / 6)), float(np.cos(np.pi / 6)))
LARGE_MM3 = 60.0
HEMATOMA = Lesion("hemorrhage", 0.8, (30.0, -6.0, 24.0), (10.0, 10.0, 10.0), irregularity=0.0, r2s_hz=112, pd=0.65)


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What a map is worth: errors of tissue (ppb) and brain (%), and its lesions."""

    tissue_ppb: float
    brain_percent: float
    lesions: list[LesionScore]


def lesions_of(bare: Head, large: int, small: int) -> tuple[Lesion, ...]:
    """Random lesions of 2-9 mm radius, then of 0.9-2.5 mm where these leave room."""
    chosen = list(random_lesions(bare.seed, large, bare.depth_mm)) if large else []
    for lesion in random_lesions(bare.seed + 1000, small, bare.depth_mm, (0.9, 2.5), (0.3, 1.6)):
        gaps = [np.subtract(lesion.centre_mm, o.centre_mm) for o in chosen]
        if all(np.linalg.norm(g) > lesion.reach_mm + o.reach_mm + 6 for g, o in zip(gaps, chosen, strict=True)):
            chosen.append(lesion)
    return tuple(chosen)


def scanned(protocol: Protocol, seed: int, large: int = 12, small: int = 12) -> Phantom:
    """A head with random lesions."""
    return simulate(head(seed, lesions_of(head(seed, ()), large, small)), protocol, seed)


def outcome(phantom: Phantom, recipe: Recipe) -> Outcome:
    """Reconstruct with the true mask, and compare."""
    chi_ppm = reconstruct(phantom.acquisition, recipe, phantom.brain).chi.chi_ppm
    return Outcome(tissue_rmse_ppb(chi_ppm, phantom), nrmse_percent(chi_ppm, phantom), lesion_table(chi_ppm, phantom))


def described(outcomes: Sequence[Outcome]) -> str:
    """One line over several heads: worst tissue and brain, then lesions large and small."""
    lesions = [score for o in outcomes for score in o.lesions]
    tissue_ppb, brain_percent = max(o.tissue_ppb for o in outcomes), max(o.brain_percent for o in outcomes)
    words = [f"tissue {tissue_ppb:.1f} ppb; NRMSE {brain_percent:.0f} %"]
    large = [s for s in lesions if s.volume_mm3 >= LARGE_MM3]
    small = [s for s in lesions if s.volume_mm3 < LARGE_MM3]
    for name, group in (("large", large), ("small", small)):
        if not group:
            continue
        errors = 100 * np.abs([s.error for s in group])
        true, measured = (np.array([getattr(s, which) for s in group]) for which in ("true_ppb", "measured_ppb"))
        words.append(
            f"{len(group)} {name}: median {np.median(errors):.1f} %, worst {errors.max():.1f} %, "
            f"slope {(true @ measured) / (true @ true):.3f}, wrong sign {sum(not s.sign_right for s in group)}"
        )
    if len(lesions) > 2:
        words.append("total chi: slope {:.3f}, R2 {:.4f}".format(*total_chi(lesions)))
    return "; ".join(words)


def total_chi(lesions: Sequence[LesionScore]) -> tuple[float, float]:
    """Slope through 0 and R2 of the lesions' total susceptibility, mean times volume, against the true one."""
    volume = np.array([s.volume_mm3 for s in lesions])
    true = volume * [s.true_ppb for s in lesions]
    measured = volume * [s.measured_ppb for s in lesions]
    slope = float((true @ measured) / (true @ true))
    return slope, 1 - float(np.sum((measured - slope * true) ** 2) / np.sum((measured - measured.mean()) ** 2))


def shadow_and_halo(protocol: Protocol, seed: int, recipe: Recipe) -> tuple[float, float]:
    """What a hematoma of 10 mm radius and 0.8 ppm changes around it: the same head and noise with and without.

    Returns
    -------
    Root mean square of the difference between the maps 1-8 mm outside its surface, ppb; its mean over the shell of 1
    to 3 voxels, percent of 0.8 ppm.
    """
    maps: list[FloatArray] = []
    for lesions in ((HEMATOMA,), ()):
        phantom = simulate(head(seed, lesions), protocol, seed)
        if lesions:
            inside, brain = phantom.lesions[0].mask, phantom.brain
        chi_ppm = reconstruct(phantom.acquisition, recipe, brain).chi.chi_ppm
        maps.append(chi_ppm - chi_ppm[brain & ~inside].mean(dtype=np.float64))
    change = maps[0] - maps[1]
    x, y, z = (
        axis - c for axis, c in zip(centred_axes(protocol.shape, protocol.voxel_mm), HEMATOMA.centre_mm, strict=True)
    )
    outside_mm = np.sqrt(x[:, None, None] ** 2 + y[:, None] ** 2 + z**2) - HEMATOMA.radii_mm[0]
    steps = distance_transform_edt(~inside)
    near = brain & (outside_mm >= 1) & (outside_mm <= 8)
    shell = brain & (steps > 1) & (steps <= 3)
    shadow = 1000 * float(np.sqrt(np.mean(change[near] ** 2, dtype=np.float64)))
    return shadow, 100 * float(change[shell].mean(dtype=np.float64)) / HEMATOMA.chi_ppm


def main() -> None:
    """Run every case and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", choices=RECIPES, default="default")
    parser.add_argument("--quick", action="store_true", help="1.6x1.6x2 mm only, a few minutes less")
    chosen = parser.parse_args()
    recipe = RECIPES[chosen.recipe]
    protocols = (
        {"1.6x1.6x2 mm": QUICK}
        if chosen.quick
        else {"0.94x0.94x1.5 mm": ISO, "0.58x0.75x2 mm": SEED, "0.58x0.75x2.4 mm": THICK}
    )
    main_protocol = next(iter(protocols.values()))
    started = time.monotonic()

    def say(case: str, words: str) -> None:
        print(f"{time.monotonic() - started:5.0f} s  {case:28} {words}", flush=True)

    for name, protocol in protocols.items():
        seeds = (111, 112) if protocol is main_protocol else (111,)
        say(f"{name}, SNR 60", described([outcome(scanned(protocol, seed), recipe) for seed in seeds]))
    noisy = replace(main_protocol, snr=25)
    say("SNR 25", described([outcome(scanned(noisy, 111), recipe)]))
    say("SNR 25, small lesions", described([outcome(scanned(noisy, seed, 0, 24), recipe) for seed in (113, 114)]))
    pair = [outcome(scanned(replace(main_protocol, b0_dir=b0), 115), recipe) for b0 in ((0.0, 0.0, 1.0), TILT)]
    say("B0 along z", described(pair[:1]))
    say("B0 tilted by 30 degrees", described(pair[1:]))
    shadow, halo = shadow_and_halo(main_protocol, 116, recipe)
    say("0.8 ppm hematoma of 10 mm", f"shadow {shadow:.1f} ppb; halo {halo:+.2f} %")


if __name__ == "__main__":
    main()
