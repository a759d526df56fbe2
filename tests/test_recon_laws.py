"""Laws of the numerics that no single stage owns: adjoints, rotations, any shape."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inverse_problems import CUBE, UP, bumpy, directions, ellipsoid, lesion_problem, name, problem_of, unit
from recon.background import Lbv, Pdf, Resharp, Sharp, VSharp, remove_background
from recon.background.sharp import ball_kernel
from recon.fourier import dipole_kernel, irfft, rfft
from recon.grid import WorkGrid
from recon.inversion import ClosedFormL2, LinearTv, Medi, NonlinearTv, Tkd, invert
from recon.solve import solved
from recon.types import BadInput

INVERSIONS = [NonlinearTv(), LinearTv(), Medi(), ClosedFormL2(), Tkd()]
BACKGROUNDS = [Pdf(), Lbv(), Sharp(3.0), Resharp(3.0), VSharp((4.0, 3.0, 2.0))]

odd_shapes = st.tuples(*[st.sampled_from([16, 17, 19, 22, 23, 25])] * 3)
voxels = st.tuples(*[st.floats(0.6, 2)] * 3)


def chi_of(problem, method):
    chi = solved(invert(problem, method))
    return np.where(problem.brain, chi - chi[problem.brain].mean(), 0)


# ------------------------------------------------------------------------------------------------------ operators


@given(shape=odd_shapes, voxel_mm=voxels, radius_mm=st.floats(1, 4), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_the_ball_is_its_own_adjoint(shape, voxel_mm, radius_mm, seed):
    rng = np.random.default_rng(seed)
    x, y = (rng.standard_normal(shape).astype(np.float32) for _ in range(2))
    ball = ball_kernel(shape, voxel_mm, radius_mm)
    left, right = np.vdot(irfft(ball * rfft(x), shape), y), np.vdot(x, irfft(ball * rfft(y), shape))
    assert left == pytest.approx(right, abs=1e-5 * float(np.linalg.norm(x) * np.linalg.norm(y)))


@given(shape=st.tuples(*[st.integers(1, 9)] * 3), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_gathering_and_restoring_are_adjoint_and_inverse(shape, seed):
    rng = np.random.default_rng(seed)
    mask = rng.random(shape) < 0.4
    mask.flat[rng.integers(mask.size)] = True
    grid = WorkGrid.around(mask)
    work_mask = grid.embed(mask)
    np.testing.assert_array_equal(grid.restore(work_mask), mask)
    full, work = rng.standard_normal(shape), rng.standard_normal(grid.shape)
    gathered = np.zeros(grid.shape)
    gathered[work_mask] = full[mask]
    np.testing.assert_array_equal(grid.restore(gathered), np.where(mask, full, 0))
    restored = np.where(mask, grid.restore(work), 0)
    assert np.vdot(restored, full) == pytest.approx(np.vdot(work, gathered))


@given(shape=odd_shapes, voxel_mm=voxels, b0=directions, seed=st.integers(0, 99))
@settings(max_examples=10, deadline=None)
def test_the_weighted_dipole_system_is_symmetric_and_positive(shape, voxel_mm, b0, seed):
    """P D W^2 D P of PDF, which conjugate gradients ask it of."""
    rng = np.random.default_rng(seed)
    mask = ellipsoid(shape)
    dipole = dipole_kernel(shape, voxel_mm, unit(b0))
    weight2 = np.where(mask, rng.uniform(0, 3, shape), 0).astype(np.float32)
    x, y = (np.where(mask, 0, rng.standard_normal(shape)).astype(np.float32) for _ in range(2))

    def system(v):
        return np.where(mask, 0, irfft(dipole * rfft(weight2 * irfft(dipole * rfft(v), shape)), shape))

    size = float(np.linalg.norm(x) * np.linalg.norm(y))
    assert np.vdot(system(x), y) == pytest.approx(float(np.vdot(x, system(y))), abs=1e-4 * size)
    assert np.vdot(system(x), x) > 0


# ------------------------------------------------------------------------------------------------------- rotations


@pytest.mark.parametrize("background", [Pdf(1e-9, 10), *BACKGROUNDS[1:]], ids=name)
@pytest.mark.parametrize("order", [(1, 2, 0), (2, 0, 1)])
def test_turning_patient_and_field_turns_the_local_field(background, order):
    shape, voxel_mm, b0_dir = (27, 30, 24), (1.0, 1.2, 1.5), unit((0.3, -0.2, 0.9))
    field, mask = bumpy(shape), ellipsoid(shape)

    def local(turn):
        axes = [a.transpose(turn) for a in (field, mask)]
        arguments = [np.ascontiguousarray(a) for a in axes]
        place = [tuple(v[a] for a in turn) for v in (voxel_mm, b0_dir)]
        return solved(
            remove_background(arguments[0], np.ones(arguments[0].shape, np.float32), arguments[1], *place, background)
        )

    upright, turned = local((0, 1, 2)), local(order)
    np.testing.assert_array_equal(turned.mask, upright.mask.transpose(order))
    # LBV relaxes in the order of the array and stops at a change of 1e-3 ppm; the others differ by rounding.
    tolerance = 5e-3 if name(background) == "Lbv" else 1e-4
    np.testing.assert_allclose(turned.field_ppm, upright.field_ppm.transpose(order), atol=tolerance)


@pytest.mark.parametrize("method", INVERSIONS, ids=name)
@pytest.mark.parametrize("turn", ["cyclic", "quarter about z"])
def test_turning_patient_and_field_turns_the_map(method, turn):
    """To rounding. MEDI's steps end at a residual, so 1 % of the peak; and it adds up the squares of the faces in
    front of a voxel, which are others after a quarter turn: 10 %."""
    upright, _ = lesion_problem()

    def apply(volume):
        return np.ascontiguousarray(volume.transpose(1, 2, 0) if turn == "cyclic" else np.rot90(volume, 1, (0, 1)))

    vector = (lambda v: (v[1], v[2], v[0])) if turn == "cyclic" else (lambda v: (-v[1], v[0], v[2]))
    turned = problem_of(
        apply(upright.local.field_ppm),
        apply(upright.brain),
        tuple(abs(edge) for edge in vector(upright.voxel_mm)),
        vector(upright.b0_dir),
        weight2=apply(upright.weight2),
        magnitude=apply(upright.magnitude),
    )
    one, other = apply(chi_of(upright, method)), chi_of(turned, method)
    error = np.abs(one - other).max() / np.abs(one).max()
    assert error < ({"cyclic": 0.01}.get(turn, 0.1) if name(method) == "Medi" else 1e-3)


@pytest.mark.parametrize("method", INVERSIONS, ids=name)
def test_an_oblique_grid_sees_the_same_lesion(method):
    """The same sphere on a grid that is turned in the magnet: its mean is the same within 5 %, 15 % for TKD, whose
    streaks turn with B0."""
    brain, sub = ellipsoid((40, 40, 40), 0.7), 3
    x, y, z = np.meshgrid(*[(np.arange(40 * sub) + 0.5) / sub - 20] * 3, indexing="ij", sparse=True)
    r = np.sqrt(x**2 + y**2 + z**2)

    def voxels_of(fine):
        return fine.reshape(40, sub, 40, sub, 40, sub).mean(axis=(1, 3, 5)).astype(np.float32)

    fraction = voxels_of((r < 4.0).astype(np.float32))
    magnitude = np.where(brain, 1 - 0.5 * fraction, 0).astype(np.float32)
    means = []
    for b0_dir in (UP, unit((1, 1, 1)), unit((0.3, -0.8, 0.5))):
        cos = (x * b0_dir[0] + y * b0_dir[1] + z * b0_dir[2]) / r
        field = voxels_of(np.where(r > 4, 0.8 / 3 * (4 / r) ** 3 * (3 * cos**2 - 1), 0))
        chi = chi_of(problem_of(field, brain, CUBE, b0_dir, magnitude=magnitude), method)
        means.append(chi[fraction >= 0.5].mean())
    assert np.ptp(means) < (0.15 if name(method) == "Tkd" else 0.05) * np.mean(means)


# ------------------------------------------------------------------------------------------------------------- shapes


@given(shape=odd_shapes, voxel_mm=voxels, b0=directions, seed=st.integers(0, 99))
@settings(max_examples=6, deadline=None)
@pytest.mark.parametrize("method", INVERSIONS, ids=name)
def test_any_shape_gives_finite_values_and_the_sign_of_the_field_its_sign(method, shape, voxel_mm, b0, seed):
    field, mask = bumpy(shape, seed), ellipsoid(shape)
    plus = chi_of(problem_of(field, mask, voxel_mm, unit(b0)), method)
    minus = chi_of(problem_of(-field, mask, voxel_mm, unit(b0)), method)
    assert np.isfinite(plus).all()
    np.testing.assert_allclose(minus, -plus, atol=2e-3 * np.abs(plus).max())


@given(shape=odd_shapes, voxel_mm=st.tuples(*[st.floats(0.8, 1.3)] * 3), b0=directions)
@settings(max_examples=6, deadline=None)
@pytest.mark.parametrize("background", BACKGROUNDS, ids=name)
def test_background_removal_takes_any_shape(background, shape, voxel_mm, b0):
    field, mask = bumpy(shape), ellipsoid(shape, 0.9)
    weight2 = mask.astype(np.float32)
    local = solved(remove_background(field, weight2, mask, voxel_mm, unit(b0), background))
    assert np.isfinite(local.field_ppm).all()
    assert local.mask.any()
    assert not (local.mask & ~mask).any()


@pytest.mark.parametrize("background", BACKGROUNDS, ids=name)
def test_a_slab_of_one_voxel_is_too_small_or_finite(background):
    """Only PDF asks for no neighbours on either side."""
    field, mask = bumpy((20, 20, 20)), np.zeros((20, 20, 20), bool)
    mask[4:16, 4:16, 10] = True
    solver = remove_background(field, mask.astype(np.float32), mask, CUBE, UP, background)
    if isinstance(background, Pdf):
        assert np.isfinite(solved(solver).field_ppm).all()
    else:
        with pytest.raises(BadInput, match="mask holds 144 voxels"):
            solved(solver)
