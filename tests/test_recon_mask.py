"""Morphology in millimetres, peeling, and the automatic mask's own judgement."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from recon.grid import MARGIN, WorkGrid
from recon.mask import AutoMask, automatic_mask
from recon.morphology import closed, dilate, distance_mm, erode, inner, opened
from recon.types import Acquisition, BadRecipe, Geometry, NoMask
from recon.weights import peeled

shapes = st.tuples(*[st.integers(1, 11)] * 3)
voxels = st.tuples(*[st.floats(0.5, 3)] * 3)
seeds = st.integers(0, 2**32 - 1)


def random_mask(shape, seed, share=0.3):
    return np.random.default_rng(seed).random(shape) < share


@settings(deadline=None)
@given(shapes, voxels, seeds, st.floats(0.5, 8))
def test_distance_is_exact_up_to_the_cap(shape, voxel_mm, seed, cap_mm):
    target = random_mask(shape, seed, 0.1)
    target.flat[0] = True
    expected = np.minimum(ndimage.distance_transform_edt(~target, sampling=voxel_mm), cap_mm)
    np.testing.assert_allclose(distance_mm(target, voxel_mm, cap_mm), expected, rtol=1e-5)


@settings(deadline=None)
@given(shapes, voxels, seeds, st.floats(0.5, 5))
def test_erosion_is_the_dilation_of_the_outside(shape, voxel_mm, seed, radius_mm):
    mask = random_mask(shape, seed, 0.6)
    np.testing.assert_array_equal(erode(mask, voxel_mm, radius_mm), ~dilate(~mask, voxel_mm, radius_mm))


@settings(deadline=None)
@given(shapes, voxels, seeds, st.floats(0.5, 5))
def test_opening_shrinks_and_closing_grows(shape, voxel_mm, seed, radius_mm):
    mask = random_mask(shape, seed, 0.5)
    assert not (opened(mask, voxel_mm, radius_mm) & ~mask).any()
    assert not (mask & ~closed(mask, voxel_mm, radius_mm)).any()


@given(shapes, seeds)
def test_inner_voxels_have_six_neighbours_in_the_mask(shape, seed):
    mask = random_mask(shape, seed, 0.8)
    np.testing.assert_array_equal(inner(mask), ndimage.binary_erosion(mask))


def test_only_what_has_no_signal_and_touches_the_edge_is_peeled():
    mask = np.zeros((30, 30, 30), dtype=bool)
    mask[3:-3, 3:-3, 3:-3] = True
    signal = np.where(mask, np.float32(100), np.float32(0))
    signal[3:6] = 5
    signal[15, 15, 15] = 0
    kept = peeled(mask, signal)
    assert not kept[3:6].any()
    assert kept[15, 15, 15]
    np.testing.assert_array_equal(kept[6:], mask[6:])


def test_work_grid_brings_every_voxel_back_to_its_place():
    mask = random_mask((40, 33, 21), 1, 0.02)
    grid = WorkGrid.around(mask)
    work = grid.embed(mask)
    assert not work[:MARGIN].any()
    assert not work[-MARGIN:].any()
    values = np.random.default_rng(2).random(np.count_nonzero(mask)).astype(np.float32)
    volume = np.zeros(grid.shape, dtype=np.float32)
    volume[work] = values
    np.testing.assert_array_equal(grid.restore(volume)[mask], values)


def ball_head(radius_mm, voxel_mm=(3.0, 3.0, 3.0), shape=(80, 80, 80)):
    """A bright brain in a dark skull in a bright scalp, air around; coherent inside, random elsewhere."""
    geometry = Geometry.of(shape, voxel_mm)
    axes = [(np.arange(n) - (n - 1) / 2) * h for n, h in zip(shape, voxel_mm, strict=True)]
    r = np.sqrt(sum(a**2 for a in np.meshgrid(*axes, indexing="ij")))
    brain, scalp = r < radius_mm, (r > radius_mm + 8) & (r < radius_mm + 14)
    rng = np.random.default_rng(3)
    te_s = (6e-3, 12e-3)
    signal = np.where(brain | scalp, 100.0, 0.0) * np.exp(2j * np.pi * 5 * np.array(te_s))[:, None, None, None]
    signal = signal + rng.normal(0, 2, signal.shape) + 1j * rng.normal(0, 2, signal.shape)
    phase = np.angle(signal)
    phase[:, scalp] = rng.uniform(-np.pi, np.pi, (2, np.count_nonzero(scalp)))
    return Acquisition(np.abs(signal).astype(np.float32), phase.astype(np.float32), te_s, 127.7, geometry), brain


def test_the_brain_is_cut_from_the_scalp_and_its_dark_holes_belong_to_it():
    acquisition, brain = ball_head(60)
    magnitude = acquisition.magnitude.copy()
    magnitude[:, 38:42, 38:42, 38:42] = 1
    found = automatic_mask(dataclasses.replace(acquisition, magnitude=magnitude), AutoMask())
    assert found.mask[38:42, 38:42, 38:42].all()
    assert np.count_nonzero(found.mask ^ brain) < 0.06 * np.count_nonzero(brain)
    assert found.warnings == ()


def test_a_volume_that_is_no_brain_is_refused_or_told():
    with pytest.raises(NoMask, match="mL"):
        automatic_mask(ball_head(30)[0], AutoMask())
    large, _ = ball_head(88)
    assert any("mL" in warning for warning in automatic_mask(large, AutoMask()).warnings)


def test_impossible_parameters_are_refused():
    with pytest.raises(BadRecipe, match="AutoMask"):
        AutoMask(edge_level=0.9)
