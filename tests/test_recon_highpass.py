"""The GRE phase image: cut-off, sign, choice of echo."""

import numpy as np
import pytest

from recon.highpass import Homodyne, homodyne
from recon.types import Acquisition, BadRecipe, Geometry

TE_S = tuple(5.7e-3 + 6.7e-3 * np.arange(8))


def acquisition(phase_rad, te_s=TE_S):
    """Uniform magnitude; phase (X, Y, Z), the same in every echo."""
    phase = np.broadcast_to(phase_rad.astype(np.float32), (len(te_s), *phase_rad.shape)).copy()
    return Acquisition(np.ones_like(phase), phase, te_s, 127.7, Geometry.of(phase_rad.shape, (1.0, 1.0, 2.0)))


def waves(cycles, shape=(128, 96, 2), amplitude=0.2):
    x = np.arange(shape[0])[:, None, None] / shape[0]
    return np.broadcast_to(amplitude * np.sin(2 * np.pi * cycles * x), shape)


def test_phase_coarser_than_the_kernel_vanishes_and_finer_stays_with_its_sign():
    coarse, _ = homodyne(acquisition(waves(1)), Homodyne())
    fine, _ = homodyne(acquisition(waves(40)), Homodyne())
    assert np.abs(coarse).max() < 0.02 * 0.2
    np.testing.assert_allclose(fine, waves(40), atol=0.02 * 0.2)


def test_hann_window_halves_what_lies_in_the_middle_of_the_kernel():
    """16 of 32 cycles: the low-pass image holds half of the wave, the high-pass phase the other half."""
    middle, _ = homodyne(acquisition(waves(16)), Homodyne())
    assert middle.std() / waves(16).std() == pytest.approx(0.5, abs=0.02)


def test_smooth_wraps_leave_no_trace():
    x = np.arange(128)[:, None, None] * np.ones((1, 96, 2))
    ramp = 2 * np.pi * 5 * x / 128
    wrapped = np.angle(np.exp(1j * ramp))
    highpass, _ = homodyne(acquisition(wrapped), Homodyne())
    inside = highpass[4:-4]
    assert inside.std() < 1e-3


def test_slices_do_not_know_one_another():
    phase = waves(40).copy()
    alone, _ = homodyne(acquisition(phase), Homodyne())
    phase[:, :, 1] = np.random.default_rng(0).uniform(-3, 3, phase.shape[:2])
    both, _ = homodyne(acquisition(phase), Homodyne())
    np.testing.assert_array_equal(both[:, :, 0], alone[:, :, 0])


@pytest.mark.parametrize(("te_s", "used"), [(TE_S, TE_S[3]), ((2.3e-3, 4.6e-3), 4.6e-3), ((20e-3, 40e-3), 20e-3)])
def test_the_echo_nearest_to_25_8_ms_is_used(te_s, used):
    _, te = homodyne(acquisition(waves(3), te_s), Homodyne())
    assert te == pytest.approx(used)


def test_impossible_parameters_are_refused():
    with pytest.raises(BadRecipe, match="Homodyne"):
        Homodyne(samples=1)
