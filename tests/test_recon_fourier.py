"""The Fourier grid and the dipole: closed forms, symmetry, adjoints."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from recon.fourier import dipole_kernel, edge_scales, good_size, gradient_power, irfft, rfft
from recon.types import BadInput, Geometry

shapes = st.tuples(*[st.integers(1, 12)] * 3)
voxels = st.tuples(*[st.floats(0.3, 4)] * 3)
directions = st.tuples(*[st.floats(-1, 1)] * 3).filter(lambda v: np.linalg.norm(v) > 0.1)


def unit(v: tuple[float, float, float]) -> tuple[float, float, float]:
    x, y, z = np.array(v) / np.linalg.norm(v)
    return float(x), float(y), float(z)


def dipole_field(chi, voxel_mm, b0_dir):
    return irfft(dipole_kernel(chi.shape, voxel_mm, b0_dir) * rfft(chi), chi.shape)


@given(st.integers(1, 700))
def test_good_size_is_even_smooth_and_not_a_multiple_of_64(n):
    size = good_size(n)
    assert n <= size <= 1.15 * n + 8
    assert size % 2 == 0
    assert size % 64
    for prime in (2, 3, 5, 7):
        while size % prime == 0:
            size //= prime
    assert size == 1


@given(shapes, voxels, directions, st.integers(0, 2**32 - 1))
def test_dipole_is_its_own_adjoint(shape, voxel_mm, direction, seed):
    rng = np.random.default_rng(seed)
    x, y = (rng.standard_normal(shape).astype(np.float32) for _ in range(2))
    dx, dy = (dipole_field(v, voxel_mm, unit(direction)) for v in (x, y))
    assert np.vdot(dx, y) == pytest.approx(np.vdot(x, dy), abs=1e-4 * float(np.linalg.norm(x) * np.linalg.norm(y)))


@given(shapes, voxels, directions)
def test_dipole_lies_between_its_bounds_and_has_no_mean(shape, voxel_mm, direction):
    kernel = dipole_kernel(shape, voxel_mm, unit(direction))
    assert kernel[0, 0, 0] == 0
    assert kernel.min() >= -2 / 3 - 1e-5
    assert kernel.max() <= 1 / 3 + 1e-5


@given(shapes, voxels, directions, st.permutations(range(3)), st.integers(0, 2**32 - 1))
def test_turning_head_and_field_by_90_degrees_turns_the_result(shape, voxel_mm, direction, order, seed):
    chi = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    b0 = unit(direction)
    turned = dipole_field(
        np.ascontiguousarray(chi.transpose(order)), [voxel_mm[a] for a in order], [b0[a] for a in order]
    )
    expected = dipole_field(chi, voxel_mm, b0).transpose(order)
    np.testing.assert_allclose(turned, expected, atol=2e-5 * max(1.0, np.abs(chi).max()))


@pytest.mark.parametrize("b0_dir", [(0, 0, 1), (0, 0.6, 0.8), (1, 0, 0)])
@pytest.mark.parametrize("voxel_mm", [(1.0, 1.0, 1.0), (0.8, 1.0, 1.6)])
def test_sphere_has_its_closed_form_field(b0_dir, voxel_mm):
    """chi/3 (a/r)^3 (3 cos^2 - 1) outside, 0 inside (Lorentz-corrected)."""
    shape = tuple(int(96 / h) for h in voxel_mm)
    radius = 9.0

    def distances(shift=(0.0, 0.0, 0.0)):
        centred = [(np.arange(n) - n // 2 + s) * h for n, s, h in zip(shape, shift, voxel_mm, strict=True)]
        axes = np.meshgrid(*centred, indexing="ij", sparse=True)
        return axes, np.sqrt(sum(a**2 for a in axes))

    thirds = np.array([-1, 0, 1]) / 3
    parts = [distances(shift)[1] < radius for shift in product(thirds, repeat=3)]
    chi = np.mean(parts, axis=0, dtype=np.float32)
    axes, r = distances()
    field = dipole_field(chi, voxel_mm, b0_dir)
    cos = sum(a * b for a, b in zip(axes, b0_dir, strict=True)) / np.maximum(r, 1e-6)
    expected = (radius / np.maximum(r, 1e-6)) ** 3 * (3 * cos**2 - 1) / 3
    near = (r > 1.5 * radius) & (r < 2.5 * radius)
    # A sharp edge rings on a finite grid: 4 % of the field at the surface, 2/3, is the most seen.
    assert np.abs(field - expected)[near].max() < 0.04 * 2 / 3
    assert np.sqrt(np.mean((field - expected)[near] ** 2)) < 0.003
    assert np.abs(field[r < 0.6 * radius]).max() < 0.03


def test_cylinder_across_the_field_has_its_closed_form_inside():
    """chi (1/3 - 1/2) for an infinite cylinder across B0, chi/3 along it."""
    x, y = np.meshgrid(np.arange(96) - 48, np.arange(96) - 48, indexing="ij")
    disc = (np.hypot(x, y) < 8).astype(np.float32)
    chi = np.repeat(disc[:, :, None], 8, axis=2)
    inside = np.hypot(x, y) < 5
    mean = float(chi.mean())
    assert dipole_field(chi, (1, 1, 1), (1, 0, 0))[inside].mean() == pytest.approx(-1 / 6, abs=0.01 + mean)
    assert dipole_field(chi, (1, 1, 1), (0, 0, 1))[inside].mean() == pytest.approx(1 / 3, abs=0.01 + mean)


@given(shapes, voxels, st.data())
def test_gradient_power_is_the_symbol_of_the_forward_differences(shape, voxel_mm, data):
    x = data.draw(arrays(np.float32, shape, elements=st.floats(-1, 1, width=32)))
    total = sum(
        np.sum((scale * (np.roll(x, -1, axis) - x)) ** 2, dtype=np.float64)
        for axis, scale in enumerate(edge_scales(voxel_mm))
    )
    quadratic = np.vdot(x, irfft(gradient_power(shape, voxel_mm) * rfft(x), shape))
    assert quadratic == pytest.approx(total, rel=1e-4, abs=1e-4)


@given(shapes, voxels, directions)
def test_geometry_keeps_voxel_size_and_field_direction(shape, voxel_mm, direction):
    geometry = Geometry.of(shape, voxel_mm, direction)
    np.testing.assert_allclose(geometry.voxel_mm, voxel_mm, rtol=1e-9)
    np.testing.assert_allclose(geometry.b0_dir, unit(direction), atol=1e-7)
    assert np.linalg.det(geometry.affine_mm[:3, :3]) > 0


@pytest.mark.parametrize("affine", [np.full((4, 4), np.nan), np.zeros((4, 4)), np.eye(4) + np.eye(4, k=1) * 0.2])
def test_impossible_geometry_is_refused(affine):
    with pytest.raises(BadInput, match="affine_mm"):
        Geometry((4, 4, 4), affine)
