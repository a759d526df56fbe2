"""Simulated readers: what a radiologist with a window at level 0 would call a lesion on QSM or GRE phase.

The rule is that of Chen W. et al., Radiology 2014;270:496: a lesion is what the sign that fills more than 70 % of it
says, on QSM positive for blood and on GRE phase negative; else it is heterogeneous, which counts as neither. A lesion
is read on the axial slice where it is widest. Readers differ: each draws the outline anew, and has thresholds of its
own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from phantoms.study.record import Appearance, Image, Outcome, Reading
from recon.types import BadInput, BoolArray, FloatArray


@dataclass(frozen=True, slots=True)
class Reader:
    """One reader.

    Parameters
    ----------
    number
        Seeds this reader's noise.
    qsm_ppb, phase_mrad
        Contrast that is just perceived at the window of each image.
    decision
        Share of a lesion that one sign must fill.
    outline_voxels
        Standard deviation of the outline about the true one; never more than one voxel off.
    threshold_spread
        Relative standard deviation of the thresholds of perception from lesion to lesion.
    decision_spread
        Standard deviation of the share that is asked for, from lesion to lesion.
    """

    number: int
    qsm_ppb: float = 40.0
    phase_mrad: float = 120.0
    decision: float = 0.70
    outline_voxels: float = 0.5
    threshold_spread: float = 0.2
    decision_spread: float = 0.04

    def __post_init__(self) -> None:
        if not 0.5 < self.decision < 0.95 or min(self.qsm_ppb, self.phase_mrad) <= 0:
            raise BadInput(f"a reader needs positive thresholds and a decision above 0.5, got {self}")


READERS = (Reader(1), Reader(2, qsm_ppb=45.0, phase_mrad=135.0, decision=0.72))
HOMOGENEOUS = 0.95
PRIMARILY = 0.70
SHELL_VOXELS = (1.5, 4.0)
"""The surroundings of a lesion: voxels this far from its outline."""


@dataclass(frozen=True, slots=True, eq=False)
class Site:
    """A lesion in the part of the volume around it, ``box``.

    ``lesion`` are its true voxels, ``distance`` float32 is the signed distance to their surface in voxels (negative
    inside), ``around`` where a reader may look at surroundings (brain, no other lesion), ``widest`` the index of the
    axial slice where it is widest; all in the box.
    """

    box: tuple[slice, slice, slice]
    lesion: BoolArray
    distance: FloatArray
    around: BoolArray
    widest: int

    @property
    def shell(self) -> BoolArray:
        """The surroundings."""
        near, far = SHELL_VOXELS
        return self.around & (self.distance > near) & (self.distance <= far)


def site(lesion: BoolArray, brain: BoolArray, others: BoolArray, reach_voxels: int = 7) -> Site:
    """The lesion with what surrounds it; all bool (X, Y, Z)."""
    spans = ndimage.find_objects(lesion.astype(np.uint8))
    if not spans:
        raise BadInput("the lesion has no voxel")
    box = tuple(
        slice(max(0, span.start - reach_voxels), min(n, span.stop + reach_voxels))
        for span, n in zip(spans[0], lesion.shape, strict=True)
    )
    own = lesion[box]
    outside = ndimage.distance_transform_edt(~own)
    inside = ndimage.distance_transform_edt(own)
    distance = np.where(own, 0.5 - inside, outside - 0.5).astype(np.float32)
    widest = int(own.sum(axis=(0, 1)).argmax())
    return Site((box[0], box[1], box[2]), own, distance, brain[box] & ~others[box], widest)


def read(image: Image, values: FloatArray, place: Site, reader: Reader, case: int) -> Reading:
    """What a reader says.

    Parameters
    ----------
    image
        Chooses threshold and sign: on GRE phase as displayed, paramagnetic is negative.
    values
        float32 (X, Y, Z), ppb or mrad, the whole volume.
    place
        The lesion.
    case
        Seeds the reader's noise together with the reader's number. On all maps of susceptibility a reader draws a
        lesion alike and with the same thresholds: what differs between them is the map.
    """
    rng = np.random.default_rng([reader.number, case, 0 if image == "phase" else 1, 13])
    drawn = values[place.box] if image != "phase" else -values[place.box]
    outline = _outline(rng, place, reader) & (place.around | place.lesion)[:, :, place.widest]
    spread = np.exp(rng.normal(0, reader.threshold_spread))
    perceived = float(spread * (reader.phase_mrad if image == "phase" else reader.qsm_ppb))
    decision = float(np.clip(rng.normal(reader.decision, reader.decision_spread), 0.55, 0.9))

    shell = place.shell
    background = float(np.median(drawn[shell])) if shell.any() else 0.0
    inside = drawn[:, :, place.widest][outline]
    contrast = float(inside.mean(dtype=np.float64)) - background
    conspicuous = inside[np.abs(inside) > perceived]
    if abs(contrast) < perceived or not conspicuous.size:
        return Reading("neither", "inconspicuous", 0.5, contrast)
    positive = float((conspicuous > 0).mean())
    dominant = max(positive, 1 - positive)
    outcome: Outcome = "neither"
    if dominant > decision:
        outcome = "hemorrhage" if positive > 0.5 else "calcification"
    return Reading(outcome, _appearance(dominant), positive, contrast)


def _appearance(dominant: float) -> Appearance:
    if dominant >= HOMOGENEOUS:
        return "homogeneous"
    return "primarily one sign" if dominant >= PRIMARILY else "heterogeneous"


def _outline(rng: np.random.Generator, place: Site, reader: Reader) -> BoolArray:
    """The lesion on its widest slice as this reader draws it: moved as a whole, and wavering along the way."""
    distance = place.distance[:, :, place.widest]
    whole = rng.normal(0, reader.outline_voxels)
    waver = ndimage.gaussian_filter(rng.standard_normal(distance.shape), 1.5)
    waver *= 0.5 * reader.outline_voxels / max(float(waver.std()), 1e-6)
    outline = distance < np.clip(whole + waver, -1, 1)
    # A lesion of a few voxels does not vanish under a tight outline: its middle stays.
    return np.asarray(outline if outline.any() else distance <= distance.min())
