"""Known answers of the numerics: closed forms, formulas written out in float64, and minima of the objectives."""

import dataclasses

import numpy as np
import pytest
import scipy.fft

from inverse_problems import CUBE, OBLIQUE, UP, bumpy, ellipsoid, lesion_problem, name, problem_of, unit
from recon.background import Lbv, Pdf, Resharp, Sharp, VSharp, remove_background
from recon.background.sharp import ball_kernel
from recon.fourier import dipole_kernel, edge_scales, gradient_power, irfft, rfft
from recon.inversion import ClosedFormL2, LinearTv, Medi, NonlinearTv, Tkd, invert
from recon.inversion.medi import morphology
from recon.solve import solved

# -------------------------------------------------------------------------------------------- closed forms of kernels


@pytest.mark.parametrize("radius_mm", [3.0, 5.0])
def test_the_ball_has_the_transform_of_a_ball(radius_mm):
    """3 (sin x - x cos x) / x^3, x = 2 pi |k| r, times the voxel's own sinc: voxels count by the part inside."""
    shape, voxel_mm = (40, 36, 32), (1.0, 1.1, 1.3)
    k = [scipy.fft.fftfreq(n, h) for n, h in zip(shape, voxel_mm, strict=True)]
    k[2] = np.abs(k[2][: shape[2] // 2 + 1])
    waves = np.meshgrid(*k, indexing="ij")
    x = 2 * np.pi * radius_mm * np.sqrt(sum(a**2 for a in waves))
    x[0, 0, 0] = 1e-3
    closed = 3 * (np.sin(x) - x * np.cos(x)) / x**3
    closed *= np.prod([np.sinc(a * h) for a, h in zip(waves, voxel_mm, strict=True)], axis=0)
    near = x < 4
    np.testing.assert_allclose(ball_kernel(shape, voxel_mm, radius_mm)[near], closed[near], atol=0.015)


@pytest.mark.parametrize("tilt_deg", [0.0, 30.0, 54.7356, 75.0, 90.0])
@pytest.mark.parametrize("turn_deg", [0.0, 40.0])
def test_an_infinite_cylinder_has_its_closed_form_at_every_angle(tilt_deg, turn_deg):
    """Inside chi (3 cos^2 t - 1) / 6, outside chi/2 (a/r)^2 sin^2 t cos 2 phi; one slice is an infinite cylinder."""
    tilt, turn = np.deg2rad([tilt_deg, turn_deg])
    b0_dir = unit((np.sin(tilt) * np.cos(turn), np.sin(tilt) * np.sin(turn), np.cos(tilt)))
    n, radius = 240, 12.0
    fine = (np.arange(5 * n) + 0.5) / 5 - n / 2
    disc = (fine[:, None] ** 2 + fine[None, :] ** 2 < radius**2).reshape(n, 5, n, 5).mean(axis=(1, 3))
    chi = disc[:, :, None].astype(np.float32)
    field = irfft(dipole_kernel(chi.shape, CUBE, b0_dir) * rfft(chi), chi.shape)[..., 0]
    x, y = np.meshgrid(*[np.arange(n) + 0.5 - n / 2] * 2, indexing="ij")
    r, phi = np.hypot(x, y), np.arctan2(y, x) - turn
    inside, near = r < 0.7 * radius, (r > 1.4 * radius) & (r < 2.5 * radius)
    # D(0) = 0 takes the mean of the field away, and the copies beyond the grid's faces add about as much.
    assert field[inside].mean() == pytest.approx((3 * np.cos(tilt) ** 2 - 1) / 6, abs=2 * disc.mean())
    expected = 0.5 * (radius / r) ** 2 * np.sin(tilt) ** 2 * np.cos(2 * phi)
    error = (field - expected)[near]
    assert np.abs(error - error.mean()).max() < 0.02
    assert abs(error.mean()) < 2 * disc.mean()


def test_gradient_power_has_the_zero_of_a_constant():
    assert gradient_power((8, 9, 10), (1.0, 1.2, 1.5))[0, 0, 0] == 0


# ------------------------------------------------------------------------------------------- references in float64


def symbol64(shape, voxel_mm, b0_dir):
    """The dipole kernel of the whole k-space in float64, for odd shapes, where no Nyquist plane is special."""
    assert all(n % 2 for n in shape)
    k = np.meshgrid(*[scipy.fft.fftfreq(n, h) for n, h in zip(shape, voxel_mm, strict=True)], indexing="ij")
    square = sum(a**2 for a in k)
    square[0, 0, 0] = 1
    dipole = 1 / 3 - sum(a * b for a, b in zip(k, b0_dir, strict=True)) ** 2 / square
    dipole[0, 0, 0] = 0
    return dipole


def convolved(symbol, volume):
    return scipy.fft.ifftn(symbol * scipy.fft.fftn(volume)).real


ODD, VOXEL_MM = (27, 25, 21), (1.0, 1.2, 1.5)


def test_tkd_is_its_formula_in_float64():
    field, brain = bumpy(ODD), ellipsoid(ODD)
    dipole = symbol64(ODD, VOXEL_MM, OBLIQUE)
    cut = np.copysign(np.maximum(np.abs(dipole), 0.15), dipole)
    expected = convolved(1 / (np.mean(dipole / cut) * cut), np.where(brain, field, 0))
    got = solved(invert(problem_of(field, brain, VOXEL_MM, OBLIQUE), Tkd(0.15)))
    np.testing.assert_allclose(got - got.mean(), expected - expected.mean(), atol=1e-5 * np.abs(expected).max())


def test_closed_form_l2_is_its_formula_in_float64():
    field, brain = bumpy(ODD), ellipsoid(ODD)
    dipole = symbol64(ODD, VOXEL_MM, OBLIQUE)
    scales = [min(VOXEL_MM) / h for h in VOXEL_MM]
    power = sum(
        ((2 - 2 * np.cos(2 * np.pi * np.arange(n) / n)) * s**2).reshape([-1 if a == i else 1 for a in range(3)])
        for i, (n, s) in enumerate(zip(ODD, scales, strict=True))
    )
    power[0, 0, 0] = 1
    expected = convolved(dipole / (dipole**2 + 3e-3 * power), np.where(brain, field, 0))
    got = solved(invert(problem_of(field, brain, VOXEL_MM, OBLIQUE), ClosedFormL2(3e-3)))
    np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max())


def test_pdf_is_conjugate_gradients_in_float64():
    """Ten iterations on the weighted normal equations, P D W^2 D P chi = P D W^2 f."""
    rng = np.random.default_rng(5)
    field, mask = bumpy(ODD), ellipsoid(ODD)
    weight2 = np.where(mask, rng.uniform(0.1, 2, ODD), 0).astype(np.float32)
    dipole = symbol64(ODD, VOXEL_MM, OBLIQUE)

    def adjoint(residual):
        return ~mask * convolved(dipole, weight2 * residual)

    chi, residual = np.zeros(ODD), adjoint(np.where(mask, field, 0).astype(float))
    direction, square = residual.copy(), np.vdot(residual, residual)
    for _ in range(10):
        image = adjoint(convolved(dipole, direction))
        step = square / np.vdot(direction, image)
        chi += step * direction
        residual -= step * image
        before, square = square, np.vdot(residual, residual)
        direction = residual + square / before * direction
    expected = np.where(mask, field - convolved(dipole, chi), 0)
    got = solved(remove_background(field, weight2, mask, VOXEL_MM, OBLIQUE, Pdf(1e-9, 10))).field_ppm
    np.testing.assert_allclose(got, expected, atol=1e-4 * np.abs(field[mask]).max())


# ------------------------------------------------------------------------------------------------------ objectives


def faces_of(brain):
    """Faces between two voxels of the brain, bool (3, X, Y, Z)."""
    faces = np.stack([brain & np.roll(brain, -1, axis) for axis in range(3)])
    for axis in range(3):
        np.moveaxis(faces[axis], axis, 0)[-1] = False
    return faces


def misfit64(chi, problem):
    """Data term of the nonlinear inversions in float64, and its gradient."""
    k = problem.rad_per_ppm
    field, w2 = problem.local.field_ppm.astype(float), np.where(problem.local.mask, problem.weight2, 0)
    dipole = dipole_kernel(chi.shape, problem.voxel_mm, problem.b0_dir).astype(float)
    shape = chi.shape
    dchi = scipy.fft.irfftn(dipole * scipy.fft.rfftn(chi), shape)
    value = np.sum(w2 / (2 * k**2) * np.abs(np.exp(1j * k * dchi) - np.exp(1j * k * field)) ** 2)
    slope = scipy.fft.irfftn(dipole * scipy.fft.rfftn(w2 * np.sin(k * (dchi - field)) / k), shape)
    return value, slope


def steps64(chi, voxel_mm):
    return np.stack([s * (np.roll(chi, -1, a) - chi) for a, s in enumerate(edge_scales(voxel_mm))])


def tv_objective64(chi, problem, alpha):
    chi = chi.astype(float)
    return misfit64(chi, problem)[0] + alpha * np.abs(steps64(chi, problem.voxel_mm))[faces_of(problem.brain)].sum()


@pytest.mark.parametrize("method", [NonlinearTv(merit_at=(), reweight_at=()), LinearTv()], ids=name)
def test_admm_ends_below_its_start_and_below_the_truth(method):
    """The objective of the docstring in float64, weights frozen: no perturbation lies lower either."""
    problem, truth = lesion_problem()
    value = [
        tv_objective64(solved(invert(problem, dataclasses.replace(method, iterations=n))), problem, method.alpha_ppm)
        for n in (1, 5, 20, 40, 120)
    ]
    start = tv_objective64(np.zeros_like(truth), problem, method.alpha_ppm)
    assert (np.diff([start, *value]) < 0).all()
    assert value[-1] < tv_objective64(truth, problem, method.alpha_ppm)
    chi = solved(invert(problem, dataclasses.replace(method, iterations=120)))
    rng = np.random.default_rng(1)
    for size in (1e-3, 1e-2):
        other = chi + size * rng.standard_normal(chi.shape).astype(np.float32)
        assert tv_objective64(other, problem, method.alpha_ppm) > value[-1]


def medi_objective64(chi, problem, method):
    """Value and gradient of MEDI's objective without MERIT and fluid, in float64."""
    scales = edge_scales(problem.voxel_mm)
    smooth = morphology(problem.magnitude, problem.brain, scales, method.edge_share).astype(float)
    slopes = steps64(chi, problem.voxel_mm)
    size = np.sqrt((smooth * slopes**2).sum(axis=0) + method.smoothing_ppm**2)
    value, slope = misfit64(chi, problem)
    flow = smooth * slopes / size
    back = sum(s * (np.roll(flow[a], 1, a) - flow[a]) for a, s in enumerate(scales))
    return value + method.alpha_ppm * size.sum(), slope + method.alpha_ppm * back


def test_medi_finds_the_minimum_of_its_objective():
    """The gradient is checked by finite differences, and falls to a hundredth of its start."""
    problem, truth = lesion_problem()
    method = Medi(csf_weight=0, merit_factor=1e6, outer=40, inner=200, inner_tolerance=1e-3, change=1e-6)
    rng = np.random.default_rng(2)
    chi, way = rng.normal(0, 0.1, truth.shape), rng.standard_normal(truth.shape)
    slope = medi_objective64(chi, problem, method)[1]
    ahead, behind = (medi_objective64(chi + sign * 1e-5 * way, problem, method)[0] for sign in (1, -1))
    assert np.vdot(slope, way) == pytest.approx((ahead - behind) / 2e-5, rel=1e-4)

    start, found = np.zeros(truth.shape), solved(invert(problem, method)).astype(float)
    before, after = (medi_objective64(c, problem, method) for c in (start, found))
    assert after[0] < before[0]
    assert after[0] < medi_objective64(truth.astype(float), problem, method)[0]
    assert np.linalg.norm(after[1]) < 0.01 * np.linalg.norm(before[1])


@pytest.mark.parametrize(
    "method",
    [
        LinearTv(alpha_ppm=2e-4, iterations=400),
        NonlinearTv(alpha_ppm=2e-4, iterations=400, merit_at=(), reweight_at=()),
        Medi(alpha_ppm=2e-4, edge_share=0, smoothing_ppm=1e-5, merit_factor=1e6, outer=60, inner=300, change=1e-5),
    ],
    ids=name,
)
def test_a_plateau_loses_what_total_variation_takes(method):
    """Across B0 the dipole is 1/3, so a wall is denoised in one dimension, where the answer is known.

    (chi/3 - f)^2 / 2 + alpha |chi'| moves a plateau of n voxels towards each of its neighbours by 9 alpha / n (Strong
    & Chan 2003, Inverse Problems 19:S165).
    """
    shape, wall = (32, 8, 6), slice(12, 20)
    chi = np.zeros(shape, np.float32)
    chi[wall] = 0.3
    brain = np.ones(shape, bool)
    field = irfft(dipole_kernel(shape, CUBE, UP) * rfft(chi), shape)
    found = solved(invert(problem_of(field, brain), method))
    contrast = found[wall].mean() - np.delete(found, np.arange(12, 20), axis=0).mean()
    lost = 9 * 2e-4 * (2 / 8 + 1 / 12)
    assert 0.3 - contrast == pytest.approx(lost, rel=0.05)


# -------------------------------------------------------------------------------- closed forms of background removal


def test_resharp_and_sharp_are_filters_where_the_ball_fits_everywhere():
    """On a torus: RESHARP is h^2 / (h^2 + lambda), SHARP passes where h > t, with h = 1 - S."""
    shape = (24, 20, 18)
    field, everywhere = bumpy(shape), np.ones(shape, bool)
    high = 1 - ball_kernel(shape, CUBE, 3.0)
    ones = np.ones(shape, np.float32)
    got = solved(remove_background(field, ones, everywhere, CUBE, UP, Resharp(3.0, 0.05, tolerance=1e-6)))
    expected = irfft(high**2 / (high**2 + 0.05) * rfft(field), shape)
    np.testing.assert_allclose(got.field_ppm, expected, atol=1e-4)
    got = solved(remove_background(field, ones, everywhere, CUBE, UP, Sharp(3.0, 0.3)))
    np.testing.assert_allclose(got.field_ppm, irfft((np.abs(high) > 0.3) * rfft(field), shape), atol=1e-5)


def test_lbv_keeps_what_vanishes_on_the_boundary():
    """A product of sines that is 0 on the faces of a box stays; a discretely harmonic polynomial goes."""
    shape, n = (30, 28, 26), (21, 19, 17)
    mask = np.zeros(shape, bool)
    box = tuple(slice(4, 4 + m) for m in n)
    mask[box] = True
    i, j, k = np.meshgrid(*[np.arange(m) for m in n], indexing="ij")
    inside = np.sin(np.pi * i / (n[0] - 1)) * np.sin(2 * np.pi * j / (n[1] - 1)) * np.sin(np.pi * k / (n[2] - 1))
    harmonic = 0.02 * (i**2 - j**2) + 0.03 * i * k - 0.1 * k
    field = np.zeros(shape, np.float32)
    field[box] = inside + harmonic
    method = Lbv(tolerance_ppm=1e-5, max_sweeps=2000)
    local = solved(remove_background(field, np.ones(shape, np.float32), mask, CUBE, UP, method))
    np.testing.assert_allclose(local.field_ppm[box], inside, atol=1e-3)


def test_vsharp_uses_the_largest_ball_that_fits():
    """With one radius it is SHARP; a smaller one more only adds voxels near the edge."""
    shape, mask = (30, 30, 30), ellipsoid((30, 30, 30), 0.9)
    field, ones = bumpy(shape), np.ones(shape, np.float32)
    one = solved(remove_background(field, ones, mask, CUBE, UP, VSharp((4.0,))))
    same = solved(remove_background(field, ones, mask, CUBE, UP, Sharp(4.0)))
    np.testing.assert_array_equal(one.field_ppm, same.field_ppm)
    more = solved(remove_background(field, ones, mask, CUBE, UP, VSharp((4.0, 2.0))))
    assert (more.mask & ~one.mask).any()
    assert not (one.mask & ~more.mask).any()
