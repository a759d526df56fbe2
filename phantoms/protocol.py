"""How a head is scanned: grid, echoes, field strength, noise."""

from __future__ import annotations

from dataclasses import dataclass, replace

from phantoms.effects import Bipolar, Flow, Motion
from recon.types import GAMMA_MHZ_PER_T, BadInput, Geometry, Shape, Vector


@dataclass(frozen=True, slots=True)
class Protocol:
    """How the head is scanned.

    Parameters
    ----------
    shape, voxel_mm
        The acquired grid.
    te_s, tr_s, flip_deg
        Echo times and repetition time in s, flip angle in degrees.
    b0_t, b0_dir
        Field strength in T; direction of B0 in array axes (the slices follow the head).
    snr
        Mean magnitude of white matter at the first echo over the standard deviation of the noise of each of the
        real and imaginary channels.
    oversampling
        Points of the fine grid along each edge of an acquired voxel.
    shading
        Exponent of the coil's receive sensitivity: at 1 the rim of the brain is about 1.7 times as bright as its
        centre, at 2 three times.
    bandwidth_hz
        Bandwidth of the readout per acquired voxel in Hz: whatever precesses faster by this much appears one voxel
        farther along x, in echoes read backwards one voxel nearer. ``None``: nothing is displaced.
    bipolar, flow, motion
        What else spoils the scan, see :mod:`phantoms.effects`; ``None``: nothing.
    """

    shape: Shape
    voxel_mm: Vector
    te_s: tuple[float, ...]
    tr_s: float
    flip_deg: float
    b0_t: float = 3.0
    b0_dir: Vector = (0.0, 0.0, 1.0)
    snr: float = 60.0
    oversampling: int = 2
    shading: float = 1.0
    bandwidth_hz: float | None = None
    bipolar: Bipolar | None = None
    flow: Flow | None = None
    motion: Motion | None = None

    def __post_init__(self) -> None:
        if min(self.shape) < 8 or self.oversampling < 1:
            raise BadInput(f"the grid {self.shape} x {self.oversampling} is too small to simulate")
        if min(self.te_s) <= 0 or max(self.te_s) >= self.tr_s:
            raise BadInput(f"te_s must lie between 0 and tr_s = {self.tr_s}, got {self.te_s}")
        if self.snr <= 0:
            raise BadInput(f"snr must be positive, got {self.snr}")
        if self.bandwidth_hz is not None and self.bandwidth_hz <= 0:
            raise BadInput(f"bandwidth_hz must be positive, got {self.bandwidth_hz}")

    @property
    def f0_mhz(self) -> float:
        """Imaging frequency in MHz."""
        return GAMMA_MHZ_PER_T * self.b0_t

    @property
    def geometry(self) -> Geometry:
        """The acquired grid in the patient."""
        return Geometry.of(self.shape, self.voxel_mm, self.b0_dir)

    @property
    def fine_shape(self) -> Shape:
        """Shape of the fine grid."""
        x, y, z = (n * self.oversampling for n in self.shape)
        return x, y, z

    @property
    def fine_voxel_mm(self) -> Vector:
        """Voxel edges of the fine grid in mm."""
        x, y, z = (edge / self.oversampling for edge in self.voxel_mm)
        return x, y, z


REFERENCE_PROTOCOL = Protocol(
    shape=(416, 320, 72),
    voxel_mm=(240 / 416, 240 / 320, 2.0),
    te_s=tuple(0.0057 + 0.0067 * echo for echo in range(8)),
    tr_s=0.057,
    flip_deg=20.0,
)
"""The protocol of Chen W. et al., Radiology 2014;270:496: 3 T, 8 echoes, field of view 24 cm."""

SMALL_PROTOCOL = replace(REFERENCE_PROTOCOL, shape=(128, 128, 72), voxel_mm=(1.6, 1.6, 2.0))
"""The same sequence on a grid that simulates and reconstructs in seconds."""
