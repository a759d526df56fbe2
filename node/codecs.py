"""Compressed pixels: the transfer syntaxes that are taken, and checks that decode nothing.

Decoders are C code, which damaged input aborts, hangs or makes ask for any amount of memory. So who listens looks at
lengths and at the headers of codestreams alone; `node.decoder` decodes in a process that may die of it. Each syntax
has one decoder: another one that is installed too is not tried.

References: PS3.5 sections 8.2 and A.4, annex G (RLE); ISO/IEC 10918-1 (JPEG), 14495-1 (JPEG-LS), 15444-1 (JPEG 2000).
"""

from __future__ import annotations

import itertools
import struct
import zlib
from collections.abc import Iterator

from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import get_expected_length, get_nr_frames
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from node.errors import Unreadable

DECODERS = {
    RLELossless: "pylibjpeg",
    JPEGLSLossless: "pyjpegls",
    JPEGLosslessSV1: "gdcm",
    JPEGLossless: "gdcm",
    JPEG2000Lossless: "pylibjpeg",
    HTJ2KLossless: "pylibjpeg",
    HTJ2KLosslessRPCL: "pylibjpeg",
}
"""pydicom's name of the decoder of each encapsulated syntax."""

IMAGE_TRANSFER_SYNTAXES = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    *(uid for uid, plugin in DECODERS.items() if plugin in get_decoder(uid).available_plugins),
)
"""Lossless, and decodable with what is installed, best first: phase does not survive lossy compression."""

LARGEST_BYTES = 1 << 32
"""More than any object has when decoded: 8 echoes of 256 slices of 512 x 512 in 2 components are 2.1 GB."""

LARGEST_FRAME_BYTES = 1 << 25
"""4096 x 4096 of 16 bits: a few bytes of a codestream can claim more."""

_COUNTS = ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "NumberOfFrames")
_JPEG_LOSSLESS, _JPEG_LS = b"\xff\xc3", b"\xff\xf7"
_START_OF_FRAME = {JPEGLossless: _JPEG_LOSSLESS, JPEGLosslessSV1: _JPEG_LOSSLESS, JPEGLSLossless: _JPEG_LS}
_INFLATED_AT_ONCE = 1 << 20
_INFLATED_BYTES, _INFLATION = 1 << 26, 64
"""A deflated data set may have so many bytes when inflated, and so many times its own: images shrink to a third."""


def check_pixels(ds: Dataset) -> None:
    """Whether the pixels can be those of the header; nothing is decoded.

    Raises
    ------
    Unreadable
        No pixels, counts that are no numbers, fewer bytes or frames than the header says, more than any image has
        when decoded, or frames whose codestream is of another kind or matrix.
    """
    try:
        reason = _uncountable(ds) or _lacking(ds)
    except MemoryError:
        raise
    except Exception as error:  # pydicom raises nearly anything on nonsense
        raise Unreadable(f"pixels do not fit their header ({type(error).__name__})") from error
    if reason:
        raise Unreadable(reason)


def check_inflation(data: bytes) -> None:
    """Whether a deflated data set (PS3.5 section A.5) is whole and no bomb; little of it is held at a time.

    Raises
    ------
    Unreadable
        Damaged, cut off, or longer when inflated than any image is.
    """
    inflater, length = zlib.decompressobj(-zlib.MAX_WBITS), 0
    most = min(LARGEST_BYTES, _INFLATED_BYTES + _INFLATION * len(data))
    try:
        while not inflater.eof and length <= most:
            more = len(inflater.decompress(data, _INFLATED_AT_ONCE))
            data = inflater.unconsumed_tail
            if not more and not inflater.eof:
                raise Unreadable("deflated data set is cut off")
            length += more
    except zlib.error as error:
        raise Unreadable("deflated data set is damaged") from error
    if length > most:
        raise Unreadable(f"deflated data set of more than {most >> 20} MiB: more than any image has")


def _uncountable(ds: Dataset) -> str:
    """Python repeats a list or a text, where it cannot multiply it, until memory ends."""
    wrong = next((name for name in _COUNTS if not isinstance(ds.get(name, 1), int)), "")
    return f"pixels cannot be counted: {wrong} is no single number" if wrong else ""


def _lacking(ds: Dataset) -> str:
    """Why there are fewer pixels than the header says; the empty string where nothing speaks against them."""
    if not ds.get("PixelData"):
        return "image without pixel data: truncated?"
    expected = get_expected_length(ds)
    encapsulated = ds.file_meta.TransferSyntaxUID.is_encapsulated
    return _encapsulated(ds, expected) if encapsulated else _native(ds, expected)


def _native(ds: Dataset, expected: int) -> str:
    found = len(ds.PixelData)
    return f"truncated: {found} of {expected} bytes of pixels" if found < expected else ""


def _encapsulated(ds: Dataset, expected: int) -> str:
    """Why encapsulated pixels cannot be those of the header; the empty string where nothing speaks against them."""
    announced, found = get_nr_frames(ds), 0
    if expected > min(LARGEST_BYTES, announced * LARGEST_FRAME_BYTES):
        return f"{ds.Columns} x {ds.Rows} pixels in {announced} frames: more than any image has"
    for found, frame in enumerate(_frames(ds, announced), start=1):
        if found > announced or not _fits(frame, ds):
            return f"frame {found} of {announced} is not a whole {ds.Columns} x {ds.Rows} image in its syntax"
    return f"truncated: {found} of {announced} frames" if found < announced else ""


def _frames(ds: Dataset, announced: int) -> Iterator[bytes]:
    offsets = ("ExtendedOffsetTable", "ExtendedOffsetTableLengths")
    table = tuple(ds[name].value for name in offsets) if all(name in ds for name in offsets) else None
    return generate_frames(ds.PixelData, number_of_frames=announced, extended_offsets=table)


def _fits(frame: bytes, ds: Dataset) -> bool:
    """Whether a codestream is of its syntax, and whole and of the header's matrix as far as it says so."""
    syntax = ds.file_meta.TransferSyntaxUID
    try:
        if syntax == RLELossless:
            return bool(_segments(frame) == ds.SamplesPerPixel * ds.BitsAllocated // 8)
        matrix = _jpeg_matrix(frame, _START_OF_FRAME[syntax]) if syntax in _START_OF_FRAME else _j2k_matrix(frame)
    except (ValueError, struct.error):
        return False
    return bool(matrix == (ds.Rows, ds.Columns))


def _segments(frame: bytes) -> int:
    """Segments of an RLE frame: one for each byte of a sample. It does not say its matrix."""
    number, first, *others = struct.unpack_from("<16L", frame)
    starts = [64, *others[: number - 1], len(frame)]
    if first != 64 or not 1 <= number <= 15 or any(a >= b for a, b in itertools.pairwise(starts)):
        raise ValueError("offsets of segments do not rise")
    return int(number)


def _jpeg_matrix(stream: bytes, start_of_frame: bytes) -> tuple[int, int]:
    """Rows and columns of a whole JPEG or JPEG-LS codestream; segments are skipped up to the start of the frame."""
    if not stream.startswith(b"\xff\xd8") or not stream.rstrip(b"\0").endswith(b"\xff\xd9"):
        raise ValueError("no start or no end of image")
    at = 2
    while stream[at : at + 2] != start_of_frame:
        marker, length = struct.unpack_from(">HH", stream, at)
        if marker < 0xFF00:
            raise ValueError("no start of frame")
        at += 2 + length
    rows, columns = struct.unpack_from(">HH", stream, at + 5)
    return rows, columns


def _j2k_matrix(stream: bytes) -> tuple[int, int]:
    """Rows and columns of a JPEG 2000 codestream, which some wrap into the boxes of a JP2 file."""
    at = stream.index(b"\xff\x4f\xff\x51", 0, 4096)
    columns, rows, left, top = struct.unpack_from(">4L", stream, at + 8)
    return rows - top, columns - left
