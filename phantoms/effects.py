"""What spoils a scan, each off unless the protocol names it: readout in both directions, flowing blood, motion.

Frequency is encoded along x, phase along y and z, y in the outer loop.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import scipy.fft

from phantoms.anatomy import Head, LabelArray
from phantoms.atlas import LABEL
from phantoms.shapes import Axes, Chart, Tube, cut, random_field, window
from recon.kernels import threads
from recon.types import BadInput, ComplexArray, FloatArray, Vector

BESIDE_MM = 1.0
"""Blood this far from the surface of a tube flows along it."""
DRIFT_MM = 40.0
"""Over this length the direction of veins that are no tubes changes."""


@dataclass(frozen=True, slots=True)
class Bipolar:
    """Every other echo is read backwards: eddy currents and delays turn its phase, (-1)^e (constant + slope x).

    ``constant_rad`` in rad, ``slope_rad_per_mm`` along the readout, from the middle of the grid. Echo 0 is read
    forwards. (Lu W. et al., MRM 2008;60:198.)
    """

    constant_rad: float = 0.0
    slope_rad_per_mm: float = 0.0

    def phase_rad(self, echo: int, x_mm: FloatArray) -> FloatArray:
        """Phase at places along the readout, rad float32, shaped (X, 1, 1)."""
        sign = -1 if echo % 2 else 1
        phase = sign * (self.constant_rad + self.slope_rad_per_mm * x_mm.astype(np.float64))
        return np.asarray(phase[:, None, None], dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Flow:
    """Blood moves while gradients without flow compensation are on: phase m . v (t / t_1)^2 at echo time t.

    A constant gradient's first moment, the integral of G t, grows with the square of the time. ``rad_per_cm_s`` is m
    along x, y, z, rad per cm/s at the first echo; ``vein_cm_s`` and ``sinus_cm_s`` are the speeds |v| in cm/s, along
    the tubes of ``Head.veins`` in the order of their points, in a smoothly changing random direction elsewhere.
    (Haacke, Brown, Thompson, Venkatesan: Magnetic Resonance Imaging, 1999, ch. 23.)
    """

    rad_per_cm_s: Vector = (0.05, 0.0, 0.05)
    vein_cm_s: float = 3.0
    sinus_cm_s: float = 12.0

    def drift(self, seed: int) -> Chart:
        """m . v / |v| where no tube leads, rad per cm/s."""
        rng = np.random.default_rng([seed, 3])
        x, y, z = (np.arange(-half, half + 1, 8, dtype=np.float32) for half in (128, 128, 104))
        way = np.stack([random_field(rng, (x.size, y.size, z.size), 8.0, DRIFT_MM, 1.0) for _ in range(3)])
        along = np.tensordot(np.array(self.rad_per_cm_s, dtype=np.float32), way, 1)
        return Chart(along / np.maximum(np.linalg.norm(way, axis=0), 1e-3), (x, y, z))

    def phase_rad(self, head: Head, label: LabelArray, drift: Chart, axes: Axes) -> FloatArray:
        """Phase at the first echo on the grid of ``axes``, rad float32; 0 outside veins and sinuses."""
        along = drift.on(axes)
        for part in head.veins:
            if not isinstance(part.solid, Tube):
                continue
            (x0, y0, z0), (x1, y1, z1) = part.solid.box_mm()
            m = BESIDE_MM
            box = window(axes, (x0 - m, y0 - m, z0 - m), (x1 + m, y1 + m, z1 + m))
            if box is None:
                continue
            nearest = np.full(along[box].shape, BESIDE_MM, dtype=np.float32)
            for start, end in pairwise(part.solid.points_mm):
                distance = Tube((start, end), part.solid.radius_mm).distance_mm(cut(axes, box))
                way = np.subtract(end, start)
                along[box][distance < nearest] = self.rad_per_cm_s @ way / np.linalg.norm(way)
                np.minimum(nearest, distance, out=nearest)
        speed = np.zeros(len(head.tissues), dtype=np.float32)
        speed[[LABEL["vein"], LABEL["dural sinus"]]] = self.vein_cm_s, self.sinus_cm_s
        along *= speed[label]
        return along


@dataclass(frozen=True, slots=True)
class Motion:
    """The head moves once: phase encodings after the fraction ``at`` of them see it shifted by ``shift_mm``.

    Lines are taken from the lowest frequency along y to the highest, and ``at`` lies between 1/2 and 1: the middle of
    k-space, and with it the image, stay where the truth is. Field and coils move with the head, as for some
    millimetres they nearly do. Rotations are left out: a turned head has another field, which is no phase in k-space.
    """

    shift_mm: Vector
    at: float = 0.6

    def __post_init__(self) -> None:
        if not 0.5 < self.at <= 1:
            raise BadInput(f"at of a motion must lie above 0.5 and not above 1, got {self.at}")

    def moved(self, image: ComplexArray, voxel_mm: Vector) -> ComplexArray:
        r"""The image (X, Y, Z) as the sequence finds it: a shift d is the phase :math:`e^{-2 \pi i k \cdot d}`."""
        spectrum = scipy.fft.fftn(image, workers=threads())
        k = [scipy.fft.fftfreq(n, h) for n, h in zip(image.shape, voxel_mm, strict=True)]
        x, y, z = (np.exp(-2j * np.pi * ki * d).astype(np.complex64) for ki, d in zip(k, self.shift_mm, strict=True))
        lines = image.shape[1]
        after = scipy.fft.fftfreq(lines, 1 / lines) + lines // 2 >= self.at * lines
        spectrum[:, after] *= x[:, None, None] * y[after, None] * z
        return np.asarray(scipy.fft.ifftn(spectrum, workers=threads(), overwrite_x=True))
