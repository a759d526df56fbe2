"""Anatomy and lesions: what every head has, and what the generator promises."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import gamma

from phantoms.anatomy import Head, head
from phantoms.atlas import LABEL, TISSUES
from phantoms.lesions import DEMO_LESIONS, Core, Kind, Lesion, random_lesion, random_lesions
from phantoms.physics import centred_axes
from phantoms.shapes import Axes, Ellipsoid, Tube, mirrored
from recon.types import BadInput, Vector

VOXEL_ML = 2.0**3 / 1000


@cache
def healthy(seed: int) -> Head:
    return head(seed, lesions=())


@cache
def coarse_axes() -> Axes:
    return centred_axes((110, 120, 80), (2.0, 2.0, 2.0))


@pytest.mark.parametrize("seed", [1, 2])
def test_a_head_has_the_volumes_of_a_head(seed: int) -> None:
    painted = healthy(seed).paint(coarse_axes())
    volume = {t.name: float((painted.label == i).sum()) * VOXEL_ML for i, t in enumerate(TISSUES)}
    assert 1100 < (painted.brain & ~painted.foreign).sum() * VOXEL_ML < 1600
    assert 300 < volume["grey matter"] < 650
    assert 400 < volume["white matter"] < 750
    # Both sides together.
    for nucleus, low, high in (
        ("caudate", 3, 9),
        ("putamen", 5, 11),
        ("pallidum", 1.5, 4.5),
        ("thalamus", 6, 16),
        ("red nucleus", 0.15, 1),
        ("substantia nigra", 0.2, 1.5),
        ("dentate nucleus", 0.8, 3),
    ):
        assert low < volume[nucleus] < high, nucleus
    # Air all around but at the neck.
    for face in (0, -1):
        assert (painted.label[face] == 0).all()
        assert (painted.label[:, face] == 0).all()
    assert (painted.label[:, :, -1] == 0).all()
    assert (painted.label[:, :, 0] != 0).any()


def test_susceptibility_of_the_tissues_is_the_tables() -> None:
    painted = healthy(1).paint(coarse_axes())
    for tissue in ("pallidum", "putamen", "white matter", "bone", "air"):
        label = LABEL[tissue]
        mean = painted.chi_ppm[painted.label == label].mean(dtype=np.float64)
        # Edges wander: a part of the voxels of a nucleus carries its neighbour's susceptibility.
        slack = 0.25 * abs(TISSUES[label].chi_ppm) if tissue in {"pallidum", "putamen", "white matter"} else 0.001
        assert mean == pytest.approx(TISSUES[label].chi_ppm, abs=slack), tissue


def test_edges_of_signal_and_susceptibility_differ() -> None:
    painted = healthy(1).paint(coarse_axes())
    white = painted.label == LABEL["white matter"]
    near = np.abs(painted.chi_ppm - TISSUES[LABEL["white matter"]].chi_ppm) < 0.03
    assert 0.02 < (white & ~near).sum() / white.sum() < 0.3


def test_seeds_change_the_anatomy_and_nothing_else_does() -> None:
    axes = coarse_axes()
    one, again, other = (h.paint(axes) for h in (healthy(1), head(1, lesions=()), healthy(2)))
    np.testing.assert_array_equal(one.label, again.label)
    np.testing.assert_array_equal(one.chi_ppm, again.chi_ppm)
    assert (one.label != other.label).mean() > 0.02


def test_painting_does_not_depend_on_the_grid() -> None:
    """A part of the grid gets what the whole grid gets there."""
    axes = coarse_axes()
    part = (slice(30, 71), slice(11, 90), slice(20, 33))
    whole = healthy(1).paint(axes)
    piece = healthy(1).paint((axes[0][part[0]], axes[1][part[1]], axes[2][part[2]]))
    np.testing.assert_array_equal(piece.label, whole.label[part])
    np.testing.assert_array_equal(piece.brain, whole.brain[part])
    np.testing.assert_array_equal(piece.chi_ppm, whole.chi_ppm[part])


def test_depth_is_that_of_the_painted_brain() -> None:
    axes = coarse_axes()
    painted = healthy(1).paint(axes)
    brain = painted.brain & ~painted.foreign
    points = np.stack(np.meshgrid(*(a[::5] for a in axes), indexing="ij"), axis=-1).reshape(-1, 3)
    depth = healthy(1).depth_mm(points.astype(np.float64)).reshape(brain[::5, ::5, ::5].shape)
    upper = axes[2][::5] > -40
    assert brain[::5, ::5, ::5][..., upper][depth[..., upper] > 1].all()
    assert not brain[::5, ::5, ::5][..., upper][depth[..., upper] < -1].any()


@pytest.mark.parametrize(
    ("radii", "angles"), [((6.0, 6.0, 6.0), (0.0, 0.0, 0.0)), ((9.0, 5.0, 4.0), (20.0, -35.0, 60.0))]
)
@pytest.mark.parametrize("power", [2.0, 4.0])
def test_volume_of_a_superellipsoid(radii: Vector, angles: Vector, power: float) -> None:
    """8 abc Gamma(1 + 1/n)^3 / Gamma(1 + 3/n)."""
    solid = Ellipsoid((0.3, -0.2, 0.1), radii, angles, power)
    axes = centred_axes((100, 100, 100), (0.25, 0.25, 0.25))
    measured = (solid.distance_mm(axes) < 0).sum() * 0.25**3
    expected = 8 * np.prod(radii) * gamma(1 + 1 / power) ** 3 / gamma(1 + 3 / power)
    assert measured == pytest.approx(expected, rel=0.01)


@given(
    angles=st.tuples(*[st.floats(-90, 90)] * 3),
    centre=st.tuples(*[st.floats(-4, 4)] * 3),
)
@settings(deadline=None, max_examples=20)
def test_mirror_image_of_a_solid(angles: Vector, centre: Vector) -> None:
    axes = centred_axes((24, 22, 20), (1.0, 1.0, 1.0))
    for solid in (Ellipsoid(centre, (7.0, 3.0, 5.0), angles), Tube((centre, (5.0, 5.0, -5.0)), 2.0)):
        np.testing.assert_allclose(mirrored(solid).distance_mm(axes), solid.distance_mm(axes)[::-1], atol=1e-3)


kinds = st.sampled_from(["hemorrhage", "calcification"])


@given(kind=kinds, size=st.floats(0.2, 2.0), radius=st.floats(1.0, 12.0), seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=50)
def test_a_random_lesion_is_what_was_asked_for(kind: Kind, size: float, radius: float, seed: int) -> None:
    lesion = random_lesion(np.random.default_rng(seed), kind, (1.0, 2.0, 3.0), radius, size)
    assert lesion == random_lesion(np.random.default_rng(seed), kind, (1.0, 2.0, 3.0), radius, size)
    assert (lesion.chi_ppm > 0) == (kind == "hemorrhage")
    assert abs(lesion.chi_ppm) == size
    assert np.cbrt(np.prod(lesion.radii_mm)) == pytest.approx(radius)
    half = lesion.reach_mm * 1.2
    offsets = np.linspace(-half, half, 49, dtype=np.float32)
    inside = lesion.distance_mm((offsets + 1, offsets + 2, offsets + 3)) < 0
    assert inside[24, 24, 24]
    measured = inside.sum() * float(offsets[1] - offsets[0]) ** 3
    assert measured == pytest.approx(4 / 3 * np.pi * radius**3, rel=0.45)
    far = np.linalg.norm(np.stack(np.meshgrid(*[offsets] * 3, indexing="ij")), axis=0) > lesion.reach_mm
    assert not inside[far].any()


@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 9))
@settings(deadline=None, max_examples=25)
def test_random_lesions_lie_in_the_brain_and_apart(seed: int, count: int) -> None:
    where = healthy(1)
    lesions = random_lesions(seed, count, where.depth_mm)
    assert lesions == random_lesions(seed, count, where.depth_mm)
    assert len(lesions) == count
    for i, lesion in enumerate(lesions):
        assert where.depth_mm(np.array([lesion.centre_mm]))[0] > lesion.reach_mm
        for other in lesions[:i]:
            between = np.linalg.norm(np.subtract(lesion.centre_mm, other.centre_mm))
            assert between > lesion.reach_mm + other.reach_mm + 6


def test_no_room_is_said() -> None:
    with pytest.raises(BadInput, match="found room"):
        random_lesions(1, 40, healthy(1).depth_mm, radius_mm=(15, 20))


@pytest.mark.parametrize(
    "change",
    [
        {"chi_ppm": -0.5},
        {"chi_ppm": 0.04},
        {"chi_ppm": 3.5},
        {"kind": "mixed"},
        {"core": Core(1.0, -1.0, 80.0, 0.3)},
        {"radii_mm": (1.0, 0.0, 1.0)},
        {"irregularity": 0.5},
    ],
)
def test_impossible_lesions_are_refused(change: dict[str, object]) -> None:
    fields: dict[str, object] = {"kind": "hemorrhage", "chi_ppm": 0.5, "centre_mm": (0, 0, 0), "radii_mm": (3, 3, 3)}
    with pytest.raises(BadInput):
        Lesion(**(fields | change))  # type: ignore[arg-type]


def test_the_demonstration_set_lies_in_the_brain_and_one_calcification_in_a_pallidum() -> None:
    whole = head(1)
    assert len(whole.lesions) == len(DEMO_LESIONS)
    assert {lesion.kind for lesion in whole.lesions} == {"hemorrhage", "calcification"}
    for lesion in whole.lesions:
        assert whole.depth_mm(np.array([lesion.centre_mm]))[0] > lesion.reach_mm
    axes = centred_axes((60, 60, 40), (1.0, 1.0, 1.0))
    without = healthy(1).paint(axes)
    painted = whole.paint(axes)
    buried = [
        index
        for index, lesion in enumerate(whole.lesions)
        if lesion.kind == "calcification"
        and (inside := whole.where_lesion(index, painted.label)).any()
        and (without.label[inside] == LABEL["pallidum"]).mean() > 0.5
    ]
    assert len(buried) == 1
