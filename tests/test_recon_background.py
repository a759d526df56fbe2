"""Background removal: laws that every method keeps, on random grids."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from inverse_problems import directions, name, unit
from recon.background import Lbv, Pdf, Resharp, Sharp, VSharp, remove_background
from recon.background.sharp import ball_kernel
from recon.fourier import dipole_kernel, irfft, rfft
from recon.morphology import erode
from recon.solve import solved
from recon.types import BadInput, BadRecipe

SHAPE = (44, 45, 40)
METHODS = [Pdf(), Lbv(tolerance_ppm=1e-4), Sharp(), Resharp(), VSharp()]
# Left of a harmonic field, rms over the mask eroded by 2 mm, relative to the field's own sd over the mask.
BANDS = {"Pdf": 0.05, "Lbv": 0.01, "Sharp": 0.01, "Resharp": 0.01, "VSharp": 0.01}


def grid(voxel_mm, shape=SHAPE):
    axes = [(np.arange(n) - (n - 1) / 2) * h for n, h in zip(shape, voxel_mm, strict=True)]
    return np.meshgrid(*axes, indexing="ij")


def ball(voxel_mm, radius_mm=17.0):
    return sum(a**2 for a in grid(voxel_mm)) < radius_mm**2


def removed(field, mask, voxel_mm, method, b0_dir=(0.0, 0.0, 1.0)):
    weight = mask.astype(np.float32)
    return solved(remove_background(field.astype(np.float32), weight, mask, voxel_mm, b0_dir, method))


voxels = st.tuples(*[st.floats(0.9, 1.5)] * 3)


@pytest.mark.parametrize("method", METHODS, ids=name)
@given(voxel_mm=voxels, seed=st.integers(0, 99))
@settings(max_examples=8, deadline=None, derandomize=True)
def test_solid_harmonics_vanish(method, voxel_mm, seed):
    x, y, z = (a / 20 for a in grid(voxel_mm))
    terms = [x, y, z, x * y, x * z, y * z, x**2 - y**2, 2 * z**2 - x**2 - y**2]
    field = sum(c * t for c, t in zip(np.random.default_rng(seed).normal(0, 1, 8), terms, strict=True))
    mask = ball(voxel_mm)
    field -= field[mask].mean()
    local = removed(field, mask, voxel_mm, method)
    core = local.mask & erode(mask, voxel_mm, 2.0)
    assert core.any()
    assert local.field_ppm[core].std() <= BANDS[name(method)] * field[mask].std()


@pytest.mark.parametrize("method", METHODS, ids=name)
@given(voxel_mm=voxels, b0=directions)
@settings(max_examples=8, deadline=None, derandomize=True)
def test_fields_of_outside_sources_vanish(method, voxel_mm, b0):
    """Dipoles near the mask: what is left must be small against the field at the mask's edge."""
    b0_dir = unit(b0)
    fine = tuple(2 * n for n in SHAPE)
    chi = np.zeros(fine, dtype=np.float32)
    corner = [n // 2 for n in SHAPE]
    for place, value in (((0, 22, 12), 94.0), ((-24, -6, -6), -50.0)):
        index = [c + n // 2 + round(p / h) for c, n, p, h in zip(corner, SHAPE, place, voxel_mm, strict=True)]
        chi[tuple(slice(i - 1, i + 2) for i in index)] = value
    chi = gaussian_filter(chi, 1.5)  # sharp edges ring in the discrete kernel, and ringing is not harmonic
    field = irfft(dipole_kernel(fine, voxel_mm, b0_dir) * rfft(chi), fine)
    field = field[tuple(slice(c, c + n) for c, n in zip(corner, SHAPE, strict=True))]
    mask = ball(voxel_mm, 15.0)
    field = field - field[mask].mean()
    local = removed(field, mask, voxel_mm, method, b0_dir)
    core = local.mask & erode(mask, voxel_mm, 2.0)
    assert local.field_ppm[core].std() <= BANDS[name(method)] * field[mask].std()


@pytest.mark.parametrize("method", METHODS, ids=name)
def test_the_field_of_an_inside_source_stays(method):
    voxel_mm = (1.0, 1.1, 1.3)
    x, y, z = grid(voxel_mm)
    r = np.sqrt(x**2 + y**2 + z**2)
    inside = np.where(r > 4, 0.8 / 3 * (4 / np.maximum(r, 4)) ** 3 * (3 * (z / np.maximum(r, 4)) ** 2 - 1), 0)
    local = removed(inside, ball(voxel_mm), voxel_mm, method)
    near = local.mask & (r < 8)
    error = local.field_ppm[near] - inside[near]
    band = {"Pdf": 0.1, "Lbv": 0.1}.get(name(method), 0.3)
    assert (error - error.mean()).std() < band * inside[near].std()


@pytest.mark.parametrize("method", METHODS, ids=name)
def test_linear_and_blind_outside_the_mask(method):
    rng = np.random.default_rng(1)
    mask = ball((1.0, 1.0, 1.0))
    field = rng.standard_normal(SHAPE)
    one = removed(field, mask, (1.0, 1.0, 1.0), method)
    two = removed(np.where(mask, -2 * field, np.nan), mask, (1.0, 1.0, 1.0), method)
    np.testing.assert_array_equal(one.mask, two.mask)
    tolerance = 0.05 if name(method) == "Lbv" else 1e-4  # LBV stops at an absolute change
    np.testing.assert_allclose(two.field_ppm, -2 * one.field_ppm, atol=tolerance)
    assert not one.field_ppm[~one.mask].any()
    assert (one.mask <= mask).all()


def test_methods_differ():
    field = np.random.default_rng(2).standard_normal(SHAPE)
    mask = ball((1.0, 1.0, 1.0))
    maps = [removed(field, mask, (1.0, 1.0, 1.0), method).field_ppm for method in METHODS]
    for i, one in enumerate(maps):
        assert all(np.abs(one - other).max() > 0.01 for other in maps[:i])


@pytest.mark.parametrize("method", METHODS, ids=name)
def test_a_mask_that_is_too_small_is_named(method):
    mask = np.zeros(SHAPE, dtype=bool)
    mask[20, 20, 20] = True
    with pytest.raises(BadInput, match="mask holds 1 voxels"):
        removed(np.zeros(SHAPE), mask, (1.0, 1.0, 1.0), method)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mask": np.zeros(SHAPE, bool)}, "mask holds 0 voxels"),
        ({"field_ppm": np.full(SHAPE, np.nan, np.float32)}, "field_ppm contains NaN"),
        ({"mask": np.ones((3, 3, 3), bool)}, r"mask has shape \(3, 3, 3\)"),
        ({"weight2": np.ones((3, 3, 3), np.float32)}, r"weight2 has shape \(3, 3, 3\)"),
        ({"field_ppm": np.full(SHAPE, np.inf, np.float32)}, "field_ppm contains NaN or infinity"),
        ({"weight2": np.full(SHAPE, np.nan, np.float32)}, "weight2 contains NaN"),
        ({"weight2": np.zeros(SHAPE, np.float32)}, "weight2 must not be negative, nor 0"),
        ({"weight2": -np.ones(SHAPE, np.float32)}, "weight2 must not be negative"),
        ({"mask": np.ones(SHAPE, np.uint8)}, "mask must be bool"),
        ({"voxel_mm": (1.0, 0.0, 1.0)}, "voxel_mm must be three positive lengths"),
        ({"voxel_mm": (1.0, float("nan"), 1.0)}, "voxel_mm must be three positive lengths"),
        ({"b0_dir": (0.0, 0.0, 2.0)}, "b0_dir must be a unit vector"),
        ({"b0_dir": (0.0, 0.0, float("nan"))}, "b0_dir must be a unit vector"),
    ],
)
@pytest.mark.parametrize("method", METHODS, ids=name)
def test_arguments_that_cannot_be_used_are_named(method, change, words):
    ones = np.ones(SHAPE, np.float32)
    place = {"voxel_mm": (1.0, 1.0, 1.0), "b0_dir": (0.0, 0.0, 1.0)}
    arguments = {"field_ppm": ones, "weight2": ones, "mask": ball((1.0, 1.0, 1.0))} | place | change
    with pytest.raises(BadInput, match=words):
        remove_background(**arguments, method=method)


def test_parameters_out_of_range_are_refused():
    for wrong in (
        lambda: Lbv(tolerance_ppm=0),
        lambda: Sharp(radius_mm=-1),
        lambda: Resharp(weight=0),
        lambda: VSharp(()),
        lambda: VSharp((2.0, 4.0)),
    ):
        with pytest.raises(BadRecipe):
            wrong()


@given(voxel_mm=voxels, radius_mm=st.floats(2, 8))
@settings(max_examples=20, deadline=None, derandomize=True)
def test_a_ball_keeps_the_mean_and_has_its_volume(voxel_mm, radius_mm):
    symbol = ball_kernel(SHAPE, voxel_mm, radius_mm)
    assert symbol[0, 0, 0] == pytest.approx(1, abs=1e-5)
    assert np.abs(symbol).max() <= 1 + 1e-5
    peak = irfft(symbol.astype(np.complex64), SHAPE)[0, 0, 0]
    assert np.prod(voxel_mm) / peak == pytest.approx(4 / 3 * np.pi * radius_mm**3, rel=0.05)
