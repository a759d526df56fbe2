"""The statistics of a reading study whose lesions come in patients.

Lesions of one patient resemble each other: a proportion, a comparison of two and an interval of kappa take the
patient as the unit that was drawn. All intervals are of 95 %, all tests two-sided. Knows neither lesions nor readers.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.stats

from recon.types import BadInput

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

TAIL = 0.025
"""Probability beyond each end of an interval."""


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Proportion:
    """A proportion with its 95 % interval, from so many patients (``clusters``)."""

    value: float
    low: float
    high: float
    clusters: int


@dataclass(frozen=True, slots=True)
class Test:
    """A test statistic, its degrees of freedom (two for F) and its two-sided p-value."""

    statistic: float
    dof: tuple[int, ...]
    p: float


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """Mean of first minus second with its 95 % interval, and the t test of whether it is zero."""

    mean: Interval
    test: Test


@dataclass(frozen=True, slots=True)
class Regression:
    """log10 y = intercept + slope log10 x, from ``n`` points.

    ``r2`` is the share of the variance explained, ``test`` the F test of slope 0 on (1, n - 2) degrees of freedom,
    ``residual_variance`` the residual sum of squares over n - 2.
    """

    slope: Interval
    intercept: float
    r2: float
    test: Test
    residual_variance: float
    n: int


def clustered_proportion(hits: Sequence[int], totals: Sequence[int]) -> Proportion:
    """Hits over lesions, x_j of n_j in patient j, by the ratio estimator.

    p = sum x_j / N with N = sum n_j;  var p = m / (m - 1) sum (x_j - n_j p)^2 / N^2;  p +- 1.96 sd, cut to 0-1.

    Patients with n_j = 0 are left out and m counts the others. At p = 0 and p = 1, where this variance is 0, the
    interval is that of 0 of m or m of m patients (Clopper and Pearson, Biometrika 1934;26:404). Of one patient with
    0 < p < 1 nothing is known: the interval is 0-1. Where every patient has the same proportion the interval has no
    width.

    Rao and Scott, Biometrics 1992;48:577; Genders et al., Radiology 2012;265:910.

    Raises
    ------
    BadInput
        If no patient has a lesion, the lengths differ, or a count is not 0 <= hits <= total.
    """
    if len(hits) != len(totals):
        raise BadInput(f"hits has {len(hits)} patients, totals {len(totals)}")
    x, n = np.asarray(hits, dtype=np.int64), np.asarray(totals, dtype=np.int64)
    if np.any(x < 0) or np.any(x > n):
        raise BadInput("hits must lie between 0 and the total of each patient")
    x, n = x[n > 0], n[n > 0]
    m, lesions = len(n), int(n.sum())
    if m == 0:
        raise BadInput("a proportion needs a patient with a lesion, every total is 0")
    p = float(x.sum() / lesions)
    if p in {0.0, 1.0}:
        low, high = _clopper_pearson(m if p == 1 else 0, m)
    elif m == 1:
        low, high = 0.0, 1.0
    else:
        variance = m / (m - 1) * np.sum((x - n * p) ** 2) / lesions**2
        half = float(scipy.stats.norm.isf(TAIL) * np.sqrt(variance))
        low, high = max(0.0, p - half), min(1.0, p + half)
    return Proportion(p, low, high, m)


def clustered_mcnemar(differences: Sequence[int]) -> Test:
    """McNemar's test of two methods on the same lesions, adjusted for clusters.

    d_j = b_j - c_j: lesions of patient j that only the first method has right, less those that only the second has.
    Every patient who has such a lesion counts, also with d_j = 0:

    chi2 = (sum d_j)^2 / (m / (m - 1) sum d_j^2),  1 degree of freedom.

    With one lesion in each patient this is the uncorrected (b - c)^2 / (b + c) times (m - 1) / m. Without
    discordance, and of a single patient, chi2 is 0 and p is 1.

    Obuchowski, Stat Med 1998;17:1495.

    Raises
    ------
    BadInput
        If there is no patient.
    """
    if len(differences) == 0:
        raise BadInput("McNemar's test needs a patient, got none")
    d, m = np.asarray(differences, dtype=np.int64), len(differences)
    squares = int(np.sum(d**2))
    chi2 = (m - 1) / m * int(d.sum()) ** 2 / squares if squares else 0.0
    return Test(chi2, (1,), float(scipy.stats.chi2.sf(chi2, 1)))


def cross_table(first: Sequence[Hashable], second: Sequence[Hashable], outcomes: Sequence[Hashable]) -> Counts:
    """Lesions counted by the outcome that the first reader (row) and the second (column) gave, int64 (K, K).

    Raises
    ------
    BadInput
        If the readers read different numbers of lesions, or gave an outcome that is not among ``outcomes``.
    """
    if len(first) != len(second):
        raise BadInput(f"the first reader read {len(first)} lesions, the second {len(second)}")
    place = {outcome: index for index, outcome in enumerate(outcomes)}
    if unknown := {*first, *second} - place.keys():
        raise BadInput(f"outcomes are {tuple(outcomes)}, got also {sorted(map(str, unknown))}")
    table = np.zeros((len(place), len(place)), dtype=np.int64)
    for a, b in zip(first, second, strict=True):
        table[place[a], place[b]] += 1
    return table


def table_kappa(table: Counts) -> float:
    """Cohen's kappa of a table of counts (K, K): (p_o - p_e) / (1 - p_e), unweighted.

    p_o is the share of the diagonal, p_e what it would be if the readers were independent. Where both give a single
    and the same outcome, 0 / 0, kappa is 1.

    Cohen, Educ Psychol Meas 1960;20:37.

    Raises
    ------
    BadInput
        If the table is empty.
    """
    n = int(table.sum())
    if n == 0:
        raise BadInput("kappa needs a lesion, the table is empty")
    observed = n * int(np.trace(table))
    expected = int(table.sum(axis=1) @ table.sum(axis=0))
    return 1.0 if expected == n * n else (observed - expected) / (n * n - expected)


def kappa(first: Sequence[Hashable], second: Sequence[Hashable], outcomes: Sequence[Hashable]) -> float:
    """Cohen's unweighted kappa of two readers: ``table_kappa`` of their ``cross_table``, and its errors."""
    return table_kappa(cross_table(first, second, outcomes))


def bootstrap(patients: Sequence[Counts], statistic: Callable[[Counts], float], draws: int, seed: int) -> Interval:
    """Percentile interval of a statistic of summed counts, patients drawn with replacement.

    ``patients`` holds one array of counts for each patient, all of one shape; ``statistic`` is a function of their
    sum. The interval of kappa takes the patients' cross tables and ``table_kappa``; that of a difference of two
    kappas takes both tables stacked, so that they share the draws. A patient with counts of 0 alone is left out, as
    in ``clustered_proportion``. The same seed gives the same interval.

    Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13; patients as the units drawn: Field and
    Welsh, J R Stat Soc B 2007;69:369.

    Raises
    ------
    BadInput
        If fewer than two patients have counts (every draw would be the same), or there is no draw.
    """
    counts = np.array([table for table in patients if np.any(table)], dtype=np.int64)
    m = len(counts)
    if m < 2 or draws < 1:
        raise BadInput(f"a bootstrap needs two patients and a draw, got {m} and {draws}")
    times = np.random.default_rng(seed).multinomial(m, np.full(m, 1 / m), size=draws)
    values = [statistic(total) for total in np.tensordot(times, counts, axes=1)]
    low, high = np.quantile(values, (TAIL, 1 - TAIL))
    return Interval(statistic(counts.sum(axis=0)), float(low), float(high))


def paired_t(first: Sequence[float], second: Sequence[float]) -> PairedDifference:
    """Student's paired t test: mean d / (sd d / sqrt n) with d = first - second, on n - 1 degrees of freedom.

    Differences that are all the same have no spread: t is 0 and p 1 if they are 0, else t is infinite and p 0.

    Altman, Practical Statistics for Medical Research, 1991, chapter 9.

    Raises
    ------
    BadInput
        If the lengths differ, there are fewer than two pairs, or a value is not finite.
    """
    if len(first) != len(second) or len(first) < 2:
        raise BadInput(f"a paired test needs two pairs or more, got {len(first)} and {len(second)} values")
    d = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    if not np.all(np.isfinite(d)):
        raise BadInput("a paired test needs finite values")
    n, mean = len(d), float(d.mean())
    error = 0.0 if np.ptp(d) == 0 else float(d.std(ddof=1) / np.sqrt(n))
    t = _ratio(mean, error)
    half = float(scipy.stats.t.isf(TAIL, n - 1)) * error
    p = 2 * float(scipy.stats.t.sf(abs(t), n - 1))
    return PairedDifference(Interval(mean, mean - half, mean + half), Test(t, (n - 1,), p))


def loglog(x: Sequence[float], y: Sequence[float]) -> Regression:
    """Least squares of log10 y on log10 x.

    slope = S_xy / S_xx, its interval by Student's t on n - 2 degrees of freedom; F = slope^2 S_xx / s^2 with s^2 the
    residual variance; R2 = 1 - (n - 2) s^2 / S_yy. A constant y has R2 = 0, F = 0 and p = 1; of points on a line
    R2 is 1, p is 0 and only rounding bounds F.

    Draper and Smith, Applied Regression Analysis, 1998, chapter 1; used as in Chen W. et al., Radiology 2014;270:496.

    Raises
    ------
    BadInput
        If the lengths differ, there are fewer than three points, a value is not finite and positive, or x is
        constant.
    """
    if len(x) != len(y) or len(x) < 3:
        raise BadInput(f"a regression needs three points or more, got {len(x)} x and {len(y)} y")
    values = np.array([x, y], dtype=np.float64)
    if not np.all(np.isfinite(values) & (values > 0)):
        raise BadInput(f"a logarithm needs finite positive values, got {values.min()} to {values.max()}")
    n, (u, v) = len(x), np.log10(values)
    if np.ptp(u) == 0:
        raise BadInput("a regression needs x that differ, all are the same")
    du = u - u.mean()
    dv = v - v.mean() if np.ptp(v) else np.zeros(n)
    s_xx = float(du @ du)
    slope = float(du @ dv) / s_xx
    explained, residual = slope**2 * s_xx, float(np.sum((dv - slope * du) ** 2))
    variance = residual / (n - 2)
    f = _ratio(explained, variance)
    half = float(scipy.stats.t.isf(TAIL, n - 2) * np.sqrt(variance / s_xx))
    return Regression(
        slope=Interval(slope, slope - half, slope + half),
        intercept=float(v.mean() - slope * u.mean()),
        r2=_ratio(explained, explained + residual),
        test=Test(f, (1, n - 2), float(scipy.stats.f.sf(f, 1, n - 2))),
        residual_variance=variance,
        n=n,
    )


def f_test(a: Regression, b: Regression) -> Test:
    """Whether two regressions leave the same residual variance: F = s_a^2 / s_b^2 on (n_a - 2, n_b - 2).

    p is twice the smaller tail. Residuals of log10 y are relative errors, so variances of quantities with different
    units compare. The test takes the two for independent; where both measure the same patients and err alike, it is
    conservative. Two perfect fits, 0 / 0, have F = 1.

    Snedecor and Cochran, Statistical Methods, 1989.
    """
    dof = (a.n - 2, b.n - 2)
    both = a.residual_variance == b.residual_variance == 0
    f = 1.0 if both else _ratio(a.residual_variance, b.residual_variance)
    tail = min(float(scipy.stats.f.cdf(f, *dof)), float(scipy.stats.f.sf(f, *dof)))
    return Test(f, dof, min(1.0, 2 * tail))


def _clopper_pearson(hits: int, total: int) -> tuple[float, float]:
    interval = scipy.stats.binomtest(hits, total).proportion_ci(1 - 2 * TAIL, method="exact")
    return float(interval.low), float(interval.high)


def _ratio(numerator: float, denominator: float) -> float:
    """The quotient; of 0 by 0 it is 0, of another number by 0 infinite with its sign."""
    if numerator == 0:
        return 0.0
    return numerator / denominator if denominator else float(np.copysign(np.inf, numerator))
