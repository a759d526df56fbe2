"""Phase unwrapping: laws of both methods on random shapes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recon.types import BadInput
from recon.unwrap import Laplacian, RegionGrowing, unwrap

METHODS = [RegionGrowing(), Laplacian()]
shapes = st.tuples(st.sampled_from([7, 13, 20]), st.sampled_from([8, 11, 23]), st.sampled_from([1, 2, 9]))
TURN = 2 * np.pi


def wrapped(phase):
    return (phase - TURN * np.round(phase / TURN)).astype(np.float32)


def unwrapped(phase, mask, method, magnitude=None):
    magnitude = np.ones(phase.shape, np.float32) if magnitude is None else magnitude
    return unwrap(phase, phase, magnitude, mask, method)


@pytest.mark.parametrize("method", METHODS, ids=str)
@given(shape=shapes, seed=st.integers(0, 999))
@settings(max_examples=25, deadline=None)
def test_only_whole_turns_are_added(method, shape, seed):
    rng = np.random.default_rng(seed)
    phase = rng.uniform(-np.pi, np.pi, shape).astype(np.float32)
    mask = rng.random(shape) < 0.7
    mask[0, 0, 0] = True
    result = unwrapped(phase, mask, method)
    turns = (result - phase)[mask] / TURN
    np.testing.assert_allclose(turns, np.round(turns), atol=1e-4)
    assert not result[~mask].any()


@pytest.mark.parametrize("method", METHODS, ids=str)
@given(shape=shapes, seed=st.integers(0, 999))
@settings(max_examples=25, deadline=None)
def test_turns_added_before_change_nothing(method, shape, seed):
    rng = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    phase = wrapped(6 * x + 3 * y * x + z)
    more = (phase + TURN * rng.integers(-2, 3, shape)).astype(np.float32)
    mask = np.ones(shape, bool)
    np.testing.assert_allclose(unwrapped(more, mask, method), unwrapped(phase, mask, method), atol=1e-3)


@pytest.mark.parametrize("method", METHODS, ids=str)
@given(shape=shapes, slope=st.tuples(*[st.floats(-6, 6)] * 3))
@settings(max_examples=25, deadline=None)
def test_a_smooth_phase_of_several_turns_comes_back(method, shape, slope):
    axes = np.meshgrid(*[np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in shape], indexing="ij")
    # Below 2 rad a voxel, so that neighbours settle every turn.
    true = sum(s * min(1, (n - 1) / 8) * a for s, n, a in zip(slope, shape, axes, strict=True))
    difference = unwrapped(wrapped(true), np.ones(shape, bool), method) - true
    assert np.ptp(difference) < 1e-3
    assert abs(difference.mean()) < np.pi + 1e-3


@pytest.mark.parametrize(("method", "slope_rad"), [(RegionGrowing(), 2.2), (Laplacian(), 1.8)], ids=str)
@given(way=st.tuples(*[st.floats(-1, 1)] * 3), seed=st.integers(0, 999))
@settings(max_examples=10, deadline=None)
def test_steep_noisy_ramps_come_back(method, slope_rad, way, seed):
    """Up to 2.2 rad a voxel along an axis, noise of 0.15 rad: no two neighbours differ by half a turn."""
    rng = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*[np.arange(n, dtype=float) for n in (21, 19, 12)], indexing="ij")
    true = slope_rad * (way[0] * x + way[1] * y + way[2] * z) + rng.normal(0, 0.15, x.shape).clip(-0.4, 0.4)
    mask = (x - 10) ** 2 + (y - 9) ** 2 < 90
    difference = (unwrapped(wrapped(true), mask, method) - true)[mask]
    assert np.ptp(difference) < 1e-3


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_what_lies_outside_the_mask_is_not_looked_at(method):
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in (20, 18, 9)], indexing="ij")
    phase, mask = wrapped(9 * x + 4 * y * z), x**2 + y**2 < 0.8
    plain = unwrapped(phase, mask, method)
    spoiled = np.where(mask, phase, np.nan).astype(np.float32)
    np.testing.assert_allclose(unwrap(spoiled, spoiled, mask.astype(np.float32), mask, method), plain, atol=1e-5)


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_one_voxel_is_unwrapped_to_itself(method):
    phase, mask = np.full((3, 3, 3), 2.5, np.float32), np.zeros((3, 3, 3), bool)
    mask[1, 1, 1] = True
    np.testing.assert_allclose(unwrapped(phase, mask, method), np.where(mask, 2.5, 0), atol=1e-6)


def test_parts_that_do_not_touch_are_unwrapped_each():
    x = np.linspace(0, 12, 30)[:, None, None] * np.ones((30, 9, 3))
    mask = np.ones(x.shape, bool)
    mask[:, 4] = False
    result = unwrapped(wrapped(x), mask, RegionGrowing())
    for part in (slice(0, 4), slice(5, 9)):
        assert np.ptp((result - x)[:, part]) < 1e-4


def test_a_residue_at_low_magnitude_is_gone_round():
    """Noise in a dark hole must not carry a turn into the bright tissue around it."""
    rng = np.random.default_rng(3)
    x, y, _ = np.meshgrid(*[np.linspace(-1, 1, n) for n in (24, 24, 8)], indexing="ij")
    true = 7 * x + 2 * y
    hole = x**2 + y**2 < 0.05
    phase = wrapped(np.where(hole, rng.uniform(-np.pi, np.pi, x.shape), true))
    magnitude = np.where(hole, 0.05, 1).astype(np.float32)
    result = unwrapped(phase, np.ones(x.shape, bool), RegionGrowing(), magnitude)
    assert np.ptp((result - true)[~hole]) < 1e-3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"phase": np.full((4, 4, 4), np.inf, np.float32)}, "phase contains NaN or infinity"),
        ({"mask": np.zeros((4, 4, 4), bool)}, "mask is empty"),
        ({"magnitude": np.ones((4, 4, 5), np.float32)}, "magnitude has shape"),
        ({"second": np.ones((4, 4, 5), np.float32)}, "second has shape"),
        ({"second": np.full((4, 4, 4), np.nan, np.float32)}, "second contains NaN or infinity"),
        ({"magnitude": np.full((4, 4, 4), np.nan, np.float32)}, "magnitude contains NaN or infinity"),
        ({"magnitude": -np.ones((4, 4, 4), np.float32)}, "magnitude is negative"),
        ({"mask": np.ones((4, 4, 4), np.uint8)}, "mask must be bool"),
    ],
)
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_arguments_that_cannot_be_used_are_named(method, change, words):
    ones = np.ones((4, 4, 4), np.float32)
    arguments = {"phase": ones, "second": ones, "magnitude": ones, "mask": ones > 0} | change
    with pytest.raises(BadInput, match=words):
        unwrap(**arguments, method=method)
