"""How an acquisition compares with what the consensus paper recommends for QSM of the brain.

Bilgic et al. 2024, MRM 91:1834, on acquisition: 3D, three echoes or more at even spacing, the first as early as
possible, the last not before T2* of the tissue, the least bandwidth with acceptable distortion, the Ernst angle,
isotropic voxels of 1 mm at most. Where the paper has words alone, the number is from the source named beside it.
Magnitude and phase of every echo and slice are not judged: without them nothing is reconstructed.

Values in, findings out: knows no pixels and no vendor. Nothing here refuses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset

from node.report import Finding
from node.vendors.convention import number, text
from recon.types import GAMMA_MHZ_PER_T, Vector

LEAST_ECHOES = 3
EVEN_MS = 0.02
"""Echo times are stated to 0.01 ms: two spacings that are equal may differ by twice that."""
LATEST_FIRST_MS = 10.0
"""The paper has "as short as possible"; this is how the schema of dicompare 0.11 reads it."""
BANDWIDTH_HZ = 220.0
"""Of a pixel, at 3 T: fat lies two pixels away."""
FLIP_TOLERANCE_DEG = 0.5
ISOTROPIC_MM = 0.1
LONGEST_EDGE_MM = 1.0
GAP_SHARE = 0.05
"""Of the slice thickness; less is rounding."""
ZERO_FILLED = 1.5
"""Stored over sampled voxels of a slice; less is a rectangular field of view."""

LEAST_PHASE_SNR = 0.5
"""Of the field that one echo yields: x e^(1 - x), x = TE / T2*, over its largest value at TE = T2*."""
COARSE_MM = 2.5
"""Edge from which lesions below 1000 mm3 lose: with slices of 2 mm they keep 1.00 (median) and 0.90 (worst) of the
susceptibility that they have at 1.6 mm, with 3 mm 0.92 and 0.66, with 6 mm 0.80 and 0.08 (21 lesions in 3 heads)."""

FIELDS_T = (1.5, 3.0, 7.0)
NEAR = 0.1
"""A field counts as one of `FIELDS_T` within this share of it: a Siemens "3 T" is 2.89 T."""
PUTAMEN_T2S_MS = {1.5: 55.5, 3.0: 31.5, 7.0: 16.1}
"""The shortest T2* of the tissues in Peters et al. 2007, Magn Reson Imaging 25:748."""
T1_MS = {1.5: (646.0, 1197.0), 3.0: (838.0, 1607.0), 7.0: (1126.0, 1939.0)}
"""Of white and of grey matter: Wright et al. 2008, MAGMA 21:121."""

NOT_STATED = "not stated"


@dataclass(frozen=True, slots=True)
class Scan:
    """What the headers say about a scan; empty or None where they do not.

    Parameters
    ----------
    dimensions
        MRAcquisitionType, `2D` or `3D`.
    tr_ms, flip_deg, bandwidth_hz
        Repetition time, flip angle, bandwidth of a pixel.
    slice_mm
        SliceThickness.
    zero_filling
        Edge of a sampled voxel over the edge of a stored one, in the plane.
    """

    dimensions: str = ""
    tr_ms: float | None = None
    flip_deg: float | None = None
    bandwidth_hz: float | None = None
    slice_mm: float | None = None
    zero_filling: float = 1.0

    @staticmethod
    def of(ds: Dataset) -> Scan:
        """From a classic image, or a frame of `node.multiframe`."""
        return Scan(
            dimensions=text(ds, "MRAcquisitionType"),
            tr_ms=_positive(ds, "RepetitionTime"),
            flip_deg=_positive(ds, "FlipAngle"),
            bandwidth_hz=_positive(ds, "PixelBandwidth"),
            slice_mm=_positive(ds, "SliceThickness"),
            zero_filling=_zero_filling(ds),
        )


def fitness(te_s: tuple[float, ...], f0_mhz: float, voxel_mm: Vector, scan: Scan) -> tuple[Finding, ...]:
    """Every recommendation beside what was acquired.

    Parameters
    ----------
    te_s
        Echo times, rising.
    f0_mhz
        Imaging frequency.
    voxel_mm
        Voxel edges; the last is the distance between slices.
    scan
        What the headers say.
    """
    te_ms = [1e3 * te for te in te_s]
    b0_t = f0_mhz / GAMMA_MHZ_PER_T
    field_t = next((nominal for nominal in FIELDS_T if abs(b0_t / nominal - 1) < NEAR), None)
    x, y, step = voxel_mm
    sampled_mm = (x * scan.zero_filling, y * scan.zero_filling, max(step, scan.slice_mm or 0.0))
    return (
        _dimensions(scan.dimensions),
        _echo_count(len(te_ms)),
        _echo_spacing(te_ms),
        _first_echo(te_ms[0]),
        _last_echo(te_ms[-1], field_t),
        _bandwidth(scan.bandwidth_hz, field_t),
        _flip_angle(scan.flip_deg, scan.tr_ms, field_t),
        *_voxel(sampled_mm),
        _slice_gap(step, scan.slice_mm),
    )


def _dimensions(dimensions: str) -> Finding:
    if dimensions not in {"2D", "3D"}:
        return Finding("acquisition", NOT_STATED, "3D", None)
    warning = "acquired in 2D, where phase may jump from slice to slice" if dimensions == "2D" else ""
    return Finding("acquisition", dimensions, "3D", dimensions == "3D", warning)


def _echo_count(echoes: int) -> Finding:
    warnings = {
        1: "a single echo, whose phase at the start counts as field",
        2: f"two echoes instead of {LEAST_ECHOES} or more",
    }
    return Finding("echoes", str(echoes), f"{LEAST_ECHOES} or more", echoes >= LEAST_ECHOES, warnings.get(echoes, ""))


def _echo_spacing(te_ms: list[float]) -> Finding:
    if len(te_ms) < 2:
        return Finding("echo spacing", "one echo", "even", None)
    spacings = np.diff(te_ms)
    low, high = float(spacings.min()), float(spacings.max())
    even = high - low < EVEN_MS * (1 + 1e-6)
    measured = f"{low:.2f} ms" if even else f"{low:.2f} to {high:.2f} ms"
    return Finding("echo spacing", measured, "even", even)


def _first_echo(te_ms: float) -> Finding:
    recommended = f"as early as possible, <= {LATEST_FIRST_MS:g} ms"
    return Finding("first echo", f"{te_ms:.2f} ms", recommended, te_ms <= LATEST_FIRST_MS)


def _last_echo(te_ms: float, field_t: float | None) -> Finding:
    measured = f"{te_ms:.2f} ms"
    if field_t is None:
        return Finding("last echo", measured, "the tissue's T2* or later", None)
    t2s_ms = PUTAMEN_T2S_MS[field_t]
    x = min(te_ms / t2s_ms, 1.0)
    noisy = x * math.exp(1 - x) < LEAST_PHASE_SNR
    return Finding(
        "last echo",
        measured,
        f"{t2s_ms:g} ms or later (putamen's T2*)",
        te_ms >= t2s_ms,
        f"last echo at {te_ms:.2g} ms, long before T2* ({t2s_ms:g} ms), so that the map is noisy" if noisy else "",
    )


def _bandwidth(bandwidth_hz: float | None, field_t: float | None) -> Finding:
    measured = NOT_STATED if bandwidth_hz is None else f"{bandwidth_hz:.0f} Hz per pixel"
    if field_t != 3.0:
        return Finding("bandwidth", measured, "known at 3 T alone", None)
    met = None if bandwidth_hz is None else round(bandwidth_hz) <= BANDWIDTH_HZ
    return Finding("bandwidth", measured, f"{BANDWIDTH_HZ:g} Hz per pixel or less at 3 T", met)


def _flip_angle(flip_deg: float | None, tr_ms: float | None, field_t: float | None) -> Finding:
    r"""Between the Ernst angles of grey and of white matter, :math:`\cos \alpha = e^{-TR / T_1}`."""
    measured = NOT_STATED if flip_deg is None else f"{flip_deg:g} degrees"
    if tr_ms is None or field_t is None:
        return Finding("flip angle", measured, "the Ernst angle", None)
    white, grey = (math.degrees(math.acos(math.exp(-tr_ms / t1_ms))) for t1_ms in T1_MS[field_t])
    recommended = f"{grey:.0f} to {white:.0f} degrees (Ernst angle)"
    if flip_deg is None:
        return Finding("flip angle", measured, recommended, None)
    met = grey - FLIP_TOLERANCE_DEG <= flip_deg <= white + FLIP_TOLERANCE_DEG
    return Finding("flip angle", measured, recommended, met)


def _voxel(edges_mm: Vector) -> tuple[Finding, Finding]:
    low, high = min(edges_mm), max(edges_mm)
    size = " x ".join(f"{edge:.2f}" for edge in edges_mm) + " mm"
    return (
        Finding("voxel shape", size, "isotropic", high - low <= ISOTROPIC_MM + 1e-6),
        Finding(
            "voxel size",
            f"longest edge {high:.2f} mm",
            f"{LONGEST_EDGE_MM:g} mm or less",
            high <= LONGEST_EDGE_MM + 5e-3,
            f"voxels of {size}, in which small lesions lose contrast" if high > COARSE_MM else "",
        ),
    )


def _slice_gap(step_mm: float, thickness_mm: float | None) -> Finding:
    if thickness_mm is None:
        return Finding("slice gap", NOT_STATED, "none", None)
    gap_mm = step_mm - thickness_mm
    if gap_mm <= GAP_SHARE * thickness_mm:
        return Finding("slice gap", "none", "none", True)
    measured = f"{gap_mm:.2f} mm"
    return Finding(
        "slice gap", measured, "none", False, f"gaps of {measured} between slices, where the field is not known"
    )


def _positive(ds: Dataset, keyword: str) -> float | None:
    value = number(ds, keyword)
    return value if value is not None and value > 0 else None


def _zero_filling(ds: Dataset) -> float:
    """From the number of voxels alone: manufacturers order AcquisitionMatrix in different ways."""
    sampled = [int(n) for n in text(ds, "AcquisitionMatrix").split("\\") if n.isdecimal() and int(n)]
    stored = (number(ds, "Rows") or 0) * (number(ds, "Columns") or 0)
    ratio = stored / math.prod(sampled) if len(sampled) == 2 else 1.0
    return math.sqrt(ratio) if ratio > ZERO_FILLED else 1.0
