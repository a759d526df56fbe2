"""Every inversion on lesions that the phantom generator draws: the right sign, and a mean within a stated band.

The band of a method is what the lesion's mean may be off, relative to the truth: below 20 voxels, where most voxels
lie on the surface, and from there on. Field and signal come from the generator's own fine grid and dipole, so no
error cancels; the field is the local one, so the band is the inversion's alone. ``test_lesion_property.py`` holds
the band of the whole reconstruction.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from phantoms.lesions import Lesion, random_lesion
from phantoms.physics import box_mean, centred_axes, dipole_field
from recon.inversion import ClosedFormL2, LinearTv, Medi, NonlinearTv, Problem, Tkd, invert
from recon.solve import solved
from recon.types import BoolArray, LocalField

SHAPE, FINE = (48, 48, 44), 2
RAD_PER_PPM = 2 * np.pi * 127.7 * 6.7e-3
METHODS = (NonlinearTv(), LinearTv(), Medi(), ClosedFormL2(), Tkd())
# Below 20 voxels, from 20 voxels on. Of 60 draws with other seeds the worst were 0.25 and 0.18 (NonlinearTv), 0.23
# and 0.20 (LinearTv), 0.34 and 0.11 (Medi), 0.36 and 0.24 (ClosedFormL2), 0.23 and 0.11 (Tkd), nearly all too low;
# half were within 0.04, 0.06, 0.04, 0.15 and 0.03. What total variation takes is largest at 0.2 ppm and SNR 25.
BANDS = {
    "NonlinearTv": (0.35, 0.25),
    "LinearTv": (0.35, 0.25),
    "Medi": (0.45, 0.15),
    "ClosedFormL2": (0.45, 0.3),
    "Tkd": (0.35, 0.15),
}


@dataclass(frozen=True)
class Case:
    """A lesion on the acquired grid: the problem, its true chi, and the voxels that are lesion to half or more."""

    problem: Problem
    chi_ppm: np.ndarray
    lesion: BoolArray


def drawn(lesion: Lesion, voxel_mm, b0_dir, snr, seed) -> Case:
    """The lesion in uniform tissue, with noise of the field as its signal makes it."""
    axes = centred_axes(tuple(FINE * n for n in SHAPE), tuple(h / FINE for h in voxel_mm))
    inside = lesion.distance_mm(axes) < 0
    field = dipole_field(np.where(inside, np.float32(lesion.chi_ppm), 0), tuple(h / FINE for h in voxel_mm), b0_dir)
    signal = np.where(inside, lesion.pd * np.exp(-15e-3 * lesion.r2s_hz), np.exp(-15e-3 * 20))
    field, signal, fraction = (box_mean(volume.astype(np.float32), FINE) for volume in (field, signal, inside))
    x, y, z = (np.linspace(-1, 1, n) / 0.66 for n in SHAPE)  # 8 voxels to the grid's faces
    brain = x[:, None, None] ** 2 + y[None, :, None] ** 2 + z[None, None, :] ** 2 < 1
    sd = 0.004 * 60 / snr / signal
    field = field + np.random.default_rng(seed).normal(0, 1, SHAPE) * sd
    weight2 = np.where(brain, sd**-2, 0)
    problem = Problem(
        local=LocalField(np.where(brain, field, 0).astype(np.float32), brain),
        weight2=(weight2 / weight2[brain].mean()).astype(np.float32),
        brain=brain,
        magnitude=np.where(brain, signal, 0).astype(np.float32),
        csf=np.zeros_like(brain),
        rad_per_ppm=RAD_PER_PPM,
        voxel_mm=voxel_mm,
        b0_dir=b0_dir,
    )
    return Case(problem, lesion.chi_ppm * fraction, fraction >= 0.5)


def error_of(case: Case, method) -> float:
    """Relative error of the lesion's mean; both maps refer to the tissue around it."""
    tissue = case.problem.brain & (case.chi_ppm == 0)
    chi = solved(invert(case.problem, method))
    return float((chi[case.lesion].mean() - chi[tissue].mean()) / case.chi_ppm[case.lesion].mean() - 1)


@cache
def case_of(kind, size, chi_ppm, place, tilt_deg, turn_deg, voxel_mm, snr, seed) -> Case:
    radius_mm = size * float(np.cbrt(np.prod(voxel_mm)))
    centre_mm = tuple(p * n * h for p, n, h in zip(place, SHAPE, voxel_mm, strict=True))
    lesion = random_lesion(np.random.default_rng(seed), kind, centre_mm, radius_mm, chi_ppm)
    tilt, turn = np.deg2rad([tilt_deg, turn_deg])
    b0_dir = (np.sin(tilt) * np.cos(turn), np.sin(tilt) * np.sin(turn), np.cos(tilt))
    return drawn(lesion, voxel_mm, b0_dir, snr, seed)


draws = {
    "kind": st.sampled_from(["hemorrhage", "calcification"]),
    "size": st.floats(0.8, 4),
    "chi_ppm": st.floats(0.2, 2),
    "place": st.tuples(*[st.floats(-0.12, 0.12)] * 3),
    "tilt_deg": st.floats(0, 90),
    "turn_deg": st.floats(0, 360),
    "voxel_mm": st.tuples(st.floats(0.6, 1.2), st.floats(0.6, 1.2), st.floats(0.8, 2.4)),
    "snr": st.floats(25, 100),
    "seed": st.integers(101, 2**16),
}


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
@settings(
    deadline=None,
    max_examples=12,
    derandomize=True,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
@given(**draws)
def test_a_drawn_lesion_keeps_its_sign_and_its_mean(method, **drawn_values):
    """``size`` is the mean radius in voxel edges, ``place`` the centre as a share of the field of view."""
    case = case_of(**drawn_values)
    voxels = int(case.lesion.sum())
    assume(voxels >= 3)
    error = error_of(case, method)
    assert error > -1, "the sign is wrong"
    assert abs(error) < BANDS[type(method).__name__][voxels >= 20], (error, voxels)
