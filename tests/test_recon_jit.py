"""Elementary functions of the kernels against numpy's, and kernels against plain formulas."""

import inspect
from collections.abc import Callable

import numba
import numpy as np
import pytest
import scipy.fft
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from recon.highpass import lowpass
from recon.jit import argument, cos_wrapped, exp_bounded, log_positive, sin_wrapped, wrap
from recon.morphology import distance_mm, inner


def over(function: Callable[..., float]) -> Callable[..., np.ndarray]:
    """A kernel's function of scalars over float32 arrays, as compiled."""

    @numba.njit
    def every(arguments, out):
        for i in range(out.size):
            out[i] = function(arguments[0, i]) if one else function(arguments[0, i], arguments[1, i])

    one = len(inspect.signature(function.py_func).parameters) == 1

    def run(*arguments):
        stacked = np.array(arguments, dtype=np.float32)
        out = np.empty(stacked.shape[1], dtype=np.float32)
        every(stacked, out)
        return out

    return run


def test_trigonometry_of_wrapped_angles():
    x = np.linspace(-40, 40, 100_001, dtype=np.float32)
    wrapped = over(wrap)(x)
    assert np.abs(wrapped).max() <= np.pi + 1e-5
    np.testing.assert_allclose(over(sin_wrapped)(wrapped), np.sin(wrapped), atol=1.5e-6)
    np.testing.assert_allclose(over(cos_wrapped)(wrapped), np.cos(wrapped), atol=1.5e-6)


def test_argument_in_all_quadrants_and_on_the_axes():
    angle = np.linspace(-np.pi, np.pi, 100_001)[1:-1]
    found = over(argument)
    for size in (1e-20, 1.0, 1e15):
        np.testing.assert_allclose(found(size * np.cos(angle), size * np.sin(angle)), angle, atol=5e-7)
    np.testing.assert_allclose(
        found([0, 1, -1, 0, 0], [0, 0, 0, 1, -1]), [0, 0, np.pi, np.pi / 2, -np.pi / 2], atol=3e-7
    )


def test_exponential_and_its_bounds():
    x = np.linspace(-20, 20, 100_001, dtype=np.float32)
    found = over(exp_bounded)
    np.testing.assert_allclose(found(x), np.exp(x.astype(float)), rtol=2e-6)
    assert found([-1e6])[0] == found([-80])[0] > 0
    assert found([1e6])[0] == found([80])[0] < np.inf


def test_logarithm():
    x = np.exp(np.linspace(-60, 60, 100_001)).astype(np.float32)
    np.testing.assert_allclose(over(log_positive)(x), np.log(x.astype(float)), rtol=3e-7, atol=3e-7)


@settings(deadline=None, max_examples=30)
@given(st.tuples(*[st.integers(1, 12)] * 3), st.integers(0, 999), st.floats(0.5, 8.0))
def test_distance_is_the_euclidean_one_below_its_cap(shape, seed, cap_mm):
    target = np.random.default_rng(seed).random(shape) < 0.05
    target.flat[seed % target.size] = True
    voxel_mm = (1.0, 0.7, 1.9)
    expected = np.minimum(ndimage.distance_transform_edt(~target, sampling=voxel_mm), cap_mm)
    np.testing.assert_allclose(distance_mm(target, voxel_mm, cap_mm), expected, rtol=1e-5)


@settings(deadline=None, max_examples=30)
@given(st.tuples(*[st.integers(1, 7)] * 3), st.integers(0, 999))
def test_interior_voxels_have_six_neighbours_in_the_mask(shape, seed):
    mask = np.random.default_rng(seed).random(shape) < 0.9
    np.testing.assert_array_equal(inner(mask), ndimage.binary_erosion(mask))


@pytest.mark.parametrize(("shape", "samples"), [((31, 40, 3), 16), ((24, 17, 2), 64), ((20, 22, 1), 2)])
def test_lowpass_equals_the_window_on_the_whole_of_k_space(shape, samples):
    rng = np.random.default_rng(4)
    image = (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)
    window = np.ones(shape)
    for axis, n in enumerate(shape[:2]):
        k = scipy.fft.fftfreq(n, 1 / n)
        hann = np.where(2 * np.abs(k) < samples, 0.5 + 0.5 * np.cos(2 * np.pi * k / samples), 0)
        window = window * hann.reshape([-1 if a == axis else 1 for a in range(3)])
    expected = scipy.fft.ifft2(scipy.fft.fft2(image, axes=(0, 1)) * window, axes=(0, 1))
    np.testing.assert_allclose(lowpass(image, samples), expected, atol=1e-5)
