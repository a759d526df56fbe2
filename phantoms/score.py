"""How well a susceptibility map meets the truth of a phantom: lesions, their surroundings, brain and tissue.

A map from field data knows susceptibility up to a constant: every measure first refers map and truth to the mean
over the true brain without its lesions, of which a large one would move the mean. The figures themselves are in
``phantoms.metrics``; here is where they are taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from phantoms import metrics
from phantoms.lesions import Kind
from phantoms.simulate import Phantom, PlacedLesion
from recon.morphology import dilate
from recon.types import BadInput, BoolArray, FloatArray

NAN = float("nan")

VOXEL = (1.0, 1.0, 1.0)
"""Voxel edges for distances in voxels."""

STRONG_PPM = 0.5
"""|mean susceptibility| from which a lesion counts for shadow and halo."""

SHADOW_MM = 8.0
"""How far from a strong lesion its shadow is measured."""

SIZES = (("below 60 mm3", 0.0, 60.0), ("60 to 1000 mm3", 60.0, 1000.0), ("above 1000 mm3", 1000.0, float("inf")))
"""Classes of lesion volume: name, from, to (without)."""


@dataclass(frozen=True, slots=True)
class LesionScore:
    """One lesion: its mean in the map against its mean in the truth, over the voxels that are half lesion or more.

    ``volume_mm3`` is the lesion's own, ``error`` is (measured - true) / |true|.
    """

    kind: Kind
    volume_mm3: float
    voxels: int
    true_ppb: float
    measured_ppb: float

    @property
    def error(self) -> float:
        """Relative error of the mean; positive when the map is too high."""
        return (self.measured_ppb - self.true_ppb) / abs(self.true_ppb)

    @property
    def sign_right(self) -> bool:
        """Whether the mean has the sign of the kind: hemorrhage positive, calcification negative."""
        return (self.measured_ppb > 0) == (self.kind == "hemorrhage") and self.measured_ppb != 0


@dataclass(frozen=True, slots=True)
class SizeClass:
    """Lesions of one class of volume: slope and bias as in ``Scores``."""

    name: str
    count: int
    slope: float
    bias_ppb: float


@dataclass(frozen=True, slots=True)
class Scores:
    """A map against the truth of its phantom. What a phantom has nothing for is NaN.

    Parameters
    ----------
    nrmse_percent, detrended_percent, hfen_percent, xsim
        ``phantoms.metrics`` over the true brain.
    tissue_percent, lesion_percent
        Detrended error over the brain farther than 2 voxels from every lesion, and over the lesions' voxels.
    tissue_rmse_ppb
        Root mean square error over the same tissue.
    lesion_slope, lesion_bias_ppb
        Of the means over each lesion in the map, m, and in the truth, t: sum m t / sum t^2, and the mean of m - t.
    sizes
        The same by class of volume.
    shadow_ppb
        Root mean square error within 8 mm of strong lesions (0.5 ppm or more in the mean), in the brain and more than
        one voxel from every lesion.
    halo_percent
        Mean error in the shell of 1 to 3 voxels around a strong lesion, percent of the lesion's mean, positive where
        it has the other sign; mean over these lesions.
    moment_deviation_percent
        sum |moment in the map - in the truth| over sum |moment in the truth|, of the calcifications that stand out in
        the truth: ``metrics.calcification_moment`` of either, in the brain farther than 3 voxels from other lesions.
    streak_level
        Median of ``metrics.streak_level`` over the same calcifications.
    """

    nrmse_percent: float
    detrended_percent: float
    tissue_percent: float
    lesion_percent: float
    hfen_percent: float
    xsim: float
    tissue_rmse_ppb: float
    lesion_slope: float
    lesion_bias_ppb: float
    sizes: tuple[SizeClass, ...]
    shadow_ppb: float
    halo_percent: float
    moment_deviation_percent: float
    streak_level: float


def scores(chi_ppm: FloatArray, phantom: Phantom) -> Scores:
    """Every figure of a map, float32 (X, Y, Z) in ppm.

    Raises
    ------
    BadInput
        If the map has another shape than the phantom.
    """
    measured, true = referenced(chi_ppm, phantom), referenced(phantom.chi_ppm, phantom)
    brain, lesions = phantom.brain, _lesions(phantom)
    table = lesion_table(chi_ppm, phantom)
    slope, bias_ppb = _slope_and_bias(table)
    shadow_ppb, halo_percent = _shadow_and_halo(measured - true, phantom)
    moment_deviation_percent, streak_level = _calcifications(measured, true, phantom)
    return Scores(
        nrmse_percent=metrics.nrmse_percent(measured, true, brain),
        detrended_percent=metrics.detrended_percent(measured, true, brain),
        tissue_percent=metrics.detrended_percent(measured, true, _tissue(phantom)),
        lesion_percent=metrics.detrended_percent(measured, true, lesions) if lesions.any() else NAN,
        hfen_percent=metrics.hfen_percent(measured, true, brain),
        xsim=metrics.xsim(measured, true, brain),
        tissue_rmse_ppb=tissue_rmse_ppb(chi_ppm, phantom),
        lesion_slope=slope,
        lesion_bias_ppb=bias_ppb,
        sizes=tuple(_size_class(table, *limits) for limits in SIZES),
        shadow_ppb=shadow_ppb,
        halo_percent=halo_percent,
        moment_deviation_percent=moment_deviation_percent,
        streak_level=streak_level,
    )


def referenced(chi_ppm: FloatArray, phantom: Phantom) -> FloatArray:
    """The map minus its mean over the true brain without lesions, float32 (X, Y, Z) in ppm.

    Raises
    ------
    BadInput
        If the map has another shape than the phantom.
    """
    if chi_ppm.shape != phantom.brain.shape:
        raise BadInput(f"chi_ppm has shape {chi_ppm.shape}, the phantom {phantom.brain.shape}")
    healthy = phantom.brain & ~_lesions(phantom)
    return chi_ppm - np.float32(chi_ppm[healthy].mean(dtype=np.float64))


def lesion_table(chi_ppm: FloatArray, phantom: Phantom) -> list[LesionScore]:
    """Every lesion of the phantom that fills at least half of one voxel, in the phantom's order."""
    measured, true = referenced(chi_ppm, phantom), referenced(phantom.chi_ppm, phantom)
    return [
        LesionScore(
            kind=placed.lesion.kind,
            volume_mm3=placed.volume_mm3,
            voxels=int(placed.mask.sum()),
            true_ppb=1000 * float(true[placed.mask].mean(dtype=np.float64)),
            measured_ppb=1000 * float(measured[placed.mask].mean(dtype=np.float64)),
        )
        for placed in phantom.lesions
        if placed.mask.any()
    ]


def nrmse_percent(chi_ppm: FloatArray, phantom: Phantom) -> float:
    """100 |map - truth| / |truth| over the true brain, both without their mean over it."""
    return metrics.nrmse_percent(chi_ppm, phantom.chi_ppm, phantom.brain)


def tissue_rmse_ppb(chi_ppm: FloatArray, phantom: Phantom, distance_voxels: float = 2.0) -> float:
    """Root mean square error in ppb over the true brain farther than ``distance_voxels`` from every lesion."""
    tissue = _tissue(phantom, distance_voxels)
    error = (chi_ppm[tissue] - phantom.chi_ppm[tissue]).astype(np.float64)
    return float(1000 * error.std())


def _tissue(phantom: Phantom, distance_voxels: float = 2.0) -> BoolArray:
    return phantom.brain & ~dilate(_lesions(phantom), VOXEL, distance_voxels)


def _lesions(phantom: Phantom) -> BoolArray:
    return _union(phantom, phantom.lesions)


def _union(phantom: Phantom, lesions: Sequence[PlacedLesion]) -> BoolArray:
    union = np.zeros(phantom.brain.shape, dtype=np.bool_)
    for placed in lesions:
        union |= placed.mask
    return union


def _size_class(table: Sequence[LesionScore], name: str, low_mm3: float, high_mm3: float) -> SizeClass:
    members = [score for score in table if low_mm3 <= score.volume_mm3 < high_mm3]
    return SizeClass(name, len(members), *_slope_and_bias(members))


def _slope_and_bias(table: Sequence[LesionScore]) -> tuple[float, float]:
    if not table:
        return NAN, NAN
    true, measured = (np.array([getattr(score, of) for score in table]) for of in ("true_ppb", "measured_ppb"))
    return float(true @ measured / (true @ true)), float(np.mean(measured - true))


def _shadow_and_halo(error_ppm: FloatArray, phantom: Phantom) -> tuple[float, float]:
    strong = [placed for placed in phantom.lesions if abs(placed.mean_chi_ppm) >= STRONG_PPM]
    if not strong:
        return NAN, NAN
    free = phantom.brain & ~dilate(_lesions(phantom), VOXEL, 1)
    around = free & dilate(_union(phantom, strong), phantom.protocol.voxel_mm, SHADOW_MM)
    shadow_ppm = np.sqrt(np.mean(error_ppm[around] ** 2, dtype=np.float64))
    halos = [_halo(error_ppm, free, placed) for placed in strong]
    return float(1000 * shadow_ppm), float(100 * np.mean(halos))


def _halo(error_ppm: FloatArray, free: BoolArray, placed: PlacedLesion) -> float:
    near = metrics.bounds(placed.mask, 4)
    shell = free[near] & dilate(placed.mask[near], VOXEL, 3)
    return -float(error_ppm[near][shell].mean(dtype=np.float64)) / placed.mean_chi_ppm


def _calcifications(measured: FloatArray, true: FloatArray, phantom: Phantom) -> tuple[float, float]:
    deviation = total = 0.0
    streaks: list[float] = []
    lesions = _lesions(phantom)
    for placed in phantom.lesions:
        if placed.lesion.kind != "calcification" or not placed.mask.any():
            continue
        others = dilate(lesions & ~placed.mask, VOXEL, metrics.INNER)
        within = (phantom.brain & ~others) | placed.mask
        true_moment = metrics.calcification_moment(true, placed.mask, within)
        if true_moment:
            deviation += abs(metrics.calcification_moment(measured, placed.mask, within) - true_moment)
            total += abs(true_moment)
            streaks.append(metrics.streak_level(measured, true, placed.mask, within))
    return (100 * deviation / total, float(np.median(streaks))) if streaks else (NAN, NAN)
