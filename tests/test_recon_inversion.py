"""Laws that every inversion keeps, and values worked out by hand."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inverse_problems import directions, ellipsoid, name, problem_of, unit
from recon.conjugate_gradients import conjugate_gradients
from recon.fourier import dipole_kernel, edge_scales, irfft, rfft
from recon.inversion import ClosedFormL2, LinearTv, Medi, NonlinearTv, Tkd, invert
from recon.inversion.cosmos import cosmos
from recon.inversion.medi import morphology, uniformity
from recon.operators import gradient, gradient_adjoint
from recon.solve import solved
from recon.types import BadInput, BadRecipe, LocalField

SHAPE = (36, 40, 32)
BRAIN = ellipsoid(SHAPE, 0.84)
METHODS = [NonlinearTv(), LinearTv(), Medi(), ClosedFormL2(), Tkd()]
# What the mean of a sphere of 4 voxels' radius may be off, relative.
BANDS = {"NonlinearTv": 0.1, "LinearTv": 0.1, "Medi": 0.15, "ClosedFormL2": 0.35, "Tkd": 0.25}


def sphere_means(voxel_mm, centre_mm, radius_mm):
    """Fraction of every voxel inside a sphere, from 4 points along each edge."""
    sub = 4
    axes = [
        ((np.arange(n * sub) + 0.5) / sub - n / 2) * h - c for n, h, c in zip(SHAPE, voxel_mm, centre_mm, strict=True)
    ]
    x, y, z = axes
    inside = x[:, None, None] ** 2 + y[None, :, None] ** 2 + z[None, None, :] ** 2 <= radius_mm**2
    return inside.reshape(*(k for n in SHAPE for k in (n, sub))).mean(axis=(1, 3, 5))


def sphere_field(voxel_mm, b0_dir, centre_mm, radius_mm, chi_ppm):
    """Field of a sphere by its closed form: 0 inside, a dipole outside; mean of 8 points of a voxel."""
    sub = 2
    axes = [
        ((np.arange(n * sub) + 0.5) / sub - n / 2) * h - c for n, h, c in zip(SHAPE, voxel_mm, centre_mm, strict=True)
    ]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    r = np.maximum(np.sqrt(x**2 + y**2 + z**2), 1e-6)
    cos = (x * b0_dir[0] + y * b0_dir[1] + z * b0_dir[2]) / r
    field = np.where(r > radius_mm, chi_ppm / 3 * (radius_mm / r) ** 3 * (3 * cos**2 - 1), 0)
    return field.reshape(*(k for n in SHAPE for k in (n, sub))).mean(axis=(1, 3, 5)).astype(np.float32)


def chi_of(problem, method):
    chi = solved(invert(problem, method))
    return chi - chi[problem.brain].mean()


@pytest.mark.parametrize("method", METHODS, ids=name)
@given(
    chi_ppm=st.floats(0.2, 2.0),
    positive=st.booleans(),
    centre=st.tuples(*[st.floats(-4, 4)] * 3),
    b0=directions,
    edge=st.floats(0.7, 1.6),
)
@settings(max_examples=6, deadline=None, derandomize=True)
def test_a_lesion_keeps_its_sign_and_size(method, chi_ppm, positive, centre, b0, edge):
    voxel_mm, b0_dir = (1.0, 1.0, edge), unit(b0)
    true = chi_ppm if positive else -chi_ppm
    field = sphere_field(voxel_mm, b0_dir, centre, 4.0, true)
    fraction = sphere_means(voxel_mm, centre, 4.0)
    magnitude = np.where(BRAIN, 1 - 0.5 * fraction, 0).astype(np.float32)  # MEDI lives on edges
    problem = problem_of(field, BRAIN, voxel_mm, b0_dir, magnitude=magnitude)
    chi = chi_of(problem, method)
    truth = true * fraction - (true * fraction)[problem.brain].mean()
    lesion = fraction >= 0.5
    assert chi[lesion].mean() == pytest.approx(truth[lesion].mean(), rel=BANDS[name(method)])


@pytest.mark.parametrize("method", METHODS, ids=name)
def test_the_mirror_image_of_the_field_gives_the_mirror_image_of_chi(method):
    field = sphere_field((1.0, 1.0, 1.0), (0.0, 0.0, 1.0), (2, -3, 1), 4.0, 0.8)
    one = chi_of(problem_of(field, BRAIN), method)
    np.testing.assert_allclose(chi_of(problem_of(-field, BRAIN), method), -one, atol=2e-3)


@pytest.mark.parametrize("method", METHODS, ids=name)
def test_turning_the_volume_turns_the_map(method):
    """By 90 degrees about x, so that B0 goes from z to y."""
    field = sphere_field((1.0, 1.0, 1.0), (0.0, 0.0, 1.0), (2, -3, 1), 4.0, 0.8)
    upright = chi_of(problem_of(field, BRAIN), method)
    turned = chi_of(problem_of(field.swapaxes(1, 2), BRAIN.swapaxes(1, 2), b0_dir=(0.0, 1.0, 0.0)), method)
    np.testing.assert_allclose(turned.swapaxes(1, 2), upright, atol=3e-3)


@pytest.mark.parametrize("method", [Tkd(), ClosedFormL2()], ids=name)
@given(factor=st.floats(0.1, 9))
@settings(max_examples=5, deadline=None)
def test_direct_methods_scale_with_the_field(method, factor):
    field = np.random.default_rng(1).standard_normal(SHAPE).astype(np.float32)
    one, two = (chi_of(problem_of(np.float32(f) * field, BRAIN), method) for f in (1, factor))
    np.testing.assert_allclose(two, factor * one, rtol=1e-3, atol=1e-4 * factor)


@given(factor=st.floats(0.2, 5))
@settings(max_examples=4, deadline=None, derandomize=True)
def test_total_variation_scales_with_field_and_alpha(factor):
    field = sphere_field((1.0, 1.0, 1.0), (0.0, 0.0, 1.0), (2, -3, 1), 4.0, 0.8)
    one = chi_of(problem_of(field, BRAIN), LinearTv())
    scaled = dataclasses.replace(LinearTv(), alpha_ppm=factor * LinearTv().alpha_ppm)
    two = chi_of(problem_of(np.float32(factor) * field, BRAIN), dataclasses.replace(scaled, mu_gradient=60 / factor))
    np.testing.assert_allclose(two, factor * one, atol=2e-3 * factor)


def test_inversions_differ():
    field = np.random.default_rng(2).standard_normal(SHAPE).astype(np.float32) / 10
    maps = [chi_of(problem_of(field, BRAIN), method) for method in METHODS]
    for i, one in enumerate(maps):
        assert all(np.abs(one - other).max() > 0.01 for other in maps[:i])


def plane_wave(k, shape=SHAPE):
    x, y, z = np.meshgrid(*[np.arange(n) / n for n in shape], indexing="ij")
    return np.cos(2 * np.pi * (k[0] * x + k[1] * y + k[2] * z)).astype(np.float32)


@pytest.mark.parametrize(("k", "dipole"), [((3, 0, 0), 1 / 3), ((0, 0, 3), -2 / 3)])
def test_a_plane_wave_is_divided_by_its_dipole(k, dipole):
    """On isotropic voxels D is 1/3 across B0 and -2/3 along it; the whole grid is brain."""
    shape = (32, 32, 32)
    wave = plane_wave(k, shape)
    problem = problem_of(dipole * wave, np.ones(shape, bool))
    peak = np.abs(rfft(chi_of(problem, Tkd(threshold=0.2)))).max() / np.abs(rfft(wave)).max()
    kernel = dipole_kernel(shape, (1.0, 1.0, 1.0), (0.0, 0.0, 1.0)).astype(float)
    whole = np.concatenate([kernel, kernel[..., 1:-1]], axis=2)
    correction = np.mean(np.minimum(np.abs(whole) / 0.2, 1))
    assert peak == pytest.approx(1 / correction, rel=1e-3)

    beta, power = 1e-2, 2 - 2 * np.cos(2 * np.pi * 3 / 32)
    peak = np.abs(rfft(chi_of(problem, ClosedFormL2(beta=beta)))).max() / np.abs(rfft(wave)).max()
    assert peak == pytest.approx(dipole**2 / (dipole**2 + beta * power), rel=1e-3)


def test_cosmos_recovers_chi():
    rng = np.random.default_rng(3)
    chi = rng.standard_normal(SHAPE).astype(np.float32)
    chi -= chi.mean()
    voxel_mm = (1.0, 1.2, 1.5)
    b0_dirs = [(0.0, 0.0, 1.0), (0.0, 0.8, 0.6), (0.8, 0.0, 0.6), (0.6, 0.64, 0.48)]
    fields = [irfft(dipole_kernel(SHAPE, voxel_mm, b0) * rfft(chi), SHAPE) for b0 in b0_dirs]
    # The Nyquist planes keep only the even part of an oblique kernel, as they must.
    np.testing.assert_allclose(cosmos(fields, b0_dirs, voxel_mm), chi, atol=1e-3)


def test_cosmos_refuses_what_does_not_determine_chi():
    field = np.zeros(SHAPE, np.float32)
    with pytest.raises(BadInput, match="too close to each other"):
        cosmos([field, field], [(0.0, 0.0, 1.0), (0.0, 0.0, 1.0)], (1.0, 1.0, 1.0))
    with pytest.raises(BadInput, match="two or more"):
        cosmos([field], [(0.0, 0.0, 1.0)], (1.0, 1.0, 1.0))
    with pytest.raises(BadInput, match="fields_ppm contain NaN or infinity"):
        cosmos([field, field + np.float32(np.nan)], [(0.0, 0.0, 1.0), (0.0, 1.0, 0.0)], (1.0, 1.0, 1.0))
    with pytest.raises(BadInput, match="b0_dir must be a unit vector"):
        cosmos([field, field], [(0.0, 0.0, 1.0), (0.0, 3.0, 0.0)], (1.0, 1.0, 1.0))
    with pytest.raises(BadInput, match="one shape"):
        cosmos([field, field[1:]], [(0.0, 0.0, 1.0), (0.0, 1.0, 0.0)], (1.0, 1.0, 1.0))


@given(
    shape=st.tuples(*[st.integers(1, 7)] * 3), voxel_mm=st.tuples(*[st.floats(0.5, 3)] * 3), seed=st.integers(0, 99)
)
@settings(max_examples=30, deadline=None)
def test_the_gradient_and_its_adjoint(shape, voxel_mm, seed):
    rng = np.random.default_rng(seed)
    chi, faces = rng.standard_normal(shape).astype("f4"), rng.standard_normal((3, *shape)).astype("f4")
    scales = edge_scales(voxel_mm)
    left = np.vdot(gradient(chi, scales).astype(float), faces)
    right = np.vdot(chi.astype(float), gradient_adjoint(faces, scales))
    assert left == pytest.approx(right, abs=1e-5 * float(1 + np.abs(faces).sum()))


@given(seed=st.integers(0, 99))
@settings(max_examples=10, deadline=None)
def test_conjugate_gradients_never_raise_the_functional(seed):
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((12, 12))
    matrix, right = root @ root.T + 2 * np.eye(12), rng.standard_normal((12, 1, 1))

    def functional(limit):
        x = solved(conjugate_gradients(lambda v: (matrix @ v.ravel()).reshape(v.shape), right, limit, 1e-12))
        return 0.5 * x.ravel() @ matrix @ x.ravel() - right.ravel() @ x.ravel()

    values = [functional(limit) for limit in range(1, 14)]
    assert (np.diff(values) <= 1e-6 * abs(values[0])).all()
    exact = -0.5 * right.ravel() @ np.linalg.solve(matrix, right.ravel())
    assert values[-1] == pytest.approx(exact, rel=1e-3)


def test_the_csf_term_makes_fluid_uniform():
    voxel_mm = (1.0, 1.0, 1.0)
    rng = np.random.default_rng(4)
    field = sphere_field(voxel_mm, (0.0, 0.0, 1.0), (0, 0, 0), 4.0, 0.3) + rng.normal(0, 0.02, SHAPE)
    csf = sphere_means(voxel_mm, (7, 0, 0), 3.0) > 0.5
    spread = [chi_of(problem_of(field, BRAIN, csf=csf), Medi(csf_weight=w))[csf].std() for w in (0.0, 1.0)]
    assert spread[1] < 0.5 * spread[0]


def test_uniformity_is_the_deviation_from_the_mean():
    chi = np.array([[[1.0, 3.0, 7.0]]], np.float32)
    np.testing.assert_array_equal(uniformity(chi, np.array([[[True, True, False]]])), [[[-1, 1, 0]]])
    assert not uniformity(chi, np.zeros((1, 1, 3), bool)).any()


def test_morphology_spares_the_strongest_edges():
    brain = np.ones((6, 6, 6), bool)
    magnitude = np.zeros((6, 6, 6), np.float32)
    magnitude[3:] = 5
    smooth = morphology(magnitude, brain, (1.0, 1.0, 1.0), 0.2)
    assert not smooth[0][2].any()
    assert smooth[0][:2].all()
    assert smooth[1].all()


@given(share=st.floats(0.05, 0.6), seed=st.integers(0, 99))
@settings(max_examples=10, deadline=None)
def test_the_share_of_edges_is_what_was_asked_for(share, seed):
    brain = ellipsoid((20, 22, 24))
    magnitude = np.random.default_rng(seed).random(brain.shape).astype(np.float32)
    smooth = morphology(magnitude, brain, (1.0, 1.0, 0.5), share)
    faces = np.stack([brain & np.roll(brain, -1, axis) for axis in range(3)])
    assert not smooth[~faces].any()
    assert smooth[faces].mean() == pytest.approx(1 - share, abs=2e-3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weight2": np.ones((3, 3, 3), np.float32)}, "weight2 has shape"),
        ({"weight2": np.zeros(SHAPE, np.float32)}, "nor 0 in every voxel"),
        ({"weight2": np.full(SHAPE, np.nan, np.float32)}, "weight2 contains NaN"),
        ({"magnitude": np.full(SHAPE, np.inf, np.float32)}, "magnitude contains NaN or infinity"),
        ({"local": LocalField(np.full(SHAPE, np.nan, np.float32), BRAIN)}, "local.field_ppm contains NaN"),
        ({"local": LocalField(np.zeros((3, 3, 3), np.float32), BRAIN)}, "local.field_ppm has shape"),
        ({"csf": np.zeros((3, 3, 3), bool)}, "csf has shape"),
        ({"weight2": -np.ones(SHAPE, np.float32)}, "weight2 must not be negative"),
        ({"rad_per_ppm": 0.0}, "rad_per_ppm must be positive"),
        ({"rad_per_ppm": float("nan")}, "rad_per_ppm must be positive"),
        ({"voxel_mm": (1.0, -1.0, 1.0)}, "voxel_mm must be three positive lengths"),
        ({"b0_dir": (0.0, 0.0, 0.0)}, "b0_dir must be a unit vector"),
        ({"local": LocalField(np.zeros(SHAPE, np.float32), np.zeros(SHAPE, bool))}, "local.mask holds 0 voxels"),
        (
            {"local": LocalField(np.zeros(SHAPE, np.float32), np.ones(SHAPE, bool))},
            "local.mask must lie inside brain",
        ),
    ],
)
def test_arguments_that_cannot_be_used_are_named(change, words):
    with pytest.raises(BadInput, match=words):
        problem_of(np.zeros(SHAPE, np.float32), BRAIN, **change)


def test_parameters_out_of_range_are_refused():
    for wrong in (
        lambda: Tkd(threshold=0),
        lambda: Tkd(threshold=0.7),
        lambda: ClosedFormL2(beta=0),
        lambda: LinearTv(relaxation=2),
        lambda: Medi(edge_share=1),
        lambda: Medi(csf_weight=-1),
    ):
        with pytest.raises(BadRecipe):
            wrong()
