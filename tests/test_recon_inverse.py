"""Background removal and inversion: laws and known answers on small grids."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recon import kernels
from recon.background.pdf import Pdf, pdf
from recon.fourier import dipole_kernel, irfft, rfft
from recon.inversion.problem import Problem
from recon.inversion.tv import NonlinearTv, merit, nonlinear_tv
from recon.solve import Step, run
from recon.types import BadRecipe, LocalField

SHAPE, VOXEL_MM = (48, 48, 40), (1.0, 1.0, 1.2)
B0_DIRS = [(0.0, 0.0, 1.0), (0.0, 0.5, np.sqrt(0.75)), (0.6, 0.0, 0.8)]
RAD_PER_PPM = 5.376


def radius_mm(centre=(0.0, 0.0, 0.0)):
    axes = np.meshgrid(
        *[(np.arange(n) - (n - 1) / 2) * h - c for n, h, c in zip(SHAPE, VOXEL_MM, centre, strict=True)],
        indexing="ij",
    )
    return np.sqrt(sum(a**2 for a in axes))


def field_of(chi, b0_dir):
    return irfft(dipole_kernel(SHAPE, VOXEL_MM, b0_dir) * rfft(chi), SHAPE)


def quiet(step: Step) -> None:
    pass


BRAIN = radius_mm() < 15
ONES = np.ones(SHAPE, dtype=np.float32)


def problem(local_ppm, b0_dir=(0.0, 0.0, 1.0)):
    local, csf = LocalField(local_ppm, BRAIN), np.zeros_like(BRAIN)
    return Problem(local, ONES, BRAIN, ONES, csf, RAD_PER_PPM, VOXEL_MM, b0_dir)


def invert(local_ppm, b0_dir, **parameters):
    chi, last = run(
        nonlinear_tv(problem(np.where(BRAIN, local_ppm, 0).astype(np.float32), b0_dir), NonlinearTv(**parameters)),
        quiet,
    )
    return chi, last


@pytest.mark.parametrize("b0_dir", B0_DIRS)
def test_field_of_outside_sources_vanishes(b0_dir):
    """A harmonic field of air pockets outside falls to 5 % rms, and what lies inside stays."""
    chi = np.zeros(SHAPE, dtype=np.float32)
    chi[radius_mm((0, 18, 8)) < 3] = 9.4
    chi[radius_mm((-17, -6, -10)) < 2.5] = -5
    outside = field_of(chi, b0_dir)
    outside -= outside[BRAIN].mean()
    local, last = run(pdf(outside, ONES, BRAIN, VOXEL_MM, b0_dir, Pdf()), quiet)
    assert last.residual <= Pdf().tolerance
    assert np.std(local.field_ppm[BRAIN]) < 0.05 * np.std(outside[BRAIN])
    assert not local.field_ppm[~BRAIN].any()


def test_pdf_is_linear_in_the_field():
    rng = np.random.default_rng(0)
    field = rng.standard_normal(SHAPE).astype(np.float32)
    one, _ = run(pdf(field, ONES, BRAIN, VOXEL_MM, (0, 0, 1), Pdf()), quiet)
    two, _ = run(pdf(-2 * field, ONES, BRAIN, VOXEL_MM, (0, 0, 1), Pdf()), quiet)
    np.testing.assert_allclose(two.field_ppm, -2 * one.field_ppm, atol=1e-6)


@pytest.mark.parametrize("b0_dir", B0_DIRS)
@pytest.mark.parametrize("chi_ppm", [0.8, -0.6])
def test_a_sphere_comes_back_with_its_sign_and_size(b0_dir, chi_ppm):
    chi = np.zeros(SHAPE, dtype=np.float32)
    lesion = radius_mm((4, -3, 2)) < 4
    chi[lesion] = chi_ppm
    found, _ = invert(field_of(chi, b0_dir), b0_dir)
    found -= np.median(found[BRAIN])
    assert found[lesion].mean() == pytest.approx(chi_ppm, rel=0.03)
    assert np.abs(found[BRAIN & (radius_mm((4, -3, 2)) > 6)]).max() < 0.03 * abs(chi_ppm)


@settings(deadline=None, max_examples=8)
@given(st.integers(0, 2**32 - 1), st.sampled_from(B0_DIRS))
def test_negating_the_field_negates_chi(seed, b0_dir):
    chi = np.random.default_rng(seed).normal(0, 0.05, SHAPE).astype(np.float32)
    field = field_of(chi, b0_dir)
    plus, _ = invert(field, b0_dir, iterations=12, merit_at=(8,), reweight_at=())
    minus, _ = invert(-field, b0_dir, iterations=12, merit_at=(8,), reweight_at=())
    np.testing.assert_allclose(minus, -plus, atol=2e-4)


def test_a_turn_between_echoes_costs_nothing():
    """Voxels wrong by 2 pi / k, as 1/dTE wraps are, leave the map as it is."""
    chi = np.zeros(SHAPE, dtype=np.float32)
    chi[radius_mm() < 4] = 0.8
    field = field_of(chi, (0, 0, 1))
    wrong = field.copy()
    wrong[24, 20:28, 20] += 2 * np.pi / RAD_PER_PPM
    clean, _ = invert(field, (0, 0, 1))
    wrapped, _ = invert(wrong, (0, 0, 1))
    np.testing.assert_allclose(wrapped[BRAIN], clean[BRAIN], atol=2e-3)


def test_wrong_direction_of_the_field_is_seen():
    """B0 ignored: the error grows at least tenfold."""
    chi = np.zeros(SHAPE, dtype=np.float32)
    lesion = radius_mm() < 4
    chi[lesion] = 0.8
    tilted = (0.0, 0.5, float(np.sqrt(0.75)))
    field = field_of(chi, tilted)
    truth = chi - chi[BRAIN].mean()

    def error(b0_dir):
        found, _ = invert(field, b0_dir)
        return np.linalg.norm((found - found[BRAIN].mean() - truth)[BRAIN]) / np.linalg.norm(truth[BRAIN])

    assert error((0.0, 0.0, 1.0)) > 10 * error(tilted)


def test_iterations_converge():
    chi = np.zeros(SHAPE, dtype=np.float32)
    chi[radius_mm() < 4] = 0.8
    _, last = invert(field_of(chi, (0, 0, 1)), (0, 0, 1))
    assert last.iteration == NonlinearTv().iterations
    assert last.residual < 0.01


def test_the_caller_can_stop_a_solver():
    solver = nonlinear_tv(problem(ONES), NonlinearTv())
    assert next(solver).iteration == 1
    solver.close()
    with pytest.raises(StopIteration):
        next(solver)


def test_merit_touches_only_what_contradicts():
    weight2 = np.ones(1000, dtype=np.float32)
    weight2[:10] = 0
    residual = np.full(1000, 0.01, dtype=np.float32)
    residual[:10] = 0
    residual[500] = 1
    s = 4 * np.sqrt((989 * 0.01**2 + 1) / 990)
    merit(weight2, residual, 4.0)
    assert weight2[500] == pytest.approx(s**4, rel=1e-4)
    assert (np.delete(weight2, 500)[10:] == 1).all()


def face_weights(chi=0 * ONES, weight2=ONES, magnitude=ONES, deep=BRAIN, half_ppm=0.05):
    faces = np.empty((3, *SHAPE), np.uint8)
    one = np.ones(3, np.float32)
    kernels.face_weights(
        chi, weight2, magnitude, BRAIN, deep, one, np.float32(1 / half_ppm), np.float32(1 / 0.2), faces
    )
    return faces


def test_faces_are_weighted_inside_the_brain_only():
    plain = face_weights()
    assert set(np.unique(plain)) == {0, 255}
    inside = BRAIN & np.roll(BRAIN, -1, 2)
    np.testing.assert_array_equal(plain[2] > 0, inside)


def test_faces_weigh_half_at_a_step_of_chi_or_of_the_magnitude():
    step = np.zeros(SHAPE, dtype=np.float32)
    step[24:] = 0.05
    assert face_weights(chi=step)[0, 23, 24, 20] == 128
    assert face_weights(chi=step, weight2=0 * ONES)[0, 23, 24, 20] == 255
    darker = ONES - 4 * step
    assert face_weights(magnitude=darker)[0, 23, 24, 20] == 128
    assert face_weights(magnitude=7 * darker, chi=step)[0, 23, 24, 20] == 64
    assert face_weights(magnitude=darker, deep=np.zeros_like(BRAIN))[0, 23, 24, 20] == 255


def test_edges_of_the_magnitude_help_and_do_no_harm_elsewhere():
    """A small sphere that the magnitude shows reads higher than without; edges elsewhere change it little."""
    chi = np.zeros(SHAPE, dtype=np.float32)
    lesion = radius_mm((4, -3, 2)) < 2.2
    chi[lesion] = 0.4
    local = LocalField(np.where(BRAIN, field_of(chi, (0, 0, 1)), 0).astype(np.float32), BRAIN)

    def mean(magnitude):
        given = Problem(local, ONES, BRAIN, magnitude, np.zeros_like(BRAIN), RAD_PER_PPM, VOXEL_MM, (0.0, 0.0, 1.0))
        found, _ = run(nonlinear_tv(given, NonlinearTv(alpha_ppm=4e-3, reweight_at=())), quiet)
        return (found - np.median(found[BRAIN]))[lesion].mean()

    elsewhere = np.where(radius_mm((-6, 4, -3)) < 4, np.float32(0.5), ONES)
    assert mean(np.where(lesion, np.float32(0.5), ONES)) > 1.02 * mean(ONES)
    assert mean(elsewhere) == pytest.approx(mean(ONES), rel=0.02)


@pytest.mark.parametrize(
    "parameters",
    [
        {"alpha_ppm": 0},
        {"iterations": 0},
        {"relaxation": 2.0},
        {"mu_data": -1},
        {"merit_factor": 0},
        {"alpha_ppm": float("nan")},
        {"reweight_at": (90,)},
    ],
)
def test_impossible_parameters_of_the_inversion_are_refused(parameters):
    with pytest.raises(BadRecipe, match="NonlinearTv"):
        NonlinearTv(**parameters)


def test_impossible_parameters_of_the_background_are_refused():
    with pytest.raises(BadRecipe, match="Pdf"):
        Pdf(tolerance=0)
