"""Reading pixels plane by plane into arrays [x, y, z], without ever holding a second copy of an acquisition.

Uncompressed 16-bit pixels stay in the file until their plane is asked for. Knows nothing of what the values mean, or
of which planes belong together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from node.errors import Unreadable
from node.vendors.convention import Rescale, number
from recon.types import FloatArray

_PIXEL_DATA = 0x7FE00010
_PIXEL_GROUPS = {0x0028, 0x7FE0}
_ROWS_AT_ONCE = 4
"""Of every plane of a stack: what is converted at once stays in the processor's cache."""

Stored = npt.NDArray[np.generic]


class Plane(NamedTuple):
    """One image on its way into a volume: how to get its stored values (rows, columns), and their rescale."""

    stored: Callable[[], Stored]
    rescale: Rescale


def stored_planes(
    path: Path, ds: Dataset, frames: int, decode: Callable[[Dataset], Stored]
) -> list[Callable[[], Stored]]:
    """For each frame of an object, a call that gives its stored values, (rows, columns).

    Parameters
    ----------
    path
        The file; of an uncompressed image it has to stay until the last call.
    ds
        Its dataset, from `node.files.read_dataset`.
    frames
        How many frames the header describes.
    decode
        Gives the stored values (frames, rows, columns) of a dataset with pixels in any other encoding; in several
        threads at once.

    Raises
    ------
    Unreadable
        No pixels, or fewer than the header asks for; when a plane is asked for, what ``decode`` raises too.
    """
    if _PIXEL_DATA not in ds:
        raise Unreadable(f"{path.name}: no pixels")
    if number(ds, "SamplesPerPixel") != 1:
        raise Unreadable(f"{path.name}: pixels of several samples, or of none")
    plain = _Plain.of(path, ds, frames)
    if plain:
        return [partial(plain.plane, index) for index in range(frames)]
    encoded = Dataset({tag: ds.get_item(tag) for tag in list(ds.keys()) if tag.group in _PIXEL_GROUPS})
    encoded.file_meta = ds.file_meta
    if frames == 1:
        return [lambda: decode(encoded)[0]]
    stored = decode(encoded)
    if len(stored) < frames:
        raise Unreadable(f"{path.name}: pixels of {len(stored)} frames, its header describes {frames}")
    return [partial(stored.__getitem__, index) for index in range(frames)]


@dataclass(frozen=True, slots=True)
class _Plain:
    """Uncompressed little-endian pixels of 16 bits in a file."""

    path: Path
    offset: int
    dtype: str
    rows: int
    columns: int
    unused_bits: int

    @classmethod
    def of(cls, path: Path, ds: Dataset, frames: int) -> _Plain | None:
        """None where the pixels are encoded in another way."""
        pixels = ds.get_item(_PIXEL_DATA, keep_deferred=True)
        names = ("Rows", "Columns", "BitsStored", "PixelRepresentation", "BitsAllocated")
        values = [number(ds, name) for name in names]
        rows, columns, bits, signed, allocated = (-1 if value is None else int(value) for value in values)
        native = ds.file_meta.get("TransferSyntaxUID") in {ImplicitVRLittleEndian, ExplicitVRLittleEndian}
        described = min(rows, columns) > 0 and 0 < bits <= 16 and signed in {0, 1}
        if not (native and described and allocated == 16 and isinstance(pixels, RawDataElement)):
            return None
        offset, needed = pixels.value_tell, 2 * rows * columns * frames
        held = min(pixels.length, path.stat().st_size - offset)
        if held < needed:
            raise Unreadable(f"{path.name}: truncated: {held} of {needed} bytes of pixels")
        return cls(path, offset, "<i2" if signed else "<u2", rows, columns, 16 - bits)

    def plane(self, index: int) -> Stored:
        """Stored values of a frame, without what unused bits may hold (PS3.5 section 8.1.1)."""
        size = self.rows * self.columns
        stored = np.fromfile(self.path, self.dtype, size, offset=self.offset + 2 * size * index)
        if stored.size < size:
            raise Unreadable(f"{self.path.name}: truncated while it was read")
        if self.unused_bits:
            np.left_shift(stored, self.unused_bits, out=stored)
            np.right_shift(stored, self.unused_bits, out=stored)
        return stored.reshape(self.rows, self.columns)


def fill(volume: FloatArray, planes: Sequence[Plane]) -> tuple[float, float]:
    """Write the rescaled planes into a volume.

    Parameters
    ----------
    volume
        float32 (X, Y, Z), overwritten.
    planes
        One for each slice.

    Returns
    -------
    tuple of float
        Lowest and highest rescaled value.
    """
    stored = np.stack([plane.stored() for plane in planes])
    slopes, intercepts = np.array([plane.rescale[:2] for plane in planes], np.float32).T[:, :, np.newaxis, np.newaxis]
    low, high = np.inf, -np.inf
    for y in range(0, stored.shape[1], _ROWS_AT_ONCE):
        values = (stored[:, y : y + _ROWS_AT_ONCE] * slopes).astype(np.float32, copy=False)
        values += intercepts
        low, high = min(low, float(values.min())), max(high, float(values.max()))
        volume[:, y : y + _ROWS_AT_ONCE] = values.transpose(2, 1, 0)
    return low, high
