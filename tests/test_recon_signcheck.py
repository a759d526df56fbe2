"""Whether the sign of the phase is found out from the image, and never found out wrongly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.load import load
from phantoms.anatomy import head
from phantoms.protocol import Protocol
from phantoms.scanner import Vendor, as_stored
from phantoms.simulate import simulate
from recon.pipeline import reconstruct
from recon.recipe import RECIPES
from recon.signcheck import check_sign
from recon.signcheck.air import AIR_PPM, air_evidence, air_field, jackknifed_slope, without_shim
from recon.signcheck.check import joint
from recon.signcheck.evidence import block_mean
from recon.signcheck.iron import iron_evidence
from recon.types import Geometry

PROTOCOL = Protocol((100, 108, 72), (2.0, 2.0, 2.0), tuple(0.0057 + 0.0067 * e for e in range(4)), 0.057, 20.0)
OPPOSITE = {"agreement": "contradiction", "contradiction": "agreement", "no evidence": "no evidence"}


def negated(acquisition):
    return replace(acquisition, phase=-acquisition.phase)


def mirrored(result):
    """Field and susceptibility that the negated phase would give, were the reconstruction exactly odd."""
    field = replace(result.field, field_hz=-result.field.field_hz)
    return field, replace(result.chi, chi_ppm=-result.chi.chi_ppm)


@pytest.fixture(scope="module")
def phantom():
    return simulate(head(101), PROTOCOL, seed=101)


@pytest.fixture(scope="module")
def result(phantom):
    return reconstruct(phantom.acquisition, RECIPES["fast"])


@pytest.mark.parametrize("vendor", Vendor)
def test_what_each_vendor_stores_agrees_and_negated_contradicts(phantom, vendor):
    stored = as_stored(phantom, vendor)
    sign = reconstruct(stored, RECIPES["fast"]).sign
    assert sign.verdict == "agreement", sign.words
    against = reconstruct(negated(stored), RECIPES["fast"]).sign
    assert against.verdict == "contradiction", against.words
    assert "swap hemorrhage and calcification" in against.words
    for item, other in zip(sign.evidence, against.evidence, strict=True):
        assert item.weight >= 0 >= other.weight
        assert other.score == pytest.approx(-item.score, abs=1.0)  # rounding, and a reconstruction odd but for noise


def test_evidence_is_odd_in_the_phase(phantom, result):
    sign = check_sign(phantom.acquisition, result.field, result.chi)
    assert sign == result.sign
    against = check_sign(phantom.acquisition, *mirrored(result))
    assert against.verdict == OPPOSITE[sign.verdict]
    for item, other in zip(sign.evidence, against.evidence, strict=True):
        assert other.score == pytest.approx(-item.score, rel=1e-4)
        assert other.weight == pytest.approx(-item.weight, rel=1e-4)


@pytest.mark.parametrize("echoes", [slice(0, 1), slice(3, 4), slice(0, 2)])
def test_one_or_two_echoes_and_a_given_mask_suffice(phantom, echoes):
    scan = phantom.acquisition
    few = replace(scan, magnitude=scan.magnitude[echoes], phase=scan.phase[echoes], te_s=scan.te_s[echoes])
    sign = reconstruct(few, RECIPES["fast"], phantom.brain).sign
    assert sign.verdict == "agreement", sign.words
    assert len(sign.evidence) == len(few.te_s)


def test_an_oblique_head_and_turned_arrays_agree():
    scan = simulate(head(103), replace(PROTOCOL, b0_dir=(0.42, -0.3, 0.857)), seed=3)
    result = reconstruct(scan.acquisition, RECIPES["fast"], scan.brain)
    assert result.sign.verdict == "agreement", result.sign.words

    def turned(volume):
        return np.ascontiguousarray(np.moveaxis(volume, (-3, -2, -1), (-2, -1, -3))[..., ::-1, :, :])

    affine = scan.acquisition.geometry.affine_mm
    axes = affine[:, [2, 0, 1, 3]].copy()  # slices first, from the last to the first: a sagittal stack
    axes[:, 3] += axes[:, 0] * (PROTOCOL.shape[2] - 1)
    axes[:, 0] *= -1
    geometry = Geometry((PROTOCOL.shape[2], *PROTOCOL.shape[:2]), axes)
    acquisition = replace(
        scan.acquisition,
        magnitude=turned(scan.acquisition.magnitude),
        phase=turned(scan.acquisition.phase),
        geometry=geometry,
    )
    field = replace(result.field, **{n: turned(getattr(result.field, n)) for n in ("field_hz", "r2s_hz")})
    chi = replace(result.chi, chi_ppm=turned(result.chi.chi_ppm), mask=turned(result.chi.mask))
    sign = check_sign(acquisition, field, chi)
    assert sign.verdict == "agreement", sign.words
    assert sign.evidence[0].score > 4  # not the same: from the other end, other voxels are looked at
    assert sign.evidence[1].score == result.sign.evidence[1].score


def test_what_is_no_head_gives_no_evidence(phantom, result):
    magnitude, wide = phantom.acquisition.magnitude, Geometry.of(PROTOCOL.shape, (4.0, 4.0, 4.0))
    sign = check_sign(replace(phantom.acquisition, geometry=wide), result.field, result.chi)
    assert (sign.verdict, sign.evidence) == ("no evidence", ())
    assert "farther than a brain" in sign.words
    body = np.full_like(magnitude, magnitude.max())
    sign = check_sign(replace(phantom.acquisition, magnitude=body), result.field, result.chi)
    assert sign.verdict == "no evidence"
    small = np.zeros_like(result.chi.mask)
    small[40:60, 40:60, 30:45] = True
    sign = check_sign(phantom.acquisition, result.field, replace(result.chi, mask=small))
    assert sign.verdict == "no evidence"
    assert "less than a brain" in sign.words


def test_the_dark_around_a_brain_cut_out_is_no_air(phantom, result):
    cut = np.where(result.brain, phantom.acquisition.magnitude, np.float32(0))
    sign = check_sign(replace(phantom.acquisition, magnitude=cut), result.field, result.chi)
    assert "nothing but the brain" in sign.evidence[0].words
    assert sign.evidence[0].weight == 0


def test_a_field_of_other_size_or_none_is_no_evidence(phantom, result):
    for factor in (0.0, 0.1, 10.0):  # of nothing, of a wrong scale
        field = replace(result.field, field_hz=np.float32(factor) * result.field.field_hz)
        assert check_sign(phantom.acquisition, field, result.chi).evidence[0].weight == 0


def blobs(centres, radius):
    """Balls on a grid of 80 voxels along each edge."""
    grid = np.indices((80, 80, 80))
    return np.any([sum((g - c) ** 2 for g, c in zip(grid, at, strict=True)) <= radius**2 for at in centres], axis=0)


def test_one_calcification_counts_as_one_place():
    brain = blobs([(40, 40, 40)], 36)
    veins = blobs([(x, y, z) for x in (28, 36, 44) for y in (28, 36, 44) for z in (52, 58)], 1)
    stone = blobs([(40, 40, 30)], 12)
    chi = np.where(stone, -1.0, np.where(veins, 0.3, 0.0)).astype(np.float32)
    r2s = np.where(stone | veins, 60.0, 18.0).astype(np.float32)
    assert np.count_nonzero(stone) > 10 * np.count_nonzero(veins)
    found = iron_evidence(chi, r2s, brain, (2.0, 2.0, 2.0), 127.7)
    assert found.weight == 1
    assert "of 19 places deep in the brain that decay fast, 18 are paramagnetic" in found.words
    assert iron_evidence(-chi, r2s, brain, (2.0, 2.0, 2.0), 127.7).weight == -1
    many = iron_evidence(
        np.where(brain & (np.indices(brain.shape)[0] > 40), -chi, chi), r2s, brain, (2.0,) * 3, 127.7
    )
    assert many.weight == 0  # two of three say paramagnetic: a patient with many calcifications


def test_air_field_is_that_of_a_ball():
    r = (np.indices((64, 64, 64)) - 31.5) * 3.0
    distance = np.sqrt((r**2).sum(axis=0))
    b0 = np.array([0.6, 0.0, 0.8])
    field = air_field(distance < 24, (3.0, 3.0, 3.0), tuple(b0))
    cosine = np.tensordot(b0, r, 1) / distance
    expected = AIR_PPM / 3 * (24 / distance) ** 3 * (3 * cosine**2 - 1)
    shell = (distance > 36) & (distance < 70)
    error = field[shell] - expected[shell]
    assert np.std(error) < 0.06 * np.std(expected[shell])  # voxels of 3 mm, images of the ball in 288 mm


def test_no_shim_field_is_left():
    rng = np.random.default_rng(1)
    places = rng.uniform(-70, 70, (2000, 3))
    x, y, z = places.T / 100
    shim = 3 + x - 2 * y + x * z - 4 * z**2 + x * y * z + 2 * y**3
    values = np.stack([shim, x**5], axis=1)
    left = without_shim(values, places)
    assert np.abs(left[:, 0]).max() < 1e-9
    assert np.std(left[:, 1]) > 0.05 * np.std(values[:, 1])


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.floats(-2, 2))
def test_jackknife_knows_the_error_of_its_slope(seed, truth):
    rng = np.random.default_rng(seed)
    region = np.repeat(np.arange(40), 50)
    x = rng.normal(size=2000)
    shared = rng.normal(size=(40, 1)) * x.reshape(40, 50)  # the error of a region is common to its voxels
    slope, error = jackknifed_slope(x, truth * x + shared.ravel(), region)
    assert abs(slope - truth) < 5 * error
    assert 0.08 < error < 0.3  # 1 / sqrt(40), with the scatter of 39 degrees of freedom
    opposite = jackknifed_slope(x, -(truth * x + shared.ravel()), region)
    assert opposite == pytest.approx((-slope, error), rel=1e-9)


@pytest.mark.parametrize(
    ("weight", "verdict"),
    [(1.0, "agreement"), (1.6, "agreement"), (0.7, "no evidence"), (0.0, "no evidence"), (-1.0, "contradiction")],
)
def test_evidence_against_evidence_is_none(weight, verdict):
    assert joint(weight) == verdict


def test_block_means():
    volume = np.random.default_rng(0).normal(size=(7, 4, 6)).astype(np.float32)
    mean = block_mean(volume, (2, 1, 3))
    assert mean.shape == (4, 4, 2)
    assert mean[1, 2, 1] == pytest.approx(volume[2:4, 2, 3:6].mean(), rel=1e-5)


def test_too_little_brain_for_the_air():
    none = np.zeros((20, 20, 20), bool)
    zeros = np.zeros((20, 20, 20), np.float32)
    assert air_evidence(none, zeros, ~none, (3.0, 3.0, 3.0), (0.0, 0.0, 1.0)).weight == 0


@pytest.mark.parametrize(
    ("case", "verdict"),
    [("philips-classic-2echo-head", "agreement"), ("ge-3d-2echo-mag-real-imag", "no evidence")],
)
def test_real_files(vendor_data, case, verdict):
    paths = sorted(p for p in (vendor_data / case).rglob("*") if p.is_file() and p.suffix not in (".md", ".txt"))
    acquisition = load(paths).acquisition
    assert reconstruct(acquisition, RECIPES["fast"]).sign.verdict == verdict
    assert reconstruct(negated(acquisition), RECIPES["fast"]).sign.verdict == OPPOSITE[verdict]
