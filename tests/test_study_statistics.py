"""The statistics of the reading study: examples worked by hand, laws, and what degenerate data give."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from phantoms.study.statistics import (
    bootstrap,
    clustered_mcnemar,
    clustered_proportion,
    cross_table,
    f_test,
    kappa,
    loglog,
    paired_t,
    table_kappa,
)
from recon.types import BadInput

OUTCOMES = ("hemorrhage", "calcification", "neither")

laws = settings(max_examples=60, deadline=None, derandomize=True)
clusters = st.lists(
    st.integers(0, 20).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))),
    min_size=1,
    max_size=40,
)
readings = st.lists(st.tuples(st.sampled_from(OUTCOMES), st.sampled_from(OUTCOMES)), min_size=1, max_size=60)


# ----------------------------------------------------------------------------------------------------- proportions


def test_proportion_worked_by_hand() -> None:
    """x = 2, 1, 3 of n = 2, 2, 4, and a patient without a lesion.

    p = 6 / 8 = 0.75; x - n p = 0.5, -0.5, 0; variance 3 / 2 (0.25 + 0.25) / 64 = 0.01171875, sd 0.1082532;
    0.75 -+ 1.959964 sd = 0.5378277 and 0.9621723.
    """
    found = clustered_proportion([2, 1, 0, 3], [2, 2, 0, 4])
    assert found.value == 0.75
    assert (found.low, found.high) == pytest.approx((0.5378277, 0.9621723), abs=1e-7)
    assert found.clusters == 3


def test_proportion_at_its_ends_is_that_of_whole_patients() -> None:
    """3 of 3 patients: the lower end is 0.025^(1/3) = 0.2924018, whatever the number of lesions."""
    for totals in ([1, 1, 1], [40, 1, 7]):
        all_right, none_right = clustered_proportion(totals, totals), clustered_proportion([0, 0, 0], totals)
        assert (all_right.low, all_right.high) == pytest.approx((0.2924018, 1), abs=1e-7)
        assert (none_right.low, none_right.high) == pytest.approx((0, 1 - 0.2924018), abs=1e-7)


def test_proportion_of_one_lesion_per_patient_is_the_binomial_with_m_minus_1() -> None:
    """var = p (1 - p) / (m - 1): 7 of 10 give sqrt(0.21 / 9)."""
    found = clustered_proportion([1] * 7 + [0] * 3, [1] * 10)
    assert found.high - found.value == pytest.approx(1.959964 * np.sqrt(0.21 / 9), rel=1e-6)


def test_proportion_of_one_patient_knows_nothing() -> None:
    found = clustered_proportion([2, 0], [5, 0])
    assert (found.value, found.low, found.high, found.clusters) == (0.4, 0, 1, 1)


@given(clusters)
@laws
def test_proportion_lies_in_its_interval(counts: list[tuple[int, int]]) -> None:
    hits, totals = zip(*counts, strict=True)
    assume(sum(totals) > 0)
    found = clustered_proportion(hits, totals)
    assert 0 <= found.low <= found.value <= found.high <= 1
    misses = clustered_proportion([n - x for x, n in counts], totals)
    assert (misses.low, misses.high) == pytest.approx((1 - found.high, 1 - found.low), abs=1e-12)


@given(clusters)
@laws
def test_every_patient_twice_halves_the_variance(counts: list[tuple[int, int]]) -> None:
    """Up to m / (m - 1), which becomes 2 m / (2 m - 1)."""
    hits, totals = zip(*counts, strict=True)
    m = np.count_nonzero(totals)
    assume(m >= 2)
    once, twice = clustered_proportion(hits, totals), clustered_proportion(2 * hits, 2 * totals)
    assume(once.low > 0 and once.high < 1)
    ratio = np.sqrt((m - 1) / (2 * m - 1))
    assert twice.high - twice.value == pytest.approx(ratio * (once.high - once.value), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("hits", "totals"), [([], []), ([0, 0], [0, 0]), ([1], [1, 2]), ([3], [2]), ([-1], [2])])
def test_proportion_refuses(hits: list[int], totals: list[int]) -> None:
    with pytest.raises(BadInput):
        clustered_proportion(hits, totals)


# --------------------------------------------------------------------------------------------------------- McNemar


def test_mcnemar_worked_by_hand() -> None:
    """d = 2, 1, 0, -1: sum 2, squares 6, chi2 = 4 / (4 / 3 x 6) = 0.5; p = 2 (1 - Phi(sqrt 0.5)) = 0.4795001."""
    found = clustered_mcnemar([2, 1, 0, -1])
    assert found.statistic == pytest.approx(0.5, rel=1e-12)
    assert found.p == pytest.approx(0.4795001, abs=1e-7)
    assert found.dof == (1,)


@given(st.lists(st.sampled_from([-1, 0, 1]), min_size=2, max_size=100))
@laws
def test_mcnemar_of_one_lesion_per_patient_is_the_uncorrected_one(differences: list[int]) -> None:
    b, c, m = differences.count(1), differences.count(-1), len(differences)
    assume(b + c > 0)
    assert clustered_mcnemar(differences).statistic == pytest.approx((b - c) ** 2 / (b + c) * (m - 1) / m, rel=1e-12)


@given(st.lists(st.integers(-9, 9), min_size=1, max_size=60))
@laws
def test_mcnemar_does_not_care_which_method_comes_first(differences: list[int]) -> None:
    found = clustered_mcnemar(differences)
    assert found == clustered_mcnemar([-d for d in differences])
    assert 0 <= found.p <= 1


@pytest.mark.parametrize("differences", [[0, 0, 0], [3]], ids=["no discordance", "one patient"])
def test_mcnemar_without_evidence(differences: list[int]) -> None:
    found = clustered_mcnemar(differences)
    assert (found.statistic, found.p) == (0, 1)


def test_mcnemar_refuses_no_patient() -> None:
    with pytest.raises(BadInput):
        clustered_mcnemar([])


# ----------------------------------------------------------------------------------------------------------- kappa


def test_kappa_worked_by_hand() -> None:
    """Table 20 5 0 / 10 15 0 / 0 0 0 of 50: p_o = 35 / 50, p_e = (25 x 30 + 25 x 20) / 2500 = 0.5, kappa 0.4."""
    pairs = [(0, 0)] * 20 + [(0, 1)] * 5 + [(1, 0)] * 10 + [(1, 1)] * 15
    first, second = ([OUTCOMES[pair[which]] for pair in pairs] for which in (0, 1))
    np.testing.assert_array_equal(cross_table(first, second, OUTCOMES), [[20, 5, 0], [10, 15, 0], [0, 0, 0]])
    assert kappa(first, second, OUTCOMES) == pytest.approx(0.4, rel=1e-12)


@given(readings)
@laws
def test_kappa_is_symmetric_and_does_not_care_for_names(pairs: list[tuple[str, str]]) -> None:
    first, second = zip(*pairs, strict=True)
    found = kappa(first, second, OUTCOMES)
    assert found == kappa(second, first, OUTCOMES)
    assert found == kappa(first, second, OUTCOMES[::-1])
    assert found <= 1
    assert kappa(first, first, OUTCOMES) == 1


def test_kappa_of_independent_readers_is_zero() -> None:
    """Rows in the same proportions, 2 : 1 : 1."""
    assert table_kappa(np.array([[8, 4, 4], [2, 1, 1], [4, 2, 2]])) == pytest.approx(0, abs=1e-12)


def test_kappa_refuses() -> None:
    with pytest.raises(BadInput, match="empty"):
        kappa([], [], OUTCOMES)
    with pytest.raises(BadInput, match="3 lesions, the second 2"):
        kappa(OUTCOMES, OUTCOMES[:2], OUTCOMES)
    with pytest.raises(BadInput, match="vein"):
        kappa(["vein"], ["neither"], OUTCOMES)


# ------------------------------------------------------------------------------------------------------- bootstrap


def test_bootstrap_of_two_patients_worked_by_hand() -> None:
    """1 of 1 and 0 of 1: a draw has a share of 0, 1/2 or 1 with probability 1/4, 1/2, 1/4, so 95 % reach from 0 to 1.

    With the first patient 3 of 4 the draws are 0, 3/5 and 3/4 (hits and misses are counted, not patients).
    """

    def share(counts: np.ndarray) -> float:
        return float(counts[0] / counts.sum())

    found = bootstrap([np.array([1, 0]), np.array([0, 1])], share, 400, 1)
    assert (found.value, found.low, found.high) == (0.5, 0, 1)
    found = bootstrap([np.array([3, 1]), np.array([0, 1])], share, 400, 1)
    assert (found.value, found.low, found.high) == (0.6, 0, 0.75)


def test_bootstrap_agrees_with_the_normal_interval_of_a_proportion() -> None:
    """A ratio of sums over 200 patients; both ends within a tenth of the interval's width."""
    rng = np.random.default_rng(5)
    totals = rng.integers(1, 9, 200)
    hits = rng.binomial(totals, rng.beta(4, 2, 200))
    normal = clustered_proportion(hits.tolist(), totals.tolist())
    tables = list(np.stack([hits, totals], axis=1))
    found = bootstrap(tables, lambda counts: float(counts[0] / counts[1]), 2000, 3)
    assert found.value == pytest.approx(normal.value, rel=1e-12)
    tolerance = (normal.high - normal.low) / 10
    assert (found.low, found.high) == pytest.approx((normal.low, normal.high), abs=tolerance)


def test_two_kappas_share_the_draws() -> None:
    """The difference of a kappa and itself is 0 in every draw; of readings of unlike quality it is above 0."""
    rng = np.random.default_rng(7)
    good, poor = [], []
    for _ in range(38):
        truth = rng.integers(0, 3, rng.integers(1, 9))
        good.append(reread(rng, truth, 0.05))
        poor.append(reread(rng, truth, 0.5))

    def gain(stack: np.ndarray) -> float:
        return table_kappa(stack[0]) - table_kappa(stack[1])

    same = bootstrap([np.stack([table, table]) for table in good], gain, 200, 1)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    found = bootstrap([np.stack(pair) for pair in zip(good, poor, strict=True)], gain, 2000, 1)
    assert found.value == table_kappa(sum(good)) - table_kappa(sum(poor))
    assert 0 < found.low < found.value < found.high
    again = bootstrap([np.stack(pair) for pair in zip(good, poor, strict=True)], gain, 2000, 1)
    assert again == found
    assert bootstrap(good, table_kappa, 200, 1) != bootstrap(good, table_kappa, 200, 2)


def test_bootstrap_leaves_out_patients_without_lesions() -> None:
    tables = [np.diag([2, 0, 1]), np.array([[0, 1, 0], [0, 1, 0], [0, 0, 0]])]
    empty = np.zeros((3, 3), dtype=np.int64)
    assert bootstrap([*tables, empty], table_kappa, 100, 1) == bootstrap(tables, table_kappa, 100, 1)


def test_bootstrap_refuses() -> None:
    table = np.eye(3, dtype=np.int64)
    with pytest.raises(BadInput):
        bootstrap([table, 0 * table], table_kappa, 100, 1)
    with pytest.raises(BadInput):
        bootstrap([table, table], table_kappa, 0, 1)


def reread(rng: np.random.Generator, truth: np.ndarray, error: float) -> np.ndarray:
    """The cross table of two readers, each of whom guesses a share ``error`` of the lesions."""
    first, second = (
        np.where(rng.random(len(truth)) < error, rng.integers(0, 3, len(truth)), truth).tolist() for _ in range(2)
    )
    return cross_table(first, second, (0, 1, 2))


# ---------------------------------------------------------------------------------------- paired t and regressions


def test_paired_t_worked_by_hand() -> None:
    """d = 1, 2, 3: mean 2, sd 1, t = 2 sqrt 3 on 2; quantile 4.302653; 2 -+ 2.484138; p = 0.0741799."""
    found = paired_t([2, 4, 6], [1, 2, 3])
    assert found.test.statistic == pytest.approx(2 * np.sqrt(3), rel=1e-12)
    assert found.test.dof == (2,)
    assert found.test.p == pytest.approx(0.0741799, abs=1e-7)
    assert (found.mean.value, found.mean.low, found.mean.high) == pytest.approx((2, -0.484138, 4.484138), abs=1e-6)


@given(st.lists(st.tuples(st.integers(-50, 50), st.integers(-50, 50)), min_size=3, max_size=30))
@laws
def test_paired_t_is_that_of_scipy(pairs: list[tuple[int, int]]) -> None:
    first, second = zip(*pairs, strict=True)
    assume(len({a - b for a, b in pairs}) > 1)
    found, known = paired_t(first, second), scipy.stats.ttest_rel(first, second)
    assert (found.test.statistic, found.test.p) == pytest.approx((known.statistic, known.pvalue), rel=1e-9, abs=1e-12)
    interval = known.confidence_interval()
    assert (found.mean.low, found.mean.high) == pytest.approx((interval.low, interval.high), rel=1e-9, abs=1e-9)
    assert paired_t(second, first).test.p == pytest.approx(found.test.p, rel=1e-12)


def test_paired_t_without_spread() -> None:
    same, shifted = paired_t([1.1, 2.2], [1.1, 2.2]), paired_t([1, 2], [2, 3])
    assert (same.test.statistic, same.test.p) == (0, 1)
    assert (shifted.test.statistic, shifted.test.p) == (-np.inf, 0)
    assert (shifted.mean.low, shifted.mean.high) == (-1, -1)


@pytest.mark.parametrize(("first", "second"), [([1], [2]), ([1, 2], [1]), ([1, np.nan], [1, 2])])
def test_paired_t_refuses(first: list[float], second: list[float]) -> None:
    with pytest.raises(BadInput):
        paired_t(first, second)


def test_regression_worked_by_hand() -> None:
    """log x = 0, 1, 2, 3 and log y = 1, 1, 3, 3.

    S_xx = 5, S_xy = 4, S_yy = 4: slope 0.8, intercept 2 - 0.8 x 1.5 = 0.8; explained 3.2, residual 0.8: R2 = 0.8,
    s^2 = 0.4, F = 8 on (1, 2), p = 0.1055728 (t = sqrt 8 on 2); half interval 4.302653 sqrt(0.4 / 5) = 1.216974.
    """
    found = loglog([1, 10, 100, 1000], [10, 10, 1000, 1000])
    assert (found.slope.value, found.intercept, found.r2) == pytest.approx((0.8, 0.8, 0.8), rel=1e-12)
    assert found.residual_variance == pytest.approx(0.4, rel=1e-12)
    assert found.test.statistic == pytest.approx(8, rel=1e-12)
    assert found.test.p == pytest.approx(0.1055728, abs=1e-7)
    assert (found.test.dof, found.n) == ((1, 2), 4)
    assert found.slope.high - found.slope.value == pytest.approx(1.216974, abs=1e-6)
    assert found.slope.value - found.slope.low == pytest.approx(1.216974, abs=1e-6)


points = st.lists(st.tuples(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3)), min_size=4, max_size=40)


@given(points, st.floats(1e-2, 1e2))
@laws
def test_regression_does_not_care_for_units(values: list[tuple[float, float]], unit: float) -> None:
    x, y = (np.array(column) for column in zip(*values, strict=True))
    assume(np.ptp(np.log10(x)) > 0.1 and np.ptp(np.log10(y)) > 0.1)
    found, known = loglog(x.tolist(), y.tolist()), scipy.stats.linregress(np.log10(x), np.log10(y))
    assert (found.slope.value, found.intercept) == pytest.approx((known.slope, known.intercept), rel=1e-6, abs=1e-9)
    assert (found.r2, found.test.p) == pytest.approx((known.rvalue**2, known.pvalue), rel=1e-6, abs=1e-9)
    scaled = loglog((unit * x).tolist(), (y / unit).tolist())
    assert (scaled.slope.value, scaled.r2) == pytest.approx((found.slope.value, found.r2), rel=1e-6, abs=1e-9)
    assert 0 <= found.r2 <= 1


def test_regression_of_a_power_law_and_of_a_constant() -> None:
    x = np.array([0.5, 3.0, 20.0, 700.0])
    law = loglog(x.tolist(), (3 * x**0.7).tolist())
    assert (law.slope.value, law.intercept, law.r2) == pytest.approx((0.7, np.log10(3), 1), rel=1e-12)
    assert law.test.p < 1e-12
    flat = loglog(x.tolist(), [0.3] * 4)
    assert (flat.slope.value, flat.r2, flat.test.statistic, flat.test.p) == (0, 0, 0, 1)


@pytest.mark.parametrize(
    ("x", "y"), [([1, 2], [1, 2]), ([1, 2, 3], [1, 2]), ([0, 1, 2], [1, 2, 3]), ([1, 2, 3], [1, -2, 3]),
                 ([2, 2, 2], [1, 2, 3]), ([1, 2, 3], [1, 2, np.inf])]
)  # fmt: skip
def test_regression_refuses(x: list[float], y: list[float]) -> None:
    with pytest.raises(BadInput):
        loglog(x, y)


def test_f_test_worked_by_hand() -> None:
    """Residual variances 0.4 and 0.1 on (2, 2): F = 4; the upper tail on (2, 2) is 1 / (1 + F) = 0.2, so p = 0.4."""
    wide = loglog([1, 10, 100, 1000], [10, 10, 1000, 1000])
    narrow = loglog([1, 10, 100, 1000], np.power(10.0, [0.5, 0.5, 1.5, 1.5]).tolist())
    assert narrow.residual_variance == pytest.approx(0.1, rel=1e-12)
    found, turned = f_test(wide, narrow), f_test(narrow, wide)
    assert (found.statistic, found.p, found.dof) == (pytest.approx(4), pytest.approx(0.4), (2, 2))
    assert (turned.statistic, turned.p) == (pytest.approx(0.25), pytest.approx(0.4))
    assert f_test(wide, wide).p == pytest.approx(1)


def test_f_test_of_perfect_fits() -> None:
    wide, flat = loglog([1, 10, 100], [1, 10, 1]), loglog([1, 10, 100], [1, 1, 1])
    assert flat.residual_variance == 0
    assert f_test(flat, flat).statistic == 1
    assert (f_test(wide, flat).statistic, f_test(wide, flat).p) == (np.inf, 0)
    assert (f_test(flat, wide).statistic, f_test(flat, wide).p) == (0, 0)
