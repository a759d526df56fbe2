"""The scores of a map: agreement with the public scorer of QSM-CI, examples worked by hand, laws."""

from __future__ import annotations

import importlib
import os
from dataclasses import astuple, fields, replace
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phantoms import metrics
from phantoms.anatomy import head
from phantoms.lesions import Lesion
from phantoms.protocol import SMALL_PROTOCOL
from phantoms.score import Scores, nrmse_percent, scores, tissue_rmse_ppb
from phantoms.simulate import Phantom, PlacedLesion, simulate
from recon.pipeline import reconstruct
from recon.types import BadInput

GREY, CALCIFICATION = 8, 16
"""Labels of the scorer: grey matter is among its tissues."""

seeds = st.integers(0, 2**32 - 1)
laws = settings(max_examples=10, deadline=None, derandomize=True)


# ---------------------------------------------------------------------------------------------- the public scorer


@pytest.fixture(scope="module")
def scorer() -> ModuleType:
    """The scorer of the package qsm-ci, one of the test requirements."""
    try:
        return importlib.import_module("qsm_ci.qsm_eval")
    except ModuleNotFoundError as error:
        reason = f"{error}: pip install --require-hashes -r requirements/test.txt"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)


@pytest.fixture(scope="module")
def case() -> SimpleNamespace:
    """A reconstructed map of a head with one calcification and one hemorrhage, its truth and its masks."""
    lesions = (
        Lesion("calcification", -1.2, (32.0, -35.0, 20.0), (8.0, 7.0, 8.0)),
        Lesion("hemorrhage", 0.7, (-30.0, 20.0, 20.0), (8.0, 8.0, 7.0)),
    )
    protocol = replace(SMALL_PROTOCOL, shape=(64, 72, 48), voxel_mm=(3.2, 3.0, 3.2), te_s=SMALL_PROTOCOL.te_s[:4])
    phantom = simulate(head(105, lesions), protocol, 105)
    chi_ppm = reconstruct(phantom.acquisition, mask=phantom.brain).chi.chi_ppm
    brain, calcification = phantom.brain, phantom.lesions[0].mask
    grey = phantom.brain & (phantom.chi_ppm > 0.02)
    assert np.count_nonzero(calcification) > 40
    assert np.count_nonzero(grey & ~calcification) > 1000
    return SimpleNamespace(
        chi=np.where(brain, chi_ppm, 0).astype(np.float64),
        truth=np.where(brain, phantom.chi_ppm, 0).astype(np.float64),
        brain=brain,
        calcification=calcification,
        grey=grey & ~calcification,
        everywhere=np.ones_like(brain),
    )


def test_agreement_with_the_public_scorer(scorer: ModuleType, case: SimpleNamespace) -> None:
    """Every figure that both have, to 1e-6 of its size; the calcification's over the whole array, as there."""
    labels = np.where(case.calcification, CALCIFICATION, np.where(case.grey, GREY, 0))
    known, _ = scorer.score_arrays(case.chi, case.truth, case.brain, "chi", labels)
    maps = case.chi, case.truth
    moment = metrics.calcification_moment(case.chi, case.calcification, case.everywhere)
    found = {
        "nrmse": metrics.nrmse_percent(*maps, case.brain),
        "nrmse_detrend": metrics.detrended_percent(*maps, case.brain),
        "nrmse_tissue": metrics.detrended_percent(*maps, case.grey),
        "hfen": metrics.hfen_percent(*maps, case.brain),
        "xsim": metrics.xsim(*maps, case.brain),
        "calc_moment_dev": abs(moment - case.truth[case.calcification].sum()),
        "calc_streak": metrics.streak_level(*maps, case.calcification, case.everywhere),
    }
    assert min(found.values()) > 1e-3
    assert found == pytest.approx({name: known[name] for name in found}, rel=1e-6)
    assert found["nrmse_detrend"] == pytest.approx(100 * np.sqrt(known["correlation"] ** -2 - 1), rel=1e-6)


def test_agreement_at_the_ends_of_the_array(scorer: ModuleType) -> None:
    """A mask and a calcification that reach the array's ends, maps that are not 0 outside the mask."""
    rng = np.random.default_rng(3)
    truth, noise = 0.05 * rng.normal(size=(2, 17, 15, 16))
    mask = np.ones(truth.shape, dtype=np.bool_)
    mask[:, :3] = False
    calcification = np.zeros_like(mask)
    calcification[2:5, 4:7, 0:3] = True
    truth[calcification] -= 1
    chi = 0.8 * truth + 0.3 * noise + 0.01
    known, _ = scorer.score_arrays(chi, truth, mask, "chi", np.where(calcification, CALCIFICATION, 0))
    assert metrics.hfen_percent(chi, truth, mask) == pytest.approx(known["hfen"], rel=1e-6)
    assert metrics.xsim(chi, truth, mask) == pytest.approx(known["xsim"], rel=1e-6)
    chi, truth = np.where(mask, chi, 0), np.where(mask, truth, 0)
    streak = metrics.streak_level(chi, truth, calcification, np.ones_like(mask))
    assert streak == pytest.approx(known["calc_streak"], rel=1e-6)


# ------------------------------------------------------------------------------------------ examples worked by hand


def line(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)[:, None, None]


def test_errors_worked_by_hand() -> None:
    """t = -1, 0, 1 and x = -8/3, 4/3, 4/3 without their means.

    |x - t|^2 = 42/9 over |t|^2 = 2: sqrt(7/3) = 152.753 %. Slope 2, so (x - b) / a = -4/3, 2/3, 2/3, which is off by
    -1/3, 2/3, -1/3: 6/9 over 2, sqrt(1/3) = 57.735 %.
    """
    chi, truth, mask = line(0, 4, 4, 99), line(0, 1, 2, -99), line(1, 1, 1, 0) > 0
    assert metrics.nrmse_percent(chi, truth, mask) == pytest.approx(152.7525, abs=1e-3)
    assert metrics.detrended_percent(chi, truth, mask) == pytest.approx(57.7350, abs=1e-3)


def test_detrended_error_of_a_map_without_the_truth_is_infinite() -> None:
    assert metrics.detrended_percent(line(1, -2, 1), line(-1, 0, 1), line(1, 1, 1) > 0) == np.inf


def test_high_frequency_error_of_two_waves() -> None:
    """LoG of cos(k x) is -k^2 exp(-k^2 s^2 / 2) cos(k x), s = 1.5.

    Truth cos(pi x / 8), error 0.1 cos(pi x / 4): 100 x 0.1 x 4 exp(-3 (pi / 8)^2 s^2 / 2) = 23.770 %. The kernel is
    sampled, to 0.2 %.
    """
    x = (np.arange(32) + 0.5)[:, None, None] * np.ones((1, 16, 16))
    truth, error = np.cos(np.pi * x / 8), 0.1 * np.cos(np.pi * x / 4)
    mask = np.ones(truth.shape, dtype=np.bool_)
    assert metrics.hfen_percent(truth + error, truth, mask) == pytest.approx(23.770, rel=2e-3)


def test_structural_similarity_worked_by_hand() -> None:
    """Constants 0.02 and 0.01: (2 x 2e-4 + 1e-4) / (4e-4 + 1e-4 + 1e-4) = 5/6, at the array's ends too.

    Nothing against one voxel of 0.1: m = 8e-4, m^2 = 6.4e-7, s_tt = 0.01 / 125 - m^2 = 7.936e-5; in that voxel
    1e-4 / 1.0064e-4 x 1e-6 / 8.036e-5 = 0.0123649.
    """
    ones = np.ones((7, 6, 5), dtype=np.float32)
    assert metrics.xsim(0.02 * ones, 0.01 * ones, ones > 0) == pytest.approx(5 / 6, rel=1e-5)
    one = np.zeros((9, 9, 9), dtype=np.float64)
    one[4, 4, 4] = 0.1
    assert metrics.xsim(0 * one, one, one > 0) == pytest.approx(0.0123649, abs=1e-7)


@pytest.fixture
def stone() -> SimpleNamespace:
    """A calcification of 2^3 voxels, -0.8 in the map and -1 in truth, rim of -0.01 and 0.01 by turns along z."""
    shape = (24, 24, 24)
    truth = np.zeros(shape)
    truth[:] = 0.01 * np.arange(24)[:, None, None]
    mask = np.zeros(shape, dtype=np.bool_)
    mask[11:13, 11:13, 11:13] = True
    chi = 0.02 + 2 * truth + 0.01 * (-1.0) ** np.arange(24)
    truth[mask], chi[mask] = -1, -0.8
    return SimpleNamespace(chi=chi, truth=truth, mask=mask, everywhere=np.ones_like(mask))


def test_calcification_moment_worked_by_hand(stone: SimpleNamespace) -> None:
    """8 x -0.8; a neighbour of -0.3 belongs to it unless something around is as low; a distant one never does.

    A voxel of -0.295 around sets the threshold to -0.3, and -0.3 is not below it.
    """

    def moment() -> float:
        return metrics.calcification_moment(stone.chi, stone.mask, stone.everywhere)

    assert moment() == pytest.approx(-6.4)
    stone.chi[9, 11, 11] = -0.3
    assert moment() == pytest.approx(-6.7)
    stone.chi[2, 11, 11] = -0.295
    assert moment() == pytest.approx(-6.4)
    stone.everywhere[2, 11, 11] = False
    assert moment() == pytest.approx(-6.7)
    stone.chi[20, 20, 20] = -0.9
    assert moment() == 0


def test_streak_level_worked_by_hand(stone: SimpleNamespace) -> None:
    """The map's 2 t is fitted away, +-0.01 remain: 0.01 / 0.8. What is 8 voxels away does not count."""

    def streak() -> float:
        return metrics.streak_level(stone.chi, stone.truth, stone.mask, stone.everywhere)

    assert streak() == pytest.approx(0.0125)
    stone.chi[:4] += 5
    stone.chi[8:16, 8:16, 8:16][~stone.mask[8:16, 8:16, 8:16]] = 1
    assert streak() == pytest.approx(0.0125)
    stone.chi[4] += 5
    assert streak() > 0.1
    stone.chi[3, 3, 3] = -1
    assert streak() == np.inf
    assert np.isnan(metrics.streak_level(stone.chi, stone.truth, stone.mask, stone.mask))


# ------------------------------------------------------------------------------------------------------------ laws


def random_maps(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    chi, truth = rng.normal(scale=0.05, size=(2, 14, 12, 13))
    return chi + truth, truth, rng.random(chi.shape) < 0.8


@given(seeds)
@laws
def test_a_perfect_map_has_no_error(seed: int) -> None:
    _, truth, mask = random_maps(seed)
    for error in (metrics.nrmse_percent, metrics.detrended_percent, metrics.hfen_percent):
        assert error(truth, truth, mask) == pytest.approx(0, abs=1e-9)
    assert metrics.xsim(truth, truth, mask) == pytest.approx(1, abs=1e-12)


@given(seeds, st.floats(0.1, 10), st.floats(-1, 1))
@laws
def test_scale_and_constant(seed: int, scale: float, constant: float) -> None:
    """No constant moves the demeaned error, no scale the detrended one; an error grows with what is wrong."""
    chi, truth, mask = random_maps(seed)
    nrmse, detrended = metrics.nrmse_percent(chi, truth, mask), metrics.detrended_percent(chi, truth, mask)
    assert metrics.nrmse_percent(chi + constant, truth, mask) == pytest.approx(nrmse, rel=1e-9)
    assert metrics.detrended_percent(scale * chi + constant, truth, mask) == pytest.approx(detrended, rel=1e-9)
    further = truth + scale * (chi - truth)
    assert metrics.nrmse_percent(further, truth, mask) == pytest.approx(scale * nrmse, rel=1e-9)
    hfen = metrics.hfen_percent(chi, truth, mask)
    assert metrics.hfen_percent(further, truth, mask) == pytest.approx(scale * hfen, rel=1e-9)
    assert metrics.nrmse_percent(scale * truth, truth, mask) == pytest.approx(100 * abs(scale - 1), abs=1e-9)


@given(seeds)
@laws
def test_similarity_is_symmetric_and_at_most_1(seed: int) -> None:
    chi, truth, mask = random_maps(seed)
    found = metrics.xsim(chi, truth, mask)
    assert found == pytest.approx(metrics.xsim(truth, chi, mask), rel=1e-12)
    assert found < 1


@given(seeds)
@laws
def test_what_lies_outside_the_mask_does_not_count(seed: int) -> None:
    chi, truth, mask = random_maps(seed)
    other = np.where(mask, chi, 7.0)
    for figure in (metrics.nrmse_percent, metrics.detrended_percent, metrics.hfen_percent, metrics.xsim):
        assert figure(other, truth, mask) == figure(chi, truth, mask)


# ---------------------------------------------------------------------------------------------------- whole scores

STRONG, FAINT, STONE, PALE = range(4)


def phantom_of(placed: tuple[PlacedLesion, ...], chi_ppm: np.ndarray) -> Phantom:
    """A cube of brain of 1 mm voxels."""
    brain = np.zeros(chi_ppm.shape, dtype=np.bool_)
    brain[2:-2, 2:-2, 2:-2] = True
    protocol = replace(SMALL_PROTOCOL, shape=chi_ppm.shape, voxel_mm=(1.0, 1.0, 1.0))
    return Phantom(None, chi_ppm, brain, None, (), placed, protocol, 0, 0)


@pytest.fixture
def phantom() -> Phantom:
    """Noise of 5 ppb around four cubes: bleedings of 0.8 and 0.3 ppm, calcifications of -1 and -0.3 ppm."""
    rng = np.random.default_rng(11)
    chi_ppm = rng.normal(scale=0.005, size=(48, 48, 48)).astype(np.float32)
    placed = []
    for kind, value, corner, edge in (
        ("hemorrhage", 0.8, (10, 10, 10), 5),
        ("hemorrhage", 0.3, (30, 10, 10), 3),
        ("calcification", -1.0, (10, 30, 30), 4),
        ("calcification", -0.3, (32, 32, 32), 11),
    ):
        mask = np.zeros(chi_ppm.shape, dtype=np.bool_)
        mask[tuple(slice(c, c + edge) for c in corner)] = True
        chi_ppm[mask] = value
        placed.append(PlacedLesion(SimpleNamespace(kind=kind), mask, float(edge**3), value))
    return phantom_of(tuple(placed), chi_ppm)


def test_scores_of_the_truth_are_perfect(phantom: Phantom) -> None:
    """Also where it lies higher by a constant."""
    for found in (scores(phantom.chi_ppm, phantom), scores(phantom.chi_ppm + np.float32(0.25), phantom)):
        perfect = {"xsim": 1, "lesion_slope": 1}
        for field in fields(Scores):
            if field.name != "sizes":
                expected = perfect.get(field.name, 0)
                assert getattr(found, field.name) == pytest.approx(expected, abs=1e-3), field.name
        assert [(size.count, size.slope) for size in found.sizes] == [(1, pytest.approx(1)), (2, pytest.approx(1)),
                                                                     (1, pytest.approx(1))]  # fmt: skip


def test_no_constant_moves_a_score(phantom: Phantom) -> None:
    rng = np.random.default_rng(12)
    chi_ppm = 0.9 * phantom.chi_ppm + rng.normal(scale=0.01, size=phantom.chi_ppm.shape).astype(np.float32)
    for name, once, again in zip(
        [field.name for field in fields(Scores)],
        astuple(scores(chi_ppm, phantom)),
        astuple(scores(chi_ppm - np.float32(0.4), phantom)),
        strict=True,
    ):
        if name != "sizes":
            assert again == pytest.approx(once, rel=1e-3, abs=1e-3), name


def test_scores_agree_with_the_single_functions(phantom: Phantom) -> None:
    rng = np.random.default_rng(13)
    chi_ppm = phantom.chi_ppm + rng.normal(scale=0.01, size=phantom.chi_ppm.shape).astype(np.float32)
    found = scores(chi_ppm, phantom)
    assert found.nrmse_percent == pytest.approx(nrmse_percent(chi_ppm, phantom), rel=1e-6)
    assert found.tissue_rmse_ppb == tissue_rmse_ppb(chi_ppm, phantom) == pytest.approx(10, rel=0.02)


def test_lesions_at_nine_tenths(phantom: Phantom) -> None:
    """Slope 0.9; mean of -0.1 t over 0.8, 0.3, -1 and -0.3 is 5 ppb, over each class 80, -30, 20 and 30 ppb.

    The healthy mean of truth is 0 to 0.05 ppb.
    """
    chi_ppm = phantom.chi_ppm.copy()
    for placed in phantom.lesions:
        chi_ppm[placed.mask] *= 0.9
    found = scores(chi_ppm, phantom)
    assert (found.lesion_slope, found.lesion_bias_ppb) == pytest.approx((0.9, 5), abs=0.01)
    names = ["below 60 mm3", "60 to 1000 mm3", "above 1000 mm3"]
    assert [(size.name, size.count) for size in found.sizes] == list(zip(names, (1, 2, 1), strict=True))
    assert [size.bias_ppb for size in found.sizes] == pytest.approx([-30, 10, 30], abs=0.01)
    assert found.lesion_percent == pytest.approx(0, abs=0.1)
    assert found.shadow_ppb == pytest.approx(0, abs=0.01)
    assert found.moment_deviation_percent == pytest.approx(10, abs=0.01)


def test_shadow_and_halo_worked_by_hand(phantom: Phantom) -> None:
    """-40 ppb in all voxels at 1 to 3 voxels from the 0.8 ppm bleeding, +20 ppb at 2 to 8 mm from the -1 ppm stone.

    Halo: mean of 40 / 800 and 20 / 1000 = 3.5 %. Shadow: root mean square over the voxels from 1 to 8 mm from both.
    What touches the lesions, or surrounds the weak ones, does not count. A voxel far away keeps the healthy mean.
    """
    index = np.indices(phantom.brain.shape)

    def distance(corner: tuple[int, int, int], edge: int) -> np.ndarray:
        """Squared, from the voxels of a cube, 0 inside."""
        outside = (np.maximum(c - i, i - c - edge + 1) for i, c in zip(index, corner, strict=True))
        return sum(np.maximum(0, steps) ** 2 for steps in outside)

    to_bleeding, to_stone = distance((10, 10, 10), 5), distance((10, 30, 30), 4)
    bleeding_shell = (to_bleeding > 1) & (to_bleeding <= 9)
    stone_shell = (to_stone > 1) & (to_stone <= 64)
    error = np.where(bleeding_shell, -0.04, 0) + np.where(stone_shell & phantom.brain, 0.02, 0)
    error[distance((30, 10, 10), 3) == 1] = 0.5
    error[(to_bleeding == 1) | (to_stone == 1)] = -0.5
    around = phantom.brain & ((to_bleeding > 1) & (to_bleeding <= 64) | stone_shell)
    expected_ppb = 1000 * np.sqrt(np.mean(error[around] ** 2))
    lesions = np.logical_or.reduce([placed.mask for placed in phantom.lesions])
    error[44, 3, 44] -= error[phantom.brain & ~lesions].sum()
    found = scores(phantom.chi_ppm + error.astype(np.float32), phantom)
    assert found.halo_percent == pytest.approx(3.5, abs=1e-3)
    assert found.shadow_ppb == pytest.approx(expected_ppb, rel=1e-4)


def test_a_second_calcification_does_not_hide_a_faint_one(phantom: Phantom) -> None:
    """The faint one at half: (11^3 x 0.15) / (4^3 x 1 + 11^3 x 0.3) = 43.092 %; lost in a dark voxel, 86.184 %."""
    chi_ppm = phantom.chi_ppm.copy()
    chi_ppm[phantom.lesions[PALE].mask] /= 2
    assert scores(chi_ppm, phantom).moment_deviation_percent == pytest.approx(43.092, abs=0.01)
    chi_ppm[28, 28, 28] = -0.5
    found = scores(chi_ppm, phantom)
    assert found.moment_deviation_percent == pytest.approx(86.184, abs=0.01)
    assert found.streak_level == np.inf


def test_mixed_lesions_and_faint_ones_have_no_moment_and_no_shadow(phantom: Phantom) -> None:
    mixed = replace(phantom.lesions[STONE], lesion=SimpleNamespace(kind="mixed"), mean_chi_ppm=-0.2)
    found = scores(phantom.chi_ppm, replace(phantom, lesions=(phantom.lesions[FAINT], mixed)))
    assert np.isnan([found.moment_deviation_percent, found.streak_level, found.shadow_ppb, found.halo_percent]).all()
    assert found.lesion_slope == pytest.approx(1)


def test_scores_without_lesions(phantom: Phantom) -> None:
    rng = np.random.default_rng(14)
    found = scores(phantom.chi_ppm + rng.normal(scale=0.01, size=phantom.brain.shape).astype(np.float32),
                   replace(phantom, lesions=()))  # fmt: skip
    undefined = {
        "lesion_percent", "lesion_slope", "lesion_bias_ppb", "shadow_ppb", "halo_percent",
        "moment_deviation_percent", "streak_level",
    }  # fmt: skip
    assert {f.name for f in fields(Scores) if f.name != "sizes" and np.isnan(getattr(found, f.name))} == undefined
    assert [size.count for size in found.sizes] == [0, 0, 0]


def test_scores_refuse_another_shape(phantom: Phantom) -> None:
    with pytest.raises(BadInput, match="shape"):
        scores(phantom.chi_ppm[1:], phantom)
