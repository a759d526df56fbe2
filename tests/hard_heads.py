"""Heads on which brain masks fail, scanned on coarse grids, and what a mask of them loses and lets in.

``python tests/hard_heads.py 101`` prints the table. Thresholds of the mask were chosen on heads 1 to 7.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from phantoms.anatomy import Head, head
from phantoms.atlas import LABEL
from phantoms.charts import CHART_MM
from phantoms.lesions import Lesion
from phantoms.physics import centred_axes
from phantoms.protocol import Protocol
from phantoms.shapes import Chart
from phantoms.simulate import Phantom, simulate
from recon.mask import AutoMask, automatic_mask
from recon.morphology import closed
from recon.types import BoolArray

WHOLE = Protocol((96, 116, 90), (2.0, 2.0, 2.0), (0.0057, 0.0124), 0.057, 20.0)
"""The whole head with 10 mm of neck, at a grid and with as many echoes as a mask needs."""
NECK = replace(WHOLE, shape=(80, 96, 96), voxel_mm=(2.4, 2.4, 2.4))
SLAB = replace(WHOLE, shape=(96, 116, 36))
ANISOTROPIC = replace(WHOLE, shape=(160, 156, 76), voxel_mm=(1.2, 1.5, 2.4))
TWO_ECHOES = Protocol((64, 80, 72), (3.0, 3.0, 3.0), (0.0023, 0.0046), 0.02, 12.0)


def tissue(person: Head, **changes: dict[str, float]) -> Head:
    """The head with changed properties of the tissues named."""
    healthy = list(person.healthy)
    for name, change in changes.items():
        healthy[LABEL[name]] = replace(healthy[LABEL[name]], **change)
    return replace(person, healthy=tuple(healthy))


def bright_scalp(person: Head) -> Head:
    """Scalp and muscle 1.6 times as bright as usual, which is brighter than the brain."""
    usual = {t.name: t.pd for t in person.healthy}
    return tissue(person, **{name: {"pd": 1.6 * usual[name]} for name in ("skin", "fat", "muscle")})


def bright_marrow(person: Head) -> Head:
    return tissue(person, marrow={"pd": 0.9, "r2s_hz": 45.0})


def no_fat(person: Head) -> Head:
    return tissue(person, fat={"pd": 0.03}, marrow={"pd": 0.03})


def thin_gap(person: Head) -> Head:
    return replace(person, gap_mm=0.4)


def wide_gap(person: Head) -> Head:
    return replace(person, gap_mm=6.0)


def thin_skull(person: Head) -> Head:
    """A skull of 4 mm and a scalp that is 3 mm thinner."""
    skin = person.charts["skin"]
    return replace(
        person, skull_mm=4.2, charts=person.charts | {"skin": Chart(skin.values + np.float32(4), skin.axes)}
    )


def usual(person: Head) -> Head:
    return person


def cortical_lesions(
    person: Head, seed: int, count: int = 10, radius_mm: tuple[float, float] = (3.0, 9.0)
) -> tuple[Lesion, ...]:
    """Lesions without much signal at the surface of the brain; every other one is cut by it."""
    rng = np.random.default_rng([seed, 11])
    cavity = person.charts["cavity"]
    first = np.array([axis[0] for axis in cavity.axes], dtype=np.float64)
    placed: list[Lesion] = []
    for _ in range(1000 * count):
        if len(placed) == count:
            break
        radius = float(np.exp(rng.uniform(*np.log(radius_mm))))
        touching = len(placed) % 2 == 0
        depth = radius * rng.uniform(0.2, 0.8) if touching else radius * 1.35 + rng.uniform(0.5, 3)
        direction = rng.standard_normal(3)
        direction /= np.linalg.norm(direction)
        ray = np.array([0.0, 5.0, 0.0]) + np.arange(20.0, 100.0, 0.5)[:, None] * direction
        below = -ndimage.map_coordinates(cavity.values, ((ray - first) / CHART_MM).T, order=1) - person.gap_mm
        centre = ray[np.abs(below - depth).argmin()]
        near = any(np.linalg.norm(centre - other.centre_mm) < radius + max(other.radii_mm) + 6 for other in placed)
        if near or centre[2] < -58:
            continue
        x, y, z = centre.tolist()
        radii = (radius * rng.uniform(0.8, 1.2, 3)).tolist()
        blood = bool(rng.integers(2))
        placed.append(
            Lesion(
                "hemorrhage" if blood else "calcification",
                float(rng.uniform(0.4, 1.5)) * (1 if blood else -1),
                (x, y, z),
                (radii[0], radii[1], radii[2]),
                r2s_hz=float(rng.uniform(120, 400)),
                pd=float(rng.uniform(0.1, 0.4)),
                seed=int(rng.integers(2**31)),
            )
        )
    assert len(placed) == count
    return tuple(placed)


@dataclass(frozen=True, eq=False)
class Scan:
    """A phantom, and bool (X, Y, Z) what lies inside the skull: brain, fluid and sinuses."""

    phantom: Phantom
    cavity: BoolArray


@dataclass(frozen=True)
class HardHead:
    """How to change a head, how to scan it, and its cortical lesions."""

    name: str
    changes: tuple[Callable[[Head], Head], ...] = ()
    protocol: Protocol = WHOLE
    lesions: int = 10
    radius_mm: tuple[float, float] = (3.0, 9.0)

    def head(self, seed: int) -> Head:
        """Head ``seed``, changed."""
        person = head(seed)
        for change in self.changes:
            person = change(person)
        if self.lesions:
            person = replace(person, lesions=cortical_lesions(person, seed, self.lesions, self.radius_mm))
        return person

    def scan(self, seed: int) -> Scan:
        """The scan of head ``seed``."""
        person = self.head(seed)
        axes = centred_axes(self.protocol.shape, self.protocol.voxel_mm)
        return Scan(simulate(person, self.protocol, seed), person.charts["cavity"].on(axes) < 0)


HARD_HEADS = (
    HardHead("usual, deep lesions", lesions=0),
    HardHead("usual"),
    HardHead("bright scalp", (bright_scalp,)),
    HardHead("bright marrow", (bright_marrow,)),
    HardHead("thin gap", (thin_gap,)),
    HardHead("thin skull", (thin_skull,)),
    HardHead("fat suppressed", (no_fat,)),
    HardHead("coil x3", protocol=replace(WHOLE, shading=2.0)),
    HardHead("SNR 20", protocol=replace(WHOLE, snr=20)),
    HardHead("SNR 8", protocol=replace(WHOLE, snr=8)),
    HardHead("anisotropic", protocol=ANISOTROPIC),
    HardHead("slab", protocol=SLAB),
    HardHead("neck", protocol=NECK),
    HardHead("tilted", protocol=replace(NECK, b0_dir=(0.3, -0.35, 0.89))),
    HardHead("3 mm two echoes", protocol=TWO_ECHOES),
    HardHead("wide gap", (wide_gap,)),
    HardHead("huge hematomas", lesions=4, radius_mm=(15.0, 22.0)),
    HardHead("all at once", (bright_scalp, bright_marrow, thin_gap), replace(WHOLE, shading=2.0, snr=25)),
    HardHead("thin all, coil x3", (thin_gap, thin_skull, bright_scalp), replace(WHOLE, shading=2.0)),
    HardHead("slab, coil x3, scalp", (bright_scalp, thin_gap), replace(SLAB, shading=2.0)),
)


@dataclass(frozen=True)
class Score:
    """Of a mask, in percent of the brain's and of the lesions' voxels (together, and of the worst lesion).

    ``leak_ml`` lies outside the skull's cavity and outside the brain closed by 4 mm; ``wide_ml`` counts the fluid
    between brain and skull too, which a mask may hold.
    """

    brain_lost: float
    lesion_lost: float
    worst_lesion: float
    leak_ml: float
    wide_ml: float
    volume_ml: float


def score(mask: BoolArray, scan: Scan) -> Score:
    """What the mask loses, and what it lets in."""
    phantom = scan.phantom
    geometry = phantom.acquisition.geometry
    ml = geometry.voxel_mm3 / 1000
    parts = [lesion.mask for lesion in phantom.lesions if np.count_nonzero(lesion.mask) >= 3]
    beyond = mask & ~closed(phantom.brain, geometry.voxel_mm, 4.0)
    return Score(
        100 * float(np.mean(~mask[phantom.brain])),
        100 * float(np.mean(~mask[np.logical_or.reduce(parts)])),
        max(100 * float(np.mean(~mask[part])) for part in parts),
        float(np.count_nonzero(beyond & ~scan.cavity)) * ml,
        float(np.count_nonzero(beyond)) * ml,
        float(np.count_nonzero(mask)) * ml,
    )


def main(seed: int) -> None:
    """Print what the automatic mask loses and lets in, head by head; the heads have seeds from ``seed`` on."""
    rows = []
    print(f"{'head':24}{'brain %':>9}{'lesions %':>11}{'worst %':>9}{'leak mL':>9}{'s':>6}  warnings")
    for number, hard in enumerate(HARD_HEADS, start=seed):
        scan = hard.scan(number)
        start = time.perf_counter()
        found = automatic_mask(scan.phantom.acquisition, AutoMask())
        seconds = time.perf_counter() - start
        s = score(found.mask, scan)
        rows.append((s.brain_lost, s.lesion_lost, s.worst_lesion, s.leak_ml, seconds))
        print(f"{hard.name:24}" + "{:9.2f}{:11.2f}{:9.1f}{:9.1f}{:6.2f}".format(*rows[-1]), *found.warnings, sep="  ")
    print(f"{'mean':24}" + "{:9.2f}{:11.2f}{:9.1f}{:9.1f}{:6.2f}".format(*np.mean(rows, axis=0)))


if __name__ == "__main__":
    main(int(sys.argv[1]))
