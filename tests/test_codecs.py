"""Compressed images: every vendor's export in every lossless syntax, damaged ones, and what is lossy."""

from __future__ import annotations

import base64
import multiprocessing
import subprocess
import tracemalloc
from collections.abc import Callable, Iterator
from functools import cache
from io import BytesIO
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, encapsulate_extended, generate_frames
from pydicom.tag import Tag
from pydicom.uid import (
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from node import codecs
from node.codecs import IMAGE_TRANSFER_SYNTAXES, check_inflation, check_pixels
from node.decoder import Decoder
from node.errors import Refused, Unreadable
from node.load import load
from phantoms.anatomy import head
from phantoms.protocol import Protocol
from phantoms.scanner import Vendor, write_dicom
from phantoms.simulate import simulate

BY_DCMTK = {
    JPEGLosslessSV1: ("dcmcjpeg", "+e1"),
    JPEGLossless: ("dcmcjpeg", "+el", "+sv", "6"),
    ExplicitVRBigEndian: ("dcmconv", "+tb"),
    DeflatedExplicitVRLittleEndian: ("dcmconv", "+td"),
    ImplicitVRLittleEndian: ("dcmconv", "+ti"),
    ExplicitVRLittleEndian: ("dcmconv", "+te"),
}
WRITABLE = (RLELossless, JPEGLSLossless, JPEG2000Lossless, *BY_DCMTK)
"""What the tests have an encoder for: all but high-throughput JPEG 2000."""
# At least 32 x 32: the JPEG 2000 encoder halves a matrix five times.
PROTOCOL = Protocol((36, 34, 16), (6.0, 6.5, 10.0), te_s=(0.0057, 0.0124), tr_s=0.05, flip_deg=20.0)
RAMP = np.fromfunction(lambda y, x: x * y - 150, (16, 24)).astype(np.int16)
RAMP_HTJ2K = (
    "/0//UQApQAAAAAAYAAAAEAAAAAAAAAAAAAAAGAAAABAAAAAAAAAAAAABjwEB/1AACAACAAAACv9SAAwAAgABAAUEBEAB/1wAEyCI"
    "kJCQkJCQkJCQkJCQiIiI/2QAFwABT3BlbkpQSCBWZXIgMC4yNi4zLv+QAAoAAAAAAKcAAf+TwAAl3QEHdADAABKAmgEHdADAABJA"
    "ABPAABKA/SdzAAFo/gBiNAD5AEd0AMAAE0AAE8AAEwAA1ARyFACI5gBEb9UAgPmAC3QAwAAVEAAFXAABUCAI/sSdMlUAQIhFuOCP"
    "YInstwAAoMASF1PmAMAAKuAAFpQAAlAsF9Pz8FPR0j/YACwXUy+M+v8QAAHvPye86c5cAP7/SEQA/9k="
)
"""A codestream of `RAMP`, by another library."""
CHARLS_LOOPS = (
    "/9j/9wALEAAIAAgBAREA//gADQH//wASAEMBFABA/9oACAEBAAAAAFjokzb22jlHQPm4Aa48ZT2vM8Y1Q7gBGnXHirUa3jTDOAI0xp0="
)
GDCM_ABORTS = (
    "/9j/4AAQSkZJRgAgAQAAAQABAAD/wwALEAAIAAgBAREA/8QAHAAAAgMBAQEBAAAAAAAAAAAABwgABgkFAwQP/9oACAEBAAEAAP38"
    "28pvblcR37FCbA5UMI5wGqHbmpnrl6zLxhvizRen9oyI4/AwjxBriW88pjobGtWXUHxyyY52IeHCXqifeWWjhDY1RdIazZM3P//Z"
)
"""Damaged codestreams of 8 x 8 values."""

Written = Callable[[Vendor], list[Path]]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    phantom = simulate(head(101), PROTOCOL, 1)
    return cache(lambda vendor: write_dicom(phantom, tmp_path_factory.mktemp(vendor), vendor))


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with Decoder() as running:
        yield running


@pytest.fixture
def as_syntax(peer: Callable[[str], str], tmp_path: Path) -> Callable[[Path, UID], Path]:
    """A copy of a DICOM file in another transfer syntax."""

    def convert(path: Path, syntax: UID) -> Path:
        made = tmp_path / f"{len(list(tmp_path.iterdir()))}.dcm"
        if syntax in BY_DCMTK:
            program, *options = BY_DCMTK[syntax]
            subprocess.run([peer(program), *options, path, made], check=True, capture_output=True, timeout=60)
        else:
            ds = pydicom.dcmread(path)
            ds.compress(syntax, generate_instance_uid=False)
            ds.save_as(made, enforce_file_format=True)
        assert pydicom.dcmread(made, specific_tags=[]).file_meta.TransferSyntaxUID == syntax
        return made

    return convert


def image(stored: npt.NDArray[np.integer], syntax: UID, *frames: bytes) -> Dataset:
    """An object of one or more frames of a codestream that says it holds ``stored``."""
    ds = Dataset()
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.SOPInstanceUID = "1.2.3"
    ds.Rows, ds.Columns = stored.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15
    ds.PixelRepresentation = int(stored.dtype.kind == "i")
    ds.NumberOfFrames = max(1, len(frames))
    ds.PixelData = encapsulate(list(frames)) if frames else stored.astype("<i2").tobytes()
    return ds


@cache
def encoded(syntax: UID) -> bytes:
    """A codestream of 32 x 40 signed values."""
    ds = image(smooth(), ExplicitVRLittleEndian)
    ds.SOPClassUID = pydicom.uid.MRImageStorage
    ds.compress(syntax, generate_instance_uid=False)
    return next(generate_frames(ds.PixelData, number_of_frames=1))


def smooth() -> npt.NDArray[np.int16]:
    noise = np.random.default_rng(1).normal(0, 5, (32, 40))
    return np.rint(np.fromfunction(lambda y, x: 900 * np.sin(x / 7) * np.cos(y / 5), (32, 40)) + noise).astype(
        np.int16
    )


# ------------------------------------------------------------------------------------------------ bit for bit


def test_every_lossless_syntax_is_taken_best_first() -> None:
    assert set(IMAGE_TRANSFER_SYNTAXES) == {*WRITABLE, HTJ2KLossless, HTJ2KLosslessRPCL}
    assert [uid.is_encapsulated for uid in IMAGE_TRANSFER_SYNTAXES] == [False] * 4 + [True] * 7


@pytest.mark.peers
@pytest.mark.parametrize("vendor", Vendor)
def test_a_study_whose_images_are_all_compressed_differently_loads_bit_equal(
    written: Written, as_syntax: Callable[[Path, UID], Path], vendor: Vendor
) -> None:
    straight = load(written(vendor)).acquisition
    mixed = [as_syntax(path, WRITABLE[number % len(WRITABLE)]) for number, path in enumerate(written(vendor))]
    got = load(mixed).acquisition
    np.testing.assert_array_equal(got.magnitude, straight.magnitude)
    np.testing.assert_array_equal(got.phase, straight.phase)
    np.testing.assert_array_equal(got.geometry.affine_mm, straight.geometry.affine_mm)
    assert (got.te_s, got.f0_mhz) == (straight.te_s, straight.f0_mhz)


@pytest.mark.peers
@pytest.mark.parametrize("syntax", WRITABLE, ids=lambda uid: uid.name)
def test_objects_of_many_frames_and_signed_ones_in_every_syntax(
    written: Written, as_syntax: Callable[[Path, UID], Path], decoder: Decoder, syntax: UID
) -> None:
    signed, negative = (written(Vendor.GE)[number] for number in (22, 23))
    for path in (written(Vendor.PHILIPS_ENHANCED)[0], written(Vendor.SIEMENS_XA_ENHANCED)[-1], signed, negative):
        expected = pydicom.dcmread(path).pixel_array
        found = decoder.pixels(pydicom.dcmread(as_syntax(path, syntax)))
        np.testing.assert_array_equal(found.reshape(expected.shape), expected)
    assert expected.min() < 0


@pytest.mark.parametrize("syntax", [HTJ2KLossless, HTJ2KLosslessRPCL], ids=lambda uid: uid.name)
def test_high_throughput_jpeg_2000(decoder: Decoder, syntax: UID) -> None:
    np.testing.assert_array_equal(decoder.pixels(image(RAMP, syntax, base64.b64decode(RAMP_HTJ2K)))[0], RAMP)


def test_frames_in_fragments_and_with_an_extended_offset_table(decoder: Decoder) -> None:
    frames = [encoded(JPEGLSLossless)] * 3
    in_fragments = image(smooth(), JPEGLSLossless, *frames)
    in_fragments.PixelData = encapsulate(frames, fragments_per_frame=4)
    extended = image(smooth(), JPEGLSLossless, *frames)
    extended.PixelData, *table = encapsulate_extended(frames)
    extended.ExtendedOffsetTable, extended.ExtendedOffsetTableLengths = table
    for ds in (in_fragments, extended):
        np.testing.assert_array_equal(decoder.pixels(ds), [smooth()] * 3)


def test_a_codestream_inside_the_boxes_of_a_jp2_file(decoder: Decoder) -> None:
    stream = encoded(JPEG2000Lossless)
    header = b"\0\0\0\x16ihdr" + (32).to_bytes(4) + (40).to_bytes(4) + b"\0\x01\x8f\x07\0\0"
    colour = b"\0\0\0\x0fcolr\x01\0\0" + (17).to_bytes(4)
    boxes = b"\0\0\0\x0cjP  \r\n\x87\n" + b"\0\0\0\x14ftypjp2 \0\0\0\0jp2 "
    boxes += (8 + len(header) + len(colour)).to_bytes(4) + b"jp2h" + header + colour
    wrapped = boxes + (8 + len(stream)).to_bytes(4) + b"jp2c" + stream
    np.testing.assert_array_equal(decoder.pixels(image(smooth(), JPEG2000Lossless, wrapped))[0], smooth())


# ------------------------------------------------------------------------------------------------ lossy


@pytest.mark.parametrize("syntax", [JPEGBaseline8Bit, JPEGLSNearLossless, JPEG2000], ids=lambda uid: uid.name)
def test_lossy_syntaxes_are_refused_though_they_could_be_decoded(
    dicom_sets: ModuleType, tmp_path: Path, syntax: UID
) -> None:
    images = dicom_sets.siemens(dicom_sets.scan())
    for ds in images:
        ds.file_meta.TransferSyntaxUID = syntax
        ds.PixelData = encapsulate([encoded(JPEGLSLossless)])
        ds["PixelData"].is_undefined_length = True
    with pytest.raises(Refused, match=syntax.name.split(" (")[0]) as refused:
        load(dicom_sets.write(images, tmp_path))
    assert refused.value.refusal.code == "lossy-compression"


# ------------------------------------------------------------------------------------------------ damaged


def why(ds: Dataset) -> str:
    with pytest.raises(Unreadable) as unreadable:
        check_pixels(ds)
    return str(unreadable.value)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless], ids=lambda uid: uid.name)
def test_what_can_be_seen_without_decoding(syntax: UID) -> None:
    stream = encoded(syntax)
    check_pixels(image(smooth(), syntax, stream, stream))
    lacking = image(smooth(), syntax, stream)
    lacking.NumberOfFrames = 2
    assert why(lacking) == "truncated: 1 of 2 frames"
    other = image(smooth(), syntax, stream, encoded(JPEGLSLossless if syntax == RLELossless else RLELossless))
    assert why(other) == "frame 2 of 2 is not a whole 40 x 32 image in its syntax"
    assert why(image(smooth(), syntax, stream[:9])) == "frame 1 of 1 is not a whole 40 x 32 image in its syntax"
    if syntax == JPEGLSLossless:  # of which the decoder would loop
        assert why(image(smooth(), syntax, stream[:-2])) == "frame 1 of 1 is not a whole 40 x 32 image in its syntax"
    nothing = image(smooth(), syntax, stream)
    del nothing.PixelData
    assert why(nothing) == "image without pixel data: truncated?"
    if syntax != RLELossless:  # which does not say its matrix
        assert why(image(smooth()[1:], syntax, stream)) == "frame 1 of 1 is not a whole 40 x 31 image in its syntax"


def test_a_few_bytes_that_claim_gigabytes_are_not_decoded() -> None:
    stream = bytearray(encoded(JPEG2000Lossless))
    stream[8:16] = (60000).to_bytes(4) * 2
    ds = image(smooth(), JPEG2000Lossless, bytes(stream))
    ds.Rows = ds.Columns = 60000
    assert why(ds) == "60000 x 60000 pixels in 1 frames: more than any image has"


@pytest.mark.parametrize("name", ["Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "NumberOfFrames"])
@pytest.mark.parametrize("value", [[1, 2, 3, 4], "1234"], ids=["several", "text"])
def test_counts_that_are_no_numbers_are_not_multiplied(name: str, value: object) -> None:
    """Python repeats lists and texts: a kilobyte took all memory."""
    ds = image(smooth(), ExplicitVRLittleEndian)
    ds.Rows = ds.Columns = ds.SamplesPerPixel = ds.BitsAllocated = 300
    vr = "IS" if isinstance(value, list) and name == "NumberOfFrames" else "US" if isinstance(value, list) else "LO"
    ds[name] = DataElement(name, vr, value)
    tracemalloc.start()
    try:
        assert why(ds) == f"pixels cannot be counted: {name} is no single number"
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20


def test_pixels_that_cannot_be_looked_at_are_unreadable() -> None:
    ds = image(smooth(), ExplicitVRLittleEndian)
    ds._dict[Tag("PixelData")] = RawDataElement(Tag("PixelData"), "US", 3, b"123", 0, False, True)
    assert why(ds) == "pixels do not fit their header (BytesLengthException)"


def test_a_deflated_bomb_is_seen_before_it_is_inflated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codecs, "LARGEST_BYTES", 1 << 24)
    ds = image(np.zeros((2048, 4096), np.int16), DeflatedExplicitVRLittleEndian)
    ds.SOPClassUID = pydicom.uid.MRImageStorage
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    buffer = BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    file = buffer.getvalue()
    data = file[144 + int.from_bytes(file[140:144], "little") :]
    assert len(data) < 20_000
    with pytest.raises(Unreadable, match="of more than 16 MiB"):
        check_inflation(data)
    monkeypatch.undo()
    check_inflation(data)
    with pytest.raises(Unreadable, match="cut off"):
        check_inflation(data[:-5])
    with pytest.raises(Unreadable, match="damaged"):
        check_inflation(b"\xff" * 100)


@pytest.mark.parametrize(
    ("syntax", "stream"), [(JPEGLSLossless, CHARLS_LOOPS), (JPEGLosslessSV1, GDCM_ABORTS)], ids=["loops", "aborts"]
)
def test_a_codestream_that_kills_its_decoder_is_unreadable(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch, syntax: UID, stream: str
) -> None:
    monkeypatch.setattr("node.decoder.check_pixels", lambda _: None)  # which sees that the first is cut off
    with pytest.raises(Unreadable, match="pixels cannot be decoded"):
        decoder.pixels(image(np.zeros((8, 8), np.int16), syntax, base64.b64decode(stream)))
    np.testing.assert_array_equal(decoder.pixels(image(RAMP, HTJ2KLossless, base64.b64decode(RAMP_HTJ2K)))[0], RAMP)


def test_a_decoder_that_is_killed_is_started_again_and_ends_with_its_context() -> None:
    others = set(multiprocessing.active_children())
    with Decoder() as decoder:
        good = image(RAMP, HTJ2KLossless, base64.b64decode(RAMP_HTJ2K))
        decoder.pixels(good)
        (process,) = set(multiprocessing.active_children()) - others
        process.kill()
        process.join()
        with pytest.raises(Unreadable, match="crashed or did not end"):
            decoder.pixels(good)
        np.testing.assert_array_equal(decoder.pixels(good)[0], RAMP)
        (process,) = set(multiprocessing.active_children()) - others
    process.join(timeout=60)
    assert process.exitcode == 0


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    syntax=st.sampled_from([RLELossless, JPEGLSLossless, JPEG2000Lossless]),
    changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=5),
    kept=st.floats(0.01, 1),
)
def test_damaged_codestreams_give_pixels_or_unreadable(
    decoder: Decoder, syntax: UID, changes: list[tuple[int, int]], kept: float
) -> None:
    """Behind the header: what makes CharLS loop is mostly in it, and takes seconds."""
    stream = bytearray(encoded(syntax))
    for place, value in changes:
        stream[30 + place % (len(stream) - 30)] = value
    try:
        found = decoder.pixels(image(smooth(), syntax, bytes(stream[: int(kept * len(stream)) + 1])))
    except Unreadable:
        return
    assert found.shape == (1, 32, 40)
