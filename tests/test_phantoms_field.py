"""The simulation's field step against closed forms, and its decimation against exact samples."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from phantoms.anatomy import head
from phantoms.physics import box_mean, centred_axes, decimate, dipole_field
from phantoms.shapes import Ellipsoid, rotation
from recon.types import FloatArray, Geometry, Vector

SHAPE = (60, 54, 48)


def sphere(voxel_mm: Vector, radius_mm: float, fine: int = 5) -> FloatArray:
    """Fraction of every voxel inside a centred sphere."""
    shape = tuple(n * fine for n in SHAPE)
    x, y, z = centred_axes(shape, tuple(h / fine for h in voxel_mm))  # type: ignore[arg-type]
    inside = (x[:, None, None] ** 2 + y[None, :, None] ** 2 + z[None, None, :] ** 2) <= radius_mm**2
    return box_mean(inside, fine)


@pytest.mark.parametrize("b0_dir", [(0.0, 0.0, 1.0), (1.0, 0.0, 0.0), (0.5, -0.4, 0.768)])
@pytest.mark.parametrize("voxel_mm", [(1.0, 1.0, 1.0), (0.8, 1.0, 1.5)])
def test_field_of_a_sphere(voxel_mm: Vector, b0_dir: Vector) -> None:
    """Inside 0, outside chi/3 (a/r)^3 (3 cos^2 - 1)."""
    radius, chi = 8.0, 2.0
    field = dipole_field(chi * sphere(voxel_mm, radius), voxel_mm, b0_dir)
    x, y, z = np.meshgrid(*centred_axes(SHAPE, voxel_mm), indexing="ij")
    r = np.sqrt(x * x + y * y + z * z)
    b = np.array(b0_dir) / np.linalg.norm(b0_dir)
    cosine = (x * b[0] + y * b[1] + z * b[2]) / r
    expected = chi / 3 * (radius / r) ** 3 * (3 * cosine**2 - 1)
    two_voxels = 2 * max(voxel_mm)
    outside = (r > radius + two_voxels) & (r < 18)
    inside = field[r < radius - two_voxels]
    assert abs(inside.mean()) < 0.002 * chi
    assert inside.std() < 0.02 * chi
    assert abs(field - expected)[outside].max() < 0.02 * chi
    assert np.corrcoef(field[outside], expected[outside])[0, 1] > 0.999


@pytest.mark.parametrize("angle_deg", [0.0, 30.0, 54.7356, 90.0])
def test_field_of_a_cylinder(angle_deg: float) -> None:
    """An endless cylinder at an angle to B0: chi/6 (3 cos^2 - 1) inside, the two-lobed pattern outside."""
    radius, chi, fine = 5.0, 1.0, 5
    voxel_mm = (0.8, 0.8, 1.2)
    x, y, _ = centred_axes((96 * fine, 96 * fine, 8), (0.8 / fine, 0.8 / fine, 1.2))
    disc = ((x[:, None] ** 2 + y[None, :] ** 2) <= radius**2).reshape(96, fine, 96, fine).mean(axis=(1, 3))
    cylinder = np.repeat(disc[:, :, None], 16, axis=2).astype(np.float32)
    angle = np.deg2rad(angle_deg)
    field = dipole_field(chi * cylinder, voxel_mm, (float(np.sin(angle)), 0.0, float(np.cos(angle))), padding=2)
    x, y, _ = centred_axes((96, 96, 16), voxel_mm)
    r = np.hypot(x[:, None], y[None, :])
    lobes = (x[:, None] ** 2 - y[None, :] ** 2) / r**2
    section = field[:, :, 8]
    # The constant part of the field is 0, that of an endless cylinder is not: compare against a far point.
    far = (r > 25) & (r < 35)
    section = section - section[far].mean()
    inside = chi / 6 * (3 * np.cos(angle) ** 2 - 1)
    outside = chi / 2 * np.sin(angle) ** 2 * (radius / r) ** 2 * lobes
    ring = (r > radius + 2) & (r < 16)
    assert section[r < radius - 2].mean() == pytest.approx(inside, abs=0.01)
    assert abs(section - outside)[ring].max() < 0.02


@cache
def coarse_chi() -> FloatArray:
    """A head in voxels of 6.0 x 5.5 x 7.0 mm."""
    return head(1).paint(centred_axes((36, 44, 26), (6.0, 5.5, 7.0))).chi_ppm


@pytest.mark.parametrize("b0_dir", [(0.0, 0.0, 1.0), (0.3, -0.5, 0.8)])
@pytest.mark.parametrize("order", [(1, 2, 0), (0, 2, 1)])
def test_head_and_b0_turned_together_by_a_right_angle(b0_dir: Vector, order: tuple[int, int, int]) -> None:
    """Axes in another order: the same field but for rounding."""
    voxel_mm = (6.0, 5.5, 7.0)
    chi = coarse_chi()
    field = dipole_field(chi, voxel_mm, b0_dir)
    turned = dipole_field(
        np.ascontiguousarray(chi.transpose(order)),
        tuple(voxel_mm[i] for i in order),  # type: ignore[arg-type]
        tuple(b0_dir[i] for i in order),  # type: ignore[arg-type]
    )
    np.testing.assert_allclose(turned, field.transpose(order), atol=2e-5)


@settings(deadline=None, max_examples=4, derandomize=True)
@given(angles_deg=st.tuples(*[st.floats(-90, 90)] * 3), upright_deg=st.tuples(*[st.floats(-90, 90)] * 3))
def test_body_and_b0_turned_together_by_any_angle(angles_deg: Vector, upright_deg: Vector) -> None:
    """The field of an ellipsoid turns with it; the grid does not, so it comes out to about a hundredth of chi.

    ``Geometry.of`` places a grid so tilted: B0 stays the patient's z.
    """
    turn, fine = rotation(angles_deg), 2
    shape, voxel_mm, radii = (50, 50, 50), (1.0, 1.0, 1.0), (11.0, 8.0, 7.0)
    b0 = rotation(upright_deg) @ (0, 0, 1)

    def field(about: Vector, b0_dir: Vector) -> FloatArray:
        axes = centred_axes((100, 100, 100), (1 / fine, 1 / fine, 1 / fine))
        body = box_mean(Ellipsoid((0, 0, 0), radii, about).distance_mm(axes) < 0, fine)
        tilted = Geometry.of(shape, voxel_mm, b0_dir)
        assert tilted.b0_dir == pytest.approx(b0_dir, abs=1e-9)
        return dipole_field(body, voxel_mm, tilted.b0_dir)

    def unit(v: npt.NDArray[np.float64]) -> Vector:
        return float(v[0]), float(v[1]), float(v[2])

    upright, turned = field((0, 0, 0), unit(b0)), field(angles_deg, unit(turn @ b0))
    points = np.stack(np.meshgrid(*[np.arange(-16.0, 17, 2)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    level = np.linalg.norm(points / np.array(radii), axis=1)
    # Away from the surface, where partial volume differs, and within both grids.
    points = points[((level < 0.5) | (level > 1.5)) & (np.linalg.norm(points, axis=1) < 18)]
    here, there = (
        ndimage.map_coordinates(volume, (places + 24.5).T, order=3)
        for volume, places in ((upright, points), (turned, points @ turn.T))
    )
    np.testing.assert_allclose(here, there, atol=0.02)
    assert np.ptp(here) > 0.2


def test_what_lies_beyond_the_faces_goes_on() -> None:
    """A slab of tissue through the whole volume has no field of its own edges."""
    chi = np.full(SHAPE, 9.4, dtype=np.float32)
    chi[20:40] = 0
    field = dipole_field(chi, (1, 1, 1), (0, 0, 1))
    assert np.ptp(field[30]) < 0.01


@settings(deadline=None, max_examples=30)
@given(
    coarse=st.integers(8, 13),
    factor=st.integers(1, 4),
    axis=st.integers(0, 2),
    k=st.integers(-3, 3),
    phase=st.floats(0, 6.28),
)
def test_decimation_samples_waves_at_the_centres_of_acquired_voxels(
    coarse: int, factor: int, axis: int, k: int, phase: float
) -> None:
    """A wave that the coarse grid can hold comes out exact, at (index - (n - 1)/2) from the common centre."""

    def wave(points: int) -> np.ndarray[tuple[int, ...], np.dtype[np.complex128]]:
        position = (np.arange(points) - (points - 1) / 2) / points
        shape = [-1 if i == axis else 1 for i in range(3)]
        values = np.exp(1j * (2 * np.pi * k * position + phase)).reshape(shape)
        return values * np.ones([1 if i == axis else 2 for i in range(3)])

    result = decimate(wave(coarse * factor).astype(np.complex64), axis, factor)
    np.testing.assert_allclose(result, wave(coarse), atol=1e-5)


@settings(deadline=None, max_examples=10, derandomize=True)
@given(shape=st.tuples(*[st.integers(8, 13)] * 3), factor=st.integers(1, 3), seed=st.integers(0, 99))
def test_partial_volume_keeps_the_mean_signal(shape: tuple[int, int, int], factor: int, seed: int) -> None:
    """The middle of k-space is kept: the acquired image has the mean of the fine one, whatever lies in a voxel."""
    rng = np.random.default_rng(seed)
    fine = [n * factor for n in shape]
    volume = (rng.standard_normal(fine) + 1j * rng.standard_normal(fine)).astype(np.complex64)
    acquired = decimate(decimate(decimate(volume, 2, factor), 0, factor), 1, factor)
    assert acquired.shape == shape
    assert acquired.mean() == pytest.approx(volume.mean(), abs=1e-6)


def test_decimation_removes_what_the_acquired_grid_cannot_hold() -> None:
    x = np.arange(32)
    wave = np.exp(2j * np.pi * 11 * x / 32).astype(np.complex64).reshape(-1, 1, 1)
    assert abs(decimate(wave, 0, 2)).max() < 1e-6


def test_decimation_and_box_mean_share_their_voxel_centres() -> None:
    """Centre of mass of a smooth blob off the middle: the same in signal and truth, to a hundredth of a voxel."""
    fine, coarse = (80, 64, 48), (40, 32, 24)
    x, y, z = centred_axes(fine, (0.5, 0.5, 0.5))
    blob = np.exp(
        -((x[:, None, None] - 2.3) ** 2 + (y[None, :, None] + 1.7) ** 2 + (z[None, None, :] - 0.6) ** 2) / 8
    ).astype(np.float32)
    image = np.abs(decimate(decimate(decimate(blob, 0, 2), 1, 2), 2, 2))
    truth = box_mean(blob, 2)
    for volume in (image, truth):
        for axis, expected in enumerate((2.3, -1.7, 0.6)):
            profile = volume.sum(axis=tuple(i for i in range(3) if i != axis), dtype=np.float64)
            place = centred_axes(coarse, (1.0, 1.0, 1.0))[axis]
            assert (profile @ place) / profile.sum() == pytest.approx(expected, abs=0.01)
