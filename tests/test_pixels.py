"""Stored values of every encoding, and volumes filled with them."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MRImageStorage,
    RLELossless,
)

from node.decoder import Decoder
from node.errors import Unreadable
from node.files import read_dataset
from node.pixels import Plane, fill, stored_planes
from node.vendors.convention import Rescale

SYNTAXES = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)


def image(frames, bits=12, signed=False, allocated=16, syntax=ExplicitVRLittleEndian):
    """An object with these bit patterns (frames, rows, columns)."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = MRImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = "1.2.3"
    ds.PatientComments = "x" * 5000
    count, ds.Rows, ds.Columns = frames.shape
    if count > 1:
        ds.NumberOfFrames = count
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = allocated, bits, bits - 1, int(signed)
    order = "<" if syntax.is_little_endian else ">"
    ds.add_new("PixelData", "OW", frames.astype(f"{order}u{allocated // 8}").tobytes())
    return ds


def planes_of(ds, path, frames):
    ds.save_as(path, enforce_file_format=True)
    return [read() for read in stored_planes(path, read_dataset(path), frames, Decoder().pixels)]


def patterns(frames=3, bits=16, seed=0):
    return np.random.default_rng(seed).integers(0, 2**bits, (frames, 60, 50))


def meant(values, bits, signed):
    """What the lower bits say, PS3.5 section 8.1.1."""
    low = values % 2**bits
    return np.where(low >= 2 ** (bits - 1), low - 2**bits, low) if signed else low


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [10, 12, 16])
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_unused_bits_are_nothing_in_any_syntax(tmp_path, syntax, bits, signed, frames):
    values = patterns(frames)
    found = planes_of(image(values, bits, signed, syntax=syntax), tmp_path / "a.dcm", frames)
    np.testing.assert_array_equal(found, meant(values, bits, signed))


@pytest.mark.parametrize("allocated", [8, 32])
def test_pixels_of_other_widths(tmp_path, allocated):
    values = patterns(1, bits=allocated)
    found = planes_of(image(values, allocated, allocated=allocated), tmp_path / "a.dcm", 1)
    np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize("frames", [1, 3])
def test_compressed_pixels(tmp_path, frames):
    values = patterns(frames)
    ds = image(values, 16)
    ds.compress(RLELossless, generate_instance_uid=False)
    np.testing.assert_array_equal(planes_of(ds, tmp_path / "a.dcm", frames), values)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_fewer_bytes_than_announced_are_never_filled_up(tmp_path, syntax):
    ds = image(patterns(2), syntax=syntax)
    ds.PixelData = ds.PixelData[:-2]
    with pytest.raises(Unreadable):
        planes_of(ds, tmp_path / "a.dcm", 2)


@pytest.mark.parametrize("lost_bytes", [1, 30, 90])
def test_a_file_that_is_cut_off(tmp_path, lost_bytes):
    path = tmp_path / "a.dcm"
    image(patterns(2)).save_as(path, enforce_file_format=True)
    whole, ds = path.read_bytes(), read_dataset(path)
    path.write_bytes(whole[:-lost_bytes])
    with pytest.raises(Unreadable, match="truncated"):
        stored_planes(path, ds, 2, Decoder().pixels)
    path.write_bytes(whole)
    last = stored_planes(path, ds, 2, Decoder().pixels)[1]
    path.write_bytes(whole[:-lost_bytes])
    with pytest.raises(Unreadable, match="truncated"):
        last()


def test_more_frames_than_pixels(tmp_path):
    compressed = image(patterns(2))
    compressed.compress(RLELossless, generate_instance_uid=False)
    for ds in (image(patterns(2)), compressed):
        with pytest.raises(Unreadable):
            planes_of(ds, tmp_path / "a.dcm", 3)


@pytest.mark.parametrize("keyword", ["PixelData", "Rows", "BitsStored", "PixelRepresentation", "SamplesPerPixel"])
def test_what_does_not_describe_its_pixels_is_unreadable(tmp_path, keyword):
    ds = image(patterns(1))
    del ds[keyword]
    with pytest.raises(Unreadable):
        planes_of(ds, tmp_path / "a.dcm", 1)


def test_colours_are_no_frames(tmp_path):
    ds = image(patterns(3))
    del ds.NumberOfFrames
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
    with pytest.raises(Unreadable):
        planes_of(ds, tmp_path / "a.dcm", 1)


def test_a_volume_is_filled_with_rescaled_values_column_row_slice():
    first = np.arange(-35, 35, dtype="<i2").reshape(10, 7)
    second = first.astype("<u2")
    planes = [Plane(lambda: first, Rescale(2.0, 1.0)), Plane(partial(second.copy), Rescale(0.5, -3.0))]
    volume = np.full((7, 10, 2), np.nan, np.float32)
    span = fill(volume, planes)
    np.testing.assert_array_equal(volume[..., 0], 2 * first.T + 1)
    np.testing.assert_array_equal(volume[..., 1], 0.5 * second.T.astype(float) - 3)
    assert span == (volume.min(), volume.max())
