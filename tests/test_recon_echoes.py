"""Echo fit, phase offset, unwrapping: known answers and laws."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from recon.echoes import (
    ComplexFit,
    Echoes,
    echo_spacing_s,
    first_phase,
    fit_field,
    phase_offset,
    shortest_pairs,
    whole_turns,
)
from recon.types import Acquisition, BadInput, BadRecipe, Geometry
from recon.unwrap import region_growing

EVEN = tuple(5.7e-3 + 6.7e-3 * np.arange(8))
UNEVEN = (4e-3, 9e-3, 15e-3, 20e-3, 28e-3)


def echoes_of(field_hz, r2s_hz, te_s, offset_rad=0.0, snr=np.inf, seed=0):
    """Echoes of a flat line of voxels as a (N, 1, 1) volume with amplitude 100."""
    te = np.array(te_s)[:, None]
    signal = 100 * np.exp(-r2s_hz * te + 1j * (2 * np.pi * field_hz * te + offset_rad))
    rng = np.random.default_rng(seed)
    signal = signal + (100 / snr) * (rng.standard_normal(signal.shape) + 1j * rng.standard_normal(signal.shape))
    mask = np.ones((signal.shape[1], 1, 1), dtype=bool)
    return Echoes(
        np.abs(signal).astype(np.float32),
        np.angle(signal).astype(np.float32),
        np.array(te_s, dtype=np.float32),
        mask,
        (1.0, 1.0, 1.0),
    )


@pytest.mark.parametrize("te_s", [EVEN, UNEVEN, EVEN[:2]])
def test_fit_recovers_field_and_decay(te_s):
    rng = np.random.default_rng(1)
    field, r2s = rng.uniform(-60, 60, 400), rng.uniform(5, 100, 400)
    echoes = echoes_of(field, r2s, te_s)
    start = (field + rng.uniform(-2, 2, 400)).astype(np.float32)
    fit = fit_field(echoes, start, np.zeros_like(start), ComplexFit())
    np.testing.assert_allclose(fit.field_hz.ravel(), field, atol=0.01)
    np.testing.assert_allclose(fit.r2s_hz.ravel(), r2s, atol=0.1)
    np.testing.assert_allclose(fit.amplitude.ravel(), 100, rtol=1e-3)


def test_reported_sd_is_the_sd_of_the_field():
    """Cramer-Rao: 4000 equal voxels at SNR 40 scatter by what ``sd_hz`` says."""
    echoes = echoes_of(np.full(4000, 20.0), np.full(4000, 20.0), EVEN, snr=40)
    fit = fit_field(echoes, np.full(4000, 20.0, dtype=np.float32), np.zeros(4000, dtype=np.float32), ComplexFit())
    assert fit.field_hz.std() == pytest.approx(np.median(fit.sd_hz), rel=0.06)
    assert fit.field_hz.mean() == pytest.approx(20, abs=4 * fit.field_hz.std() / np.sqrt(4000))
    assert fit.noise == pytest.approx(100 / 40, rel=0.05)
    assert np.median(fit.misfit) == pytest.approx(1, abs=0.05)


def test_one_echo_gives_the_field_over_its_echo_time():
    field = np.linspace(-15, 15, 61)
    echoes = echoes_of(field, np.full(61, 20.0), (25e-3,))
    phase, _, magnitude = first_phase(echoes)
    start = (phase / (2 * np.pi * echo_spacing_s(echoes.te_s))).astype(np.float32)
    fit = fit_field(echoes, start, phase_offset(echoes, start, ComplexFit()), ComplexFit())
    np.testing.assert_allclose(fit.field_hz.ravel(), field, atol=1e-3)
    np.testing.assert_allclose(magnitude, 100 * np.exp(-20 * 25e-3), rtol=1e-4)


def test_shortest_pairs_are_found_at_uneven_spacing():
    assert shortest_pairs(np.array(UNEVEN, dtype=np.float32)).tolist() == [[0, 1], [2, 3]]
    assert echo_spacing_s(UNEVEN) == pytest.approx(5e-3)


@pytest.mark.parametrize("field_hz", [-250.0, -110.0, 0.0, 120.0, 160.0, 320.0])
def test_uneven_echoes_find_the_whole_turns(field_hz):
    """5 ms between the closest echoes: the first field is known modulo 200 Hz."""
    echoes = echoes_of(np.full(500, field_hz), np.full(500, 20.0), UNEVEN, offset_rad=0.7, snr=30)
    phase, _, _ = first_phase(echoes)
    start = (phase / (2 * np.pi * echo_spacing_s(UNEVEN))).astype(np.float32)
    found = start + whole_turns(echoes, start) / echo_spacing_s(UNEVEN)
    assert np.median(found) == pytest.approx(field_hz, abs=1)


def test_even_echoes_need_no_turns():
    echoes = echoes_of(np.full(50, 120.0), np.full(50, 20.0), EVEN)
    assert whole_turns(echoes, np.zeros(50, np.float32)) == 0


@pytest.mark.parametrize(("m0", "r2s"), [(0.0, 20.0), (20.0, 300.0), (2.0, 100.0)])
def test_amplitude_stays_finite_where_there_is_only_noise(m0, r2s):
    rng = np.random.default_rng(5)
    echoes = echoes_of(np.zeros(5000), np.full(5000, r2s), EVEN)
    signal = (m0 / 100) * echoes.magnitude + rng.normal(0, 2, (8, 5000)) + 1j * rng.normal(0, 2, (8, 5000))
    noisy = replace(echoes, magnitude=np.abs(signal).astype(np.float32), phase=np.angle(signal).astype(np.float32))
    fit = fit_field(noisy, np.zeros(5000, np.float32), np.zeros(5000, np.float32), ComplexFit())
    assert (fit.amplitude.ravel() <= 3.001 * noisy.magnitude.max(axis=0)).all()
    assert np.isfinite(fit.sd_hz).all()


def test_a_smooth_phase_offset_is_found_up_to_the_edge():
    """A one-sided mean at the mask's edge once left 0.3 rad for this slope, and 0.3 Hz in the field."""
    shape = (72, 72, 64)
    mask = np.zeros(shape, dtype=bool)
    mask[12:-12, 12:-12, 12:-12] = True
    x, y, _ = np.meshgrid(*[np.arange(n) / 48 for n in shape], indexing="ij")
    offset, field = (1.0 + 2.0 * x - 1.5 * y)[mask], (40 * (x - y))[mask]
    te = np.array(EVEN)[:, None]
    signal = np.exp(1j * (2 * np.pi * field * te + offset))
    echoes = Echoes(
        np.abs(signal).astype(np.float32),
        np.angle(signal).astype(np.float32),
        np.array(EVEN, dtype=np.float32),
        mask,
        (1.0, 1.0, 1.0),
    )
    found = phase_offset(echoes, field.astype(np.float32), ComplexFit())
    error = np.zeros(shape)
    error[mask] = np.angle(np.exp(1j * (found - offset)))
    assert np.abs(error[28:-28, 28:-28, 28:-28]).max() < 0.01
    assert np.abs(error).max() < 0.08
    assert np.sqrt(np.mean(error[mask] ** 2)) < 0.02


@settings(deadline=None, max_examples=30)
@given(
    st.tuples(*[st.integers(1, 9)] * 3),
    st.integers(0, 2**32 - 1),
)
def test_unwrapping_changes_phase_by_whole_turns(shape, seed):
    rng = np.random.default_rng(seed)
    phase = rng.uniform(-np.pi, np.pi, shape).astype(np.float32)
    magnitude = rng.uniform(0.1, 1, shape).astype(np.float32)
    mask = rng.random(shape) < 0.8
    if not mask.any():
        mask.flat[0] = True
    unwrapped = region_growing(phase, phase, magnitude, mask)
    k = (unwrapped - phase)[mask] / (2 * np.pi)
    np.testing.assert_allclose(k, np.round(k), atol=1e-4)
    assert not unwrapped[~mask].any()


@settings(deadline=None, max_examples=20)
@given(arrays(np.int8, (12, 10, 8), elements=st.integers(-3, 3)))
def test_whole_turns_added_anywhere_do_not_matter(added):
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in added.shape], indexing="ij")
    truth = (9 * x * y + 4 * z).astype(np.float32)
    wrapped = np.angle(np.exp(1j * truth)).astype(np.float32)
    ones, mask = np.ones_like(truth), np.ones(truth.shape, dtype=bool)
    plain = region_growing(wrapped, wrapped, ones, mask)
    shifted = region_growing(wrapped + 2 * np.pi * added.astype(np.float32), wrapped, ones, mask)
    difference = (shifted - plain) / (2 * np.pi)
    np.testing.assert_allclose(difference, round(float(difference.mean())), atol=1e-4)
    turns = (plain - truth) / (2 * np.pi)
    np.testing.assert_allclose(turns, round(float(turns.mean())), atol=1e-4)


def test_regions_that_do_not_touch_are_all_unwrapped():
    phase = np.full((20, 4, 4), 0.5, dtype=np.float32)
    phase[12:] += 2 * np.pi
    mask = np.ones(phase.shape, dtype=bool)
    mask[8:12] = False
    unwrapped = region_growing(phase, phase, np.ones_like(phase), mask)
    np.testing.assert_allclose(unwrapped[mask], 0.5, atol=1e-5)


GEOMETRY = Geometry.of((4, 4, 4), (1.0, 1.0, 1.0))


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"magnitude": np.ones((2, 4, 4, 3), np.float32)}, "magnitude"),
        ({"phase": np.ones((2, 4, 4, 4), np.float64)}, "phase"),
        ({"phase": np.full((2, 4, 4, 4), np.nan, np.float32)}, "phase"),
        ({"magnitude": np.full((2, 4, 4, 4), np.inf, np.float32)}, "magnitude"),
        ({"te_s": (10e-3, 5e-3)}, "te_s"),
        ({"te_s": (0.0, 5e-3)}, "te_s"),
        ({"te_s": (float("nan"), 5e-3)}, "te_s"),
        ({"te_s": (5.0, 12.0)}, "te_s"),
        ({"magnitude": -np.ones((2, 4, 4, 4), np.float32)}, "magnitude"),
        ({"f0_mhz": 127e6}, "f0_mhz"),
    ],
)
def test_unusable_input_is_named(change, name):
    good = {
        "magnitude": np.ones((2, 4, 4, 4), np.float32),
        "phase": np.ones((2, 4, 4, 4), np.float32),
        "te_s": (5e-3, 10e-3),
        "f0_mhz": 127.7,
        "geometry": GEOMETRY,
    }
    Acquisition(**good)
    with pytest.raises(BadInput, match=name):
        Acquisition(**(good | change))


def test_impossible_parameters_are_refused():
    with pytest.raises(BadRecipe, match="ComplexFit"):
        ComplexFit(steps=0)
