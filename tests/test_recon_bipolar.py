"""Bipolar readout: found and corrected where it is, left alone where it is not."""

import dataclasses

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from recon.bipolar import Readout, corrected, readout_phase
from recon.echoes import Echoes
from recon.types import BadRecipe

SHAPE, VOXEL_MM = (40, 44, 24), (1.5, 1.5, 2.0)
EVEN = tuple(5.7e-3 + 6.7e-3 * np.arange(8))


def place():
    return np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij")


def scan(theta=0.0, te_s=EVEN, snr=30.0, seed=0, flow_rad=0.0):
    """Echoes of a ball with a curved field, an offset, a decay; ``flow_rad`` bends the phase of a tenth of it."""
    x, y, z = place()
    mask = x**2 + y**2 + z**2 < 0.8
    rng = np.random.default_rng(seed)
    field, offset = 40 * x * y + 15 * z, 1 + x - 0.5 * y**2
    te = np.array(te_s)[:, None, None, None]
    sign = np.where(np.arange(len(te_s)) % 2 == 0, 1, -1)[:, None, None, None]
    vessel = rng.random(SHAPE) < 0.1
    phase = offset + 2 * np.pi * field * te + sign * theta + flow_rad * vessel * (te / te[0]) ** 2
    signal = np.exp(-20 * te + 1j * phase)
    signal += (rng.standard_normal(signal.shape) + 1j * rng.standard_normal(signal.shape)) / snr
    flat = signal[:, mask]
    return Echoes(
        np.abs(flat).astype(np.float32),
        np.angle(flat).astype(np.float32),
        np.array(te_s, np.float32),
        mask,
        VOXEL_MM,
    )


def turns_apart(a, b):
    """Difference of two phases but for whole turns and their common constant."""
    return np.angle(np.exp(1j * (a - b)))


@given(constant=st.floats(-0.7, 0.7), slopes=st.tuples(*[st.floats(-2, 2)] * 3), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_a_linear_readout_phase_is_measured(constant, slopes, seed):
    x, y, z = place()
    theta = constant + slopes[0] * x + slopes[1] * y + slopes[2] * z
    echoes = scan(theta, seed=seed)
    true = theta[echoes.mask]
    assume(np.sqrt(np.mean(true**2)) > 0.02)
    found = readout_phase(echoes, Readout(least_rad=1e-3)).theta_rad
    assert found is not None
    # the constant is known modulo pi / 2
    assert np.abs(turns_apart(4 * found, 4 * true)).max() < 0.1
    if np.sqrt(np.mean(true**2)) > 0.12:
        assert readout_phase(echoes, Readout()).theta_rad is not None


def test_the_correction_takes_it_out():
    x, _, _ = place()
    clean, spoiled = scan(0.0), scan(0.5 + 1.2 * x)
    mended = corrected(spoiled, readout_phase(spoiled, Readout()))
    difference = turns_apart(mended.phase, clean.phase)
    assert np.sqrt(np.mean(difference[:, ::7] ** 2)) < 0.1
    assert np.sqrt(np.mean(turns_apart(spoiled.phase, clean.phase)[:, ::7] ** 2)) > 0.5


@given(snr=st.floats(5, 100), seed=st.integers(0, 999), flow_rad=st.floats(0, 1))
@settings(max_examples=20, deadline=None)
def test_monopolar_echoes_are_left_alone(snr, seed, flow_rad):
    echoes = scan(0.0, snr=snr, seed=seed, flow_rad=flow_rad)
    readout = readout_phase(echoes, Readout())
    assert readout.words.startswith("monopolar")
    assert corrected(echoes, readout) is echoes


@pytest.mark.parametrize("te_s", [EVEN[:1], EVEN[:2], (4e-3, 9e-3, 15e-3, 20e-3)])
def test_what_cannot_be_decided_is_said(te_s):
    readout = readout_phase(scan(0.6, te_s=te_s), Readout())
    assert readout.theta_rad is None
    assert "not decidable" in readout.words


def test_three_echoes_decide():
    assert readout_phase(scan(0.6, te_s=EVEN[:3]), Readout()).words.startswith("bipolar")


def test_parameters_out_of_range_are_refused():
    for wrong in ({"least_rad": 0.0}, {"coherence": 1.0}):
        with pytest.raises(BadRecipe):
            dataclasses.replace(Readout(), **wrong)
