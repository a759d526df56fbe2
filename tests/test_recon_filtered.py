"""What gives filtered phase away, and what must not be taken for it."""

import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.fft
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import jv

from phantoms.anatomy import head
from phantoms.protocol import Protocol
from phantoms.simulate import simulate
from recon.filtered import LEAST_PPM, LEAST_RAD, filtered_echo, smooth_phase
from recon.types import Acquisition, Geometry

TE_S = (0.0057, 0.0191, 0.0325)
SEVERAL = {
    "three echoes": Protocol((128, 128, 16), (1.8, 1.8, 3.6), TE_S, 0.057, 20.0),
    "two short echoes": Protocol((80, 80, 24), (3.0, 3.0, 3.0), (0.0023, 0.0046), 0.02, 12.0),
}
PROTOCOLS = SEVERAL | {
    "one late echo": Protocol((64, 64, 16), (3.6, 3.6, 2.0), (0.02,), 0.05, 20.0, b0_dir=(0, 0.5, 0.87), snr=20),
}
SAMPLES = (32, 48, 64, 96, 128)
WINDOWS = {
    "square": np.ones_like,
    "hann": lambda r: 0.5 + 0.5 * np.cos(np.pi * r),
    "hamming": lambda r: 0.54 + 0.46 * np.cos(np.pi * r),
    "gauss": lambda r: np.exp(-0.5 * (r / 0.4) ** 2),
}


@pytest.fixture(scope="module")
def scans():
    return {name: simulate(head(101), protocol, seed=1).acquisition for name, protocol in PROTOCOLS.items()}


def low_passed(magnitude, phase, samples, window):
    """The image of the central in-plane k-space samples, complex (X, Y, Z)."""
    spectrum = scipy.fft.fft2(magnitude * np.exp(1j * phase), axes=(0, 1))
    for axis, n in enumerate(magnitude.shape[:2]):
        r = 2 * np.abs(scipy.fft.fftfreq(n, 1 / n)) / samples
        kept = np.where(r < 1, WINDOWS[window](np.minimum(r, 1)), 0)
        spectrum *= np.expand_dims(kept, [a for a in range(3) if a != axis])
    return scipy.fft.ifft2(spectrum, axes=(0, 1))


def filtered(scan, samples, window="hann", echoes=None):
    """Homodyne filtered as scanners do it: every slice of every echo (or of some) divided by its low-pass image."""
    phase = scan.phase.copy()
    for echo in range(len(scan.te_s)) if echoes is None else echoes:
        low = low_passed(scan.magnitude[echo], scan.phase[echo], samples, window)
        phase[echo] = np.angle(np.exp(1j * phase[echo]) * low.conj())
    return replace(scan, phase=phase)


def of_phase(phase_rad, magnitude=1.0, te_s=0.02):
    """One echo of this phase (X, Y, Z)."""
    phase = phase_rad.astype(np.float32)[None]
    volume = np.broadcast_to(np.asarray(magnitude, np.float32), phase.shape).copy()
    return Acquisition(volume, phase, (te_s,), 127.7, Geometry.of(phase.shape[1:], (2.0, 2.0, 2.0)))


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_scan_passes(scans, name):
    assert filtered_echo(scans[name]) is None


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize("window", WINDOWS)
def test_homodyne_filtered_phase_is_found(scans, name, window):
    scan = scans[name]
    found = {n: filtered_echo(filtered(scan, n, window)) for n in SAMPLES if n <= scan.geometry.shape[0]}
    first_asked = scan.te_s[min(1, len(scan.te_s) - 1)]
    assert {n: echo and echo.te_s for n, echo in found.items()} == dict.fromkeys(found, first_asked)


@pytest.mark.parametrize("name", SEVERAL)
def test_one_filtered_echo_is_found_and_named(scans, name):
    scan = scans[name]
    found = filtered_echo(filtered(scan, 64, echoes=[len(scan.te_s) - 1]))
    assert found is not None
    assert found.te_s == scan.te_s[-1]


@pytest.mark.parametrize("name", SEVERAL)
def test_the_first_echo_may_be_the_reference_of_the_coils(scans, name):
    """Coil combination that takes the first echo's smooth phase out of all echoes leaves the field between them."""
    scan = scans[name]
    smooth = np.angle(low_passed(scan.magnitude[0], scan.phase[0], 64, "hann"))
    combined = replace(scan, phase=(scan.phase - smooth).astype(np.float32))
    assert smooth_phase(combined, 0).missing
    assert filtered_echo(combined) is None


@pytest.mark.parametrize("name", SEVERAL)
def test_phase_filtered_after_division_by_the_first_echo_is_found(scans, name):
    scan = scans[name]
    assert filtered_echo(filtered(replace(scan, phase=scan.phase - scan.phase[:1]), 32)) is not None


@pytest.mark.parametrize("amplitude", [0.1, 0.5, 1.5])
def test_spread_of_a_wave_of_one_cycle(amplitude):
    """exp(i a sin x) = sum J_k(a) exp(i k x), of which a Hann window of 8 samples keeps (1 + cos(pi k / 4)) / 2."""
    x = 2 * np.pi * np.arange(96) / 96
    low = sum((1 + np.cos(np.pi * k / 4)) / 2 * jv(k, amplitude) * np.exp(1j * k * x) for k in range(-3, 4))
    resultant = np.abs((np.abs(low) * low).sum()) / (np.abs(low) ** 2).sum()
    wave = np.broadcast_to(amplitude * np.sin(x)[:, None, None], (96, 80, 16))
    assert smooth_phase(of_phase(wave), 0).spread_rad == pytest.approx(math.sqrt(-2 * math.log(resultant)), rel=0.01)


def test_what_fine_phase_has_does_not_count():
    x = 2 * np.pi * np.arange(96)[:, None, None] / 96
    fine = np.broadcast_to(0.5 * np.sin(20 * x), (96, 80, 16))
    assert smooth_phase(of_phase(fine), 0).spread_rad < 1e-3


def test_noise_without_phase_counts_little():
    rng = np.random.default_rng(0)
    signal = 5 + rng.normal(size=(128, 128, 16)) + 1j * rng.normal(size=(128, 128, 16))
    assert smooth_phase(of_phase(np.angle(signal), np.abs(signal)), 0).spread_rad < 0.02


@settings(max_examples=20, deadline=None, derandomize=True)
@given(turn=st.floats(-math.pi, math.pi), gain=st.floats(1e-3, 1e4), branch=st.integers(-2, 2))
def test_receiver_phase_gain_and_branch_make_no_difference(turn, gain, branch):
    x = 2 * np.pi * np.arange(48)[:, None, None] / 48
    phase = np.broadcast_to(np.sin(x), (48, 40, 16))
    plain = smooth_phase(of_phase(phase), 0).spread_rad
    turned = smooth_phase(of_phase(phase + turn + 2 * np.pi * branch, gain), 0).spread_rad
    assert turned == pytest.approx(plain, rel=1e-4)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(shape=st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 40)), gain=st.sampled_from([0.0, 1.0]))
def test_small_and_empty_images_end_in_a_number(shape, gain):
    smooth = smooth_phase(of_phase(np.zeros(shape), gain), 0)
    assert smooth.missing == (gain > 0)
    assert smooth.spread_rad == (pytest.approx(0, abs=1e-3) if gain else math.inf)


def test_the_least_grows_with_field_and_echo_time():
    zero = of_phase(np.zeros((8, 8, 16)))
    assert smooth_phase(zero, 0).least_rad == pytest.approx(LEAST_RAD + 2 * np.pi * 127.7 * LEAST_PPM * 0.02)
    assert smooth_phase(replace(zero, f0_mhz=298.0), 0).least_rad > smooth_phase(zero, 0).least_rad
