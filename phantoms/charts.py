"""The layers of a head and its random fields, drawn on a coarse grid that any other grid is read from.

Coordinates are those of ``phantoms.anatomy``.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.ndimage

from phantoms.atlas import BRAINSTEM, CALLOSUM, CAVITY, CEREBELLUM, CISTERNS, SKULL_BASE, SURFACE
from phantoms.physics import in_blocks
from phantoms.shapes import Axes, Chart, Solid, random_field, smooth_union
from recon.types import FloatArray

CHART_MM = 1.5
REACH = ((-93.0, 93.0), (-111.0, 111.0), (-81.0, 81.0))
"""The box, in mm, in which the head's charts lie; below it the neck goes on as on its last slice."""


def draw_charts(rng: np.random.Generator, scale: npt.NDArray[np.float64]) -> dict[str, Chart]:
    """The layers of the head and its random fields on the chart grid."""
    x, y, z = (np.arange(low, high + CHART_MM / 2, CHART_MM, dtype=np.float32) for low, high in REACH)
    shape = (x.size, y.size, z.size)
    own: Axes = (x, y, z)
    template: Axes = (x / np.float32(scale[0]), y / np.float32(scale[1]), z / np.float32(scale[2]))

    def union(solids: tuple[Solid, ...], blend_mm: float) -> FloatArray:
        result = np.empty(shape, dtype=np.float32)

        def block(part: slice) -> None:
            here = (template[0][part], template[1], template[2])
            result[part] = smooth_union([solid.distance_mm(here) for solid in solids], blend_mm)

        in_blocks(x.size, 8, block)
        return result

    def noise(wavelength_mm: float, spread: float = 1.0) -> FloatArray:
        return np.clip(random_field(rng, shape, CHART_MM, wavelength_mm, spread), -2, 2)

    bump = noise(24)
    outside_vault: FloatArray = np.negative(union(CAVITY, 14))
    cavity: FloatArray = 0.8 * bump - smooth_union([outside_vault, SKULL_BASE.distance_mm(template)], 12)
    brainstem = union(BRAINSTEM, 8) + 0.4 * bump
    cerebellum = union(CEREBELLUM, 8) + 0.5 * bump
    below = np.maximum(brainstem - 3.0, template[2][None, None, :] + 12)
    values = {
        "cavity": cavity,
        "skin": smooth_union([cavity - 11.5, *(solid.distance_mm(template) for solid in SURFACE)], 16),
        "cerebellum": np.maximum(cerebellum, 1.5 - brainstem),
        "brainstem": brainstem,
        "cisterns": np.minimum(np.minimum(union(CISTERNS, 3) + 0.4 * bump, cerebellum - 1.8), below),
        "callosum": CALLOSUM.distance_mm(template),
        "fold": _folding(rng, template),
        "folia": _folia(template, bump),
        "bump": bump,
        "sulcus": noise(30),
        "slip": 0.45 * noise(14),
        "texture": noise(9),
        "chi texture": noise(9),
    }
    return {name: Chart(np.ascontiguousarray(value, np.float32), own) for name, value in values.items()}


def _folding(rng: np.random.Generator, axes: Axes) -> FloatArray:
    """Signed distance in mm to the middle of the nearest sulcus.

    The zeros of band-passed noise are a labyrinth like the cortex's; read on the sphere of directions they become
    sheets that run inwards from the surface.
    """
    x, y, z = axes[0][:, None, None], axes[1][None, :, None], axes[2][None, None, :]
    labyrinth = random_field(rng, (112, 136, 104), 1.5, 21.0, 0.3)
    radii, middle = (62.0, 80.0, 52.0), (np.array(labyrinth.shape) - 1) / 2
    u, v, w = x / radii[0], y / radii[1], (z - 2) / radii[2]
    r = np.sqrt(u * u + v * v + w * w) + np.float32(0.05)
    # A slow change with depth bends the sulci.
    onto = (0.75 + 0.25 * r) / r
    places = [
        (direction * onto * radius) / 1.5 + centre
        for direction, radius, centre in zip((u, v, w), radii, middle, strict=True)
    ]
    level = scipy.ndimage.map_coordinates(labyrinth, places, order=1, mode="mirror")
    slope = np.sqrt(sum(np.gradient(level, float(a[1] - a[0]), axis=i) ** 2 for i, a in enumerate(axes)))
    slope = scipy.ndimage.uniform_filter(slope, 5)
    return np.asarray(np.clip(level / np.maximum(slope, 0.05), -15, 15), dtype=np.float32)


def _folia(axes: Axes, bump: FloatArray) -> FloatArray:
    """A wave of -1..1 over the cerebellum whose crests are the cores of its folia."""
    y, z = axes[1][None, :, None] - 26, axes[2][None, None, :] + 34
    angle = np.arctan2(z, y) + 0.08 * bump
    return np.asarray(np.cos(angle * 15), dtype=np.float32)
