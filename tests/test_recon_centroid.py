"""The field of a voxel's middle from that of its signal's middle."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phantoms.anatomy import head
from phantoms.lesions import Lesion
from phantoms.protocol import REFERENCE_PROTOCOL
from phantoms.simulate import simulate
from phantoms.study.extent import susceptibility_extent
from phantoms.study.reading import site
from recon.centroid import UNSURE, WIDTH, at_middle
from recon.pipeline import reconstruct
from recon.types import FieldMap, FloatArray

SHAPE = (10, 11, 12)
TE_S = np.array([0.006, 0.012, 0.018], dtype=np.float32)
SPACING_S = 0.006
EVERYWHERE = np.ones(SHAPE, dtype=np.bool_)


def field_map(field_hz: FloatArray, amplitude: FloatArray, r2s_hz: float = 0.0) -> FieldMap:
    flat = np.zeros(SHAPE, dtype=np.float32)
    return FieldMap(
        field_hz.astype(np.float32), flat + 1, flat + np.float32(r2s_hz), amplitude.astype(np.float32), flat, 1.0
    )


def ramp(axis: int, slope: float, start: float = 0.0) -> FloatArray:
    shape = [1, 1, 1]
    shape[axis] = SHAPE[axis]
    line = start + slope * np.arange(SHAPE[axis], dtype=np.float32)
    return np.broadcast_to(line.reshape(shape), SHAPE).astype(np.float32)


@settings(deadline=None, max_examples=25, derandomize=True)
@given(seed=st.integers(0, 2**31), level=st.floats(0.1, 100))
def test_where_signal_or_field_is_even_nothing_moves(seed: int, level: float) -> None:
    noise = np.random.default_rng(seed).uniform(1, 5, SHAPE).astype(np.float32)
    even = np.full(SHAPE, level, dtype=np.float32)
    for field, signal in ((noise, even), (even, noise)):
        moved = at_middle(field_map(field, signal), EVERYWHERE, TE_S, SPACING_S)
        np.testing.assert_allclose(moved.field_hz, field, rtol=1e-6)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slopes_move_it_by_the_signals_centroid(axis: int) -> None:
    r"""delta = width / 12 ds / s in voxels; f - delta df."""
    field, signal = ramp(axis, 3.0), ramp(axis, 0.2, 2.0)
    moved = at_middle(field_map(field, signal), EVERYWHERE, TE_S, SPACING_S).field_hz
    inside = [slice(None)] * 3
    inside[axis] = slice(1, -1)
    expected = field - WIDTH / 12 * 0.2 / signal * 3.0
    np.testing.assert_allclose(moved[tuple(inside)], expected[tuple(inside)], rtol=1e-5)
    np.testing.assert_array_equal(np.take(moved, [0, -1], axis), np.take(field, [0, -1], axis))


def test_what_was_corrected_is_less_sure() -> None:
    field = field_map(ramp(0, 30.0), ramp(0, 0.2, 2.0))
    moved = at_middle(field, EVERYWHERE, TE_S, SPACING_S)
    corrected_hz = moved.field_hz - field.field_hz
    assert np.abs(corrected_hz).max() > 0.2
    np.testing.assert_allclose(moved.sd_hz**2, field.sd_hz**2 + (UNSURE * corrected_hz) ** 2, rtol=1e-5)


def test_decay_counts_as_lack_of_signal() -> None:
    r2s_hz = ramp(1, 5.0)
    even = np.ones(SHAPE, dtype=np.float32)
    field = ramp(1, 3.0)
    decayed = np.exp(-TE_S.mean() * r2s_hz)
    given_as_decay = replace(field_map(field, even), r2s_hz=r2s_hz)
    given_as_signal = field_map(field, decayed)
    np.testing.assert_allclose(
        at_middle(given_as_decay, EVERYWHERE, TE_S, SPACING_S).field_hz,
        at_middle(given_as_signal, EVERYWHERE, TE_S, SPACING_S).field_hz,
        rtol=1e-6,
    )


def test_a_jump_of_the_field_moves_it_by_no_more_than_what_can_be_believed() -> None:
    """A wrong turn between neighbours is no slope: 1/4 turn between echoes is the most that counts."""
    field, signal = ramp(0, 0.0), ramp(0, 1.0, 1.0)
    field[5:] += 1000
    moved = at_middle(field_map(field, signal), EVERYWHERE, TE_S, SPACING_S).field_hz
    assert np.abs(moved - field).max() <= WIDTH / 12 * 0.25 / SPACING_S * 1.001


def test_the_mask_ends_slopes() -> None:
    field, signal = ramp(0, 3.0), ramp(0, 0.2, 2.0)
    mask = EVERYWHERE.copy()
    mask[4] = False
    signal[4], field[4] = 1e6, 1e6
    moved = at_middle(field_map(field, signal), mask, TE_S, SPACING_S).field_hz
    np.testing.assert_array_equal(moved[3:6], field[3:6])


def test_a_dark_calcification_has_its_size_and_strength() -> None:
    """Without the correction it comes out too small and too strong."""
    stone = Lesion("calcification", -0.6, (30.0, -10.0, 20.0), (9.0, 9.0, 9.0), irregularity=0.0, r2s_hz=60, pd=0.35)
    protocol = replace(REFERENCE_PROTOCOL, shape=(128, 144, 60), voxel_mm=(1.5, 1.5, 2.2))
    phantom = simulate(head(3, (stone,)), protocol, 3)
    place = site(phantom.lesions[0].mask, phantom.brain, np.zeros_like(phantom.brain))
    true = susceptibility_extent(1000 * phantom.chi_ppm, place, protocol.voxel_mm)

    def size_and_strength(width: float) -> tuple[float, float]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("recon.centroid.WIDTH", width)
            chi_ppm = reconstruct(phantom.acquisition, mask=phantom.brain).chi.chi_ppm
        found = susceptibility_extent(1000 * chi_ppm, place, protocol.voxel_mm)
        return found.volume_cm3 / true.volume_cm3, found.total / true.total / (found.volume_cm3 / true.volume_cm3)

    (small, strong), (size, strength) = size_and_strength(0.0), size_and_strength(WIDTH)
    assert small < size < 1 < strength < strong
    assert 1 - size < 0.8 * (1 - small)
    assert strength - 1 < 0.8 * (strong - 1)
