"""Derived series: values, geometry, provenance, identifiers, conformance."""

from __future__ import annotations

import struct
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import UID

from node import files
from node.derive import DeriveOptions, is_own, quantised, write_derived
from node.errors import PermanentError
from node.headers import read_header
from node.inherit import INHERITED, inherited
from node.load import load
from node.provenance import SHORT_TEXT, parameters
from node.work import report_of
from phantoms.anatomy import head
from phantoms.protocol import SMALL_PROTOCOL, Protocol
from phantoms.scanner import Vendor, write_dicom
from phantoms.simulate import Phantom, simulate
from recon.inversion.tv import NonlinearTv
from recon.pipeline import Result
from recon.recipe import Recipe
from recon.reference import RegionValue
from recon.signcheck import SignCheck
from recon.types import ChiMap, FieldMap, LocalField, Trace

AT = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
COPIED = """
    ImagePositionPatient ImageOrientationPatient PixelSpacing SliceThickness Rows Columns PatientName PatientID
    PatientBirthDate PatientPosition StudyInstanceUID StudyDate StudyTime FrameOfReferenceUID
"""
TOOLS = Path(sys.executable).parent


def run(tool, *arguments):
    done = subprocess.run([TOOLS / tool, *map(str, arguments)], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def complaints(path):
    """What dciodvfy finds wrong with a file."""
    return {line for line in run("dciodvfy", "-new", path).splitlines() if line.startswith(("Error", "Warning"))}


def result_of(acquisition, recipe=None, warnings=()):
    """A result with known numbers on the grid of an acquisition."""
    rng = np.random.default_rng(7)
    shape = acquisition.geometry.shape
    brain = np.zeros(shape, bool)
    brain[1:-1, 1:-1, 2:-2] = True
    zeros = np.zeros(shape, np.float32)
    chi = np.where(brain, rng.normal(0, 0.3, shape), 0).astype(np.float32)
    return Result(
        ChiMap(chi, brain, "whole brain"),
        LocalField(zeros, brain),
        FieldMap(zeros, zeros, zeros, zeros, zeros, 1.0),
        brain,
        zeros,
        rng.uniform(-np.pi, np.pi, shape).astype(np.float32),
        acquisition.te_s[-1],
        recipe or Recipe(),
        (Trace("mask", "automatic", warnings=tuple(warnings)),),
        SignCheck("no evidence", (), "not looked for"),
        (RegionValue("whole brain", 0.0, 0.0312, 9000), RegionValue("fluid", 0.0118, 0.0085, 300)),
    )


def derive(source, result, *options):
    """Everything derived from a result and the report on it."""
    return write_derived(source, result, report_of(source, result), *options)


def phantom_files(acquisition, folder):
    """The acquisition as the phantom scanner sends it."""
    zeros = np.zeros(acquisition.geometry.shape, np.float32)
    protocol = replace(SMALL_PROTOCOL, te_s=acquisition.te_s)
    phantom = Phantom(acquisition, zeros, zeros > 0, zeros.astype(np.uint8), (), (), protocol, 1, 1)
    return write_dicom(phantom, folder)


@pytest.fixture(scope="module")
def sent(dicom_sets, tmp_path_factory):
    """A phantom as the scanner sent it, and what it loads to."""
    scan = dicom_sets.scan(seed=1, shape=(14, 12, 16))
    paths = phantom_files(scan, tmp_path_factory.mktemp("sent"))
    return paths, load(paths)


@pytest.fixture(scope="module")
def derived(sent, tmp_path_factory):
    """Everything derived from it, and the result behind it."""
    _, source = sent
    result = result_of(source.acquisition, warnings=["touches the scalp"])
    options = DeriveOptions(segmentation=True, parametric_map=True)
    return derive(source, result, tmp_path_factory.mktemp("derived"), AT, options), result


def series(derived, name):
    """Datasets of one series by rising position along the slice normal."""
    images = [dcmread(item.path) for item in derived[0] if item.series == name]
    normal = np.cross(images[0].ImageOrientationPatient[:3], images[0].ImageOrientationPatient[3:])
    return sorted(images, key=lambda ds: normal @ np.array(ds.ImagePositionPatient))


def path_of(items, name):
    return next(item.path for item in items if item.series == name)


@pytest.mark.parametrize("name", ["qsm", "phase"])
def test_stored_values_are_thousandths(derived, name):
    _, result = derived
    truth = result.chi.chi_ppm if name == "qsm" else -result.highpass_rad
    stored = np.stack([ds.pixel_array.T for ds in series(derived, name)], axis=-1)
    assert stored.dtype == np.int16
    assert np.abs(stored - 1000 * truth.astype(np.float64)).max() < 0.5001
    if name == "qsm":
        assert not stored[~result.brain].any()


@pytest.mark.parametrize("name", ["qsm", "phase"])
def test_geometry_and_identity_are_the_source_slices(sent, derived, name):
    sources = {ds.SOPInstanceUID: ds for ds in map(dcmread, sent[0])}
    for ds in series(derived, name):
        referenced = [sources[item.ReferencedSOPInstanceUID] for item in ds.SourceImageSequence]
        assert len(referenced) == 4
        for image in referenced:
            for keyword in COPIED.split():
                assert ds[keyword].value == image[keyword].value, keyword
    order = [ds.InstanceNumber for ds in series(derived, name)]
    assert order == list(range(1, 17))


def test_display_unit_and_provenance(sent, derived):
    _, source = sent
    for name, width, unit, quantity in (("qsm", "400", "[ppb]", "126396"), ("phase", "2000", "mrad", None)):
        for ds in series(derived, name):
            assert (str(ds.WindowCenter), str(ds.WindowWidth)) == ("0", width)
            assert not {"RescaleSlope", "RescaleIntercept", "RescaleType", "SmallestImagePixelValue"} & set(ds.dir())
            assert not any(element.tag.is_private for element in ds.iterall())
            (mapping,) = ds.RealWorldValueMappingSequence
            assert (mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept) == (1, 0)
            assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == unit
            if quantity:
                concept = mapping.QuantityDefinitionSequence[0].ConceptCodeSequence[0]
                assert concept.CodeValue == quantity
            else:
                assert "QuantityDefinitionSequence" not in mapping
            assert [item.ContributionDescription for item in ds.ContributingEquipmentSequence] == parameters(Recipe())
            assert "stored phase rises with the field" in ds.DerivationDescription
            assert len(ds.DerivationDescription) <= SHORT_TEXT
            assert "not for diagnosis" in ds.ImageComments
            assert "Phantom." in ds.ImageComments
            assert "mask: touches the scalp" in ds.ImageComments
            assert ds.SeriesDate == ds.ContentDate == "20260304"
            assert ds.StudyDate == "20200101"
    qsm, phase = series(derived, "qsm")[0], series(derived, "phase")[0]
    assert "Reference region (0 ppb): whole brain" in qsm.DerivationDescription
    assert "Mean +- SD of whole brain: 0 +- 31 ppb. Mean +- SD of fluid: 12 +- 8 ppb." in qsm.DerivationDescription
    assert (qsm.SeriesNumber, phase.SeriesNumber) == (201, 202)
    assert (float(qsm.EchoTime), float(phase.EchoTime)) == (4.0, pytest.approx(source.acquisition.te_s[-1] * 1e3))
    assert phase.EchoNumbers == 2


def test_every_parameter_is_named_and_fits():
    long = replace(
        Recipe(),
        inversion=NonlinearTv(iterations=300, merit_at=tuple(range(1, 301)), reweight_at=tuple(range(1, 151))),
    )
    texts = parameters(long)
    assert len(texts) > 1
    assert all(len(text) <= SHORT_TEXT for text in texts)
    assert str(tuple(range(1, 301))) in " ".join(texts)
    assert "highpass: Homodyne(samples=64, te_s=0.0258)" in " ".join(texts)


@pytest.mark.parametrize("charset", [None, "ISO_IR 192"])
def test_the_name_of_a_recipe_fits_every_character_set(dicom_sets, tmp_path, charset):
    """A recipe is named by its file, in any language."""
    images = dicom_sets.siemens(dicom_sets.scan())
    for ds in images:
        ds.SpecificCharacterSet = charset
    source = load(dicom_sets.write(images, tmp_path / "in"))
    item = derive(source, result_of(source.acquisition, Recipe(name="größer")), tmp_path / "out", AT)[0]
    ds = dcmread(item.path)
    assert ds.ContributingEquipmentSequence[0].ContributionDescription.startswith("recipe gr??er;")
    assert ", recipe gr??er (sha256 " in ds.DerivationDescription


def test_identifiers_are_a_function_of_source_recipe_and_mask(sent, derived, tmp_path):
    _, source = sent
    items, result = derived
    again = derive(source, result, tmp_path / "a", AT, DeriveOptions(True, True))
    later = derive(source, result, tmp_path / "b", AT.replace(hour=9), DeriveOptions(True, True))
    other = result_of(source.acquisition, replace(Recipe(), inversion=NonlinearTv(alpha_ppm=7.7e-4)))
    changed = derive(source, other, tmp_path / "c", AT, DeriveOptions(True, True))
    masked = derive(source, result, tmp_path / "d", AT, DeriveOptions(True, True, "abc"))
    uids = [[item.sop_instance_uid for item in written] for written in (items, again, later, changed, masked)]
    assert uids[0] == uids[1] == uids[2]
    assert len({uid for of_run in (uids[0], uids[3], uids[4]) for uid in of_run}) == 3 * len(items)
    assert all(uid.startswith("2.25.") and len(uid) <= 64 for uid in uids[0])
    assert [item.sha256 for item in items] == [item.sha256 for item in again]
    assert not {item.sha256 for item in items} & {item.sha256 for item in later}


def test_a_result_that_takes_the_place_of_another_says_so(sent, derived, tmp_path):
    _, source = sent
    items, result = derived
    options = DeriveOptions(supersedes=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    for item in derive(source, result, tmp_path, AT, options):
        ds = dcmread(item.path)
        assert ds.DerivationDescription.startswith("Supersedes the result of 2026-01-02 ")
        assert "Supersedes the result of 2026-01-02 " in ds.ImageComments
    assert not any("Supersedes" in dcmread(item.path).ImageComments for item in items)


def test_a_second_process_would_write_the_same_bytes(sent, derived, tmp_path):
    paths, _ = sent
    items, result = derived
    fresh = derive(load(reversed(paths)), result, tmp_path, AT, DeriveOptions(True, True))
    assert [(item.sha256, item.path.name) for item in fresh] == [(item.sha256, item.path.name) for item in items]
    assert {path.name for path in tmp_path.iterdir()} == {item.path.name for item in items}


def test_own_objects_are_recognised(sent, derived):
    assert all(is_own(dcmread(item.path)) for item in derived[0])
    assert all(read_header(dcmread(item.path)).own for item in derived[0])
    assert not any(is_own(dcmread(path)) for path in sent[0])
    ds = dcmread(derived[0][0].path)
    ds.ManufacturerModelName = "rewritten by an archive"
    assert is_own(ds)


def test_phantom_output_conforms(sent, derived):
    found = {item.path.name: complaints(item.path) for item in derived[0]}
    assert not any(found.values()), found
    said = run("dcentvfy", *sent[0], *(item.path for item in derived[0]))
    assert said == ""


def test_dcm2niix_reads_ppb_on_the_source_grid(sent, derived, tmp_path):
    links = tmp_path / "qsm"
    links.mkdir()
    for item in derived[0]:
        if item.series == "qsm":
            (links / item.path.name).symlink_to(item.path)
    run("dcm2niix", "-f", "qsm", "-o", tmp_path, links)
    image = nib.load(tmp_path / "qsm.nii")
    assert image.get_data_dtype() == np.int16
    assert image.dataobj.slope == 1
    turned = image.as_reoriented(
        nib.orientations.ornt_transform(
            nib.orientations.io_orientation(image.affine),
            nib.orientations.io_orientation(np.diag([-1, -1, 1, 1]) @ sent[1].acquisition.geometry.affine_mm),
        )
    )
    truth = np.diag([-1, -1, 1, 1]) @ sent[1].acquisition.geometry.affine_mm
    assert np.abs(turned.affine - truth).max() < 1e-4
    ppb = 1000 * derived[1].chi.chi_ppm.astype(np.float64)
    assert np.abs(np.asarray(turned.dataobj) - ppb).max() < 0.5001


def test_mask_and_float_copy_read_back(sent, derived):
    items, result = derived
    mask, pmap = dcmread(path_of(items, "mask")), dcmread(path_of(items, "pmap"))
    ppb = np.frombuffer(pmap.FloatPixelData, "<f4").reshape(16, pmap.Rows, pmap.Columns)
    for ds, frames, truth in ((mask, mask.pixel_array, result.brain), (pmap, ppb, 1000 * result.chi.chi_ppm)):
        to_index = np.linalg.inv(sent[1].acquisition.geometry.affine_mm)
        for group, frame in zip(ds.PerFrameFunctionalGroupsSequence, frames, strict=True):
            position = group.PlanePositionSequence[0].ImagePositionPatient
            x, y, z = (to_index @ [*position, 1])[:3]
            assert (x, y) == pytest.approx((0, 0), abs=1e-4)
            assert np.allclose(frame.T, truth[:, :, round(z)], atol=1e-4)
        assert ds.PatientName == "QSM^PHANTOM"
        assert ds.ContentDate == "20260304"


@pytest.mark.parametrize(
    ("charset", "name"),
    [
        ("ISO_IR 100", "Müller^Ångström"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎"),
        ("ISO_IR 192", "Ελένη^Ω"),
    ],
)
def test_names_keep_their_bytes(dicom_sets, tmp_path, charset, name):
    images = dicom_sets.siemens(dicom_sets.scan())
    for ds in images:
        ds.SpecificCharacterSet, ds.PatientName = charset, name
    source = load(dicom_sets.write(images, tmp_path / "in"))
    written = derive(source, result_of(source.acquisition), tmp_path / "out", AT, DeriveOptions(True, True))
    before = dcmread(tmp_path / "in" / "00000.dcm").get_item("PatientName").value
    for item in written:
        assert dcmread(item.path).get_item("PatientName").value == before
        assert dcmread(item.path).PatientName == name


def test_an_identifier_in_false_characters_is_the_same_in_all_objects(dicom_sets, tmp_path):
    """Else an archive has two patients."""
    images = dicom_sets.siemens(dicom_sets.scan())
    for ds in images:
        ds.SpecificCharacterSet, ds.PatientID, ds.AccessionNumber, ds.PatientName = (
            "ISO_IR 192",
            "AAAA",
            "AAAA",
            "AAAA",
        )
    paths = dicom_sets.write(images, tmp_path / "in")
    for path in paths:
        path.write_bytes(path.read_bytes().replace(b"AAAA", b"M\xfc12"))
    source = load(paths)
    written = derive(source, result_of(source.acquisition), tmp_path / "out", AT, DeriveOptions(True, True))
    for keyword in ("PatientID", "AccessionNumber", "PatientName"):
        assert {dcmread(item.path).get_item(keyword).value for item in written} == {b"M\xfc12"}


def test_texts_that_break_the_rules_are_copied_as_they_are_but_of_even_length(dicom_sets):
    source = dicom_sets.siemens(dicom_sets.scan())[0]
    source["PatientName"] = RawDataElement(Tag("PatientName"), "PN", 5, b"M\xff^\xfeX", 0, False, True)
    source["FrameOfReferenceUID"] = RawDataElement(Tag("FrameOfReferenceUID"), "UI", 5, b"1.2.3", 0, False, True)
    target = inherited(source)
    assert target.get_item("PatientName").value == b"M\xff^\xfeX "
    assert target.get_item("FrameOfReferenceUID").value == b"1.2.3\0"


def test_a_number_in_place_of_a_text_is_written_as_text():
    source = Dataset()
    source[0x00180050] = RawDataElement(Tag("SliceThickness"), "FD", 8, struct.pack(">d", 2.5), 0, False, False)
    source[0x00180091] = RawDataElement(Tag("EchoTrainLength"), "US", 2, b"\5\0", 0, False, True)
    source[0x00180024] = RawDataElement(Tag("SequenceName"), "US", 2, b"\5\0", 0, False, True)
    source[0x00180081] = RawDataElement(Tag("EchoTime"), "FD", 8, struct.pack("<d", np.float32(2.46)), 0, False, True)
    of_frame = float(np.float32(2.46))  # as enhanced objects have times
    source[0x00180080] = DataElement(Tag("RepetitionTime"), "DS", of_frame)
    target = inherited(source)
    target.set_original_encoding(False, True, "iso8859")
    file = BytesIO()
    target.save_as(file, implicit_vr=False, little_endian=True)
    read = dcmread(BytesIO(file.getvalue()), force=True)
    assert read.get_item("RepetitionTime").value == b"2.46000003814697"
    assert read.get_item("SliceThickness").value == b"2.5 "
    assert read.get_item("EchoTrainLength").value == b"5 "
    assert read.get_item("EchoTime").value == b"2.46000003814697"
    assert "SequenceName" not in read


def test_a_text_of_undefined_length_swallows_nothing():
    source = Dataset()
    source[0x00104000] = RawDataElement(Tag("PatientComments"), "LT", 0xFFFFFFFF, b"hello ", 0, True, True)
    source.Rows = 7
    target = inherited(source)
    target.set_original_encoding(False, True, "iso8859")
    file = BytesIO()
    target.save_as(file, implicit_vr=False, little_endian=True)
    read = dcmread(BytesIO(file.getvalue()), force=True)
    assert (read.PatientComments, read.Rows) == ("hello", 7)


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("PatientName", "A^B\\C"),
        ("PatientBirthDate", "19520000"),
        ("PatientSex", "W"),
        ("StudyDate", "2026-03-04"),
        ("StudyTime", "12:13:14"),
        ("SpecificCharacterSet", "UTF-8"),
    ],
)
def test_values_that_are_not_standard_are_the_same_in_all_objects(dicom_sets, tmp_path, keyword, value):
    """An archive takes objects of a study whose patients differ for a mistake."""
    content = value.ljust(len(value) + len(value) % 2).encode()
    item = RawDataElement(Tag(keyword), dictionary_VR(keyword), len(content), content, 0, False, True)
    images = dicom_sets.siemens(dicom_sets.scan())
    for ds in images:
        ds[keyword] = item
    source = load(dicom_sets.write(images, tmp_path / "in"))
    written = derive(source, result_of(source.acquisition), tmp_path / "out", AT, DeriveOptions(True, True))
    assert {item.series for item in written} == {"qsm", "phase", "mask", "pmap"}
    before = dcmread(tmp_path / "in" / "00000.dcm").get_item(keyword).value
    assert {dcmread(item.path).get_item(keyword).value for item in written} == {before}


def test_a_source_without_frame_of_reference_gives_objects_of_one(dicom_sets, tmp_path):
    images = dicom_sets.siemens(dicom_sets.scan())
    for ds in images:
        del ds.FrameOfReferenceUID
    source = load(dicom_sets.write(images, tmp_path / "in"))
    written = derive(source, result_of(source.acquisition), tmp_path / "out", AT, DeriveOptions(True, True))
    (frame,) = {dcmread(item.path).FrameOfReferenceUID for item in written}
    assert UID(frame).is_valid
    assert complaints(written[0].path) == set()


@pytest.mark.parametrize("writer", ["ge", "philips", "philips_enhanced"])
def test_every_vendor_conforms(dicom_sets, tmp_path, writer):
    images = getattr(dicom_sets, writer)(dicom_sets.scan())
    images = images if isinstance(images, list) else [images]
    for ds in images:
        ds.PatientName, ds.EchoTrainLength = "A^B", 2
        ds.ScanOptions = ds.get("ScanOptions", "") or "FC"
    source = load(dicom_sets.write(images, tmp_path / "in"))
    written = derive(source, result_of(source.acquisition), tmp_path / "out", AT)
    for item in (written[0], written[20], written[-1]):
        assert complaints(item.path) == set()
        frames = {"ReferencedFrameNumber" in ref for ref in dcmread(item.path).SourceImageSequence}
        assert frames == {writer == "philips_enhanced"}


@pytest.mark.parametrize("vendor", [vendor for vendor in Vendor if vendor.endswith("enhanced")])
def test_what_enhanced_objects_lack_is_derived_and_frames_are_named(tmp_path, vendor):
    protocol = Protocol((18, 16, 16), (12.0, 13.0, 10.0), te_s=(0.003, 0.008), tr_s=0.05, flip_deg=20.0)
    source = load(write_dicom(simulate(head(101), protocol, 1), tmp_path / "in", vendor))
    result = result_of(source.acquisition)
    written = write_derived(source, result, report_of(source, result), tmp_path / "out", AT)
    for k, item in enumerate(written[:16]):
        ds = dcmread(item.path)
        assert (ds.ScanningSequence, ds.SequenceVariant) == ("GR", "SP")
        assert complaints(item.path) == set()
        found = sorted(int(ref.ReferencedFrameNumber) for ref in ds.SourceImageSequence)
        place = k + 1 if vendor is Vendor.SIEMENS_XA_ENHANCED else 2 * k + 1
        others = {place + 1, place + 32, place + 33} if vendor is Vendor.PHILIPS_ENHANCED else {place}
        assert set(found) == {place, *others}
        assert len(found) == 4


@pytest.mark.parametrize("case", ["philips-classic-2echo-head", "ge-3d-2echo-mag-real-imag"])
def test_real_sources_give_no_errors_and_no_new_warnings(vendor_data, dicom_sets, tmp_path, case):
    paths = dicom_sets.dicom_files(vendor_data / case)
    source = load(paths)
    written = derive(source, result_of(source.acquisition), tmp_path, AT, DeriveOptions(True, True))
    given_by_source = complaints(paths[0])
    for item in (written[0], written[len(written) // 2], *written[-2:]):
        mine = complaints(item.path)
        assert not [line for line in mine if line.startswith("Error")]
        assert mine <= given_by_source


def test_values_beyond_int16_are_clipped_and_said(sent, tmp_path):
    _, source = sent
    result = result_of(source.acquisition)
    result.chi.chi_ppm[3, 3, 3], result.chi.chi_ppm[4, 4, 4] = 40, -40
    for item in derive(source, result, tmp_path, AT):
        if item.series == "qsm":
            assert "2 voxels lie outside -32768 to 32767 ppb" in dcmread(item.path).DerivationDescription


@given(st.floats(-40, 40, width=32))
def test_quantisation_never_wraps(value):
    stored, warnings = quantised(np.array([value], np.float32), "QSM", "ppb")
    assert bool(warnings) == (abs(float(stored[0]) - 1000 * value) > 0.6)
    assert np.sign(stored[0]) in {0, np.sign(value)}


def test_what_is_not_finite_is_not_written(sent, tmp_path):
    _, source = sent
    result = result_of(source.acquisition)
    result.chi.chi_ppm[3, 3, 3] = np.nan
    with pytest.raises(PermanentError, match="not finite"):
        derive(source, result, tmp_path, AT)
    assert not list(tmp_path.iterdir())


def test_a_file_is_whole_or_absent(tmp_path, monkeypatch):
    def power_cut(_descriptor):
        raise OSError("power cut")

    monkeypatch.setattr(files.os, "fsync", power_cut)
    with pytest.raises(OSError, match="power cut"):
        files.write_whole(tmp_path / "a.dcm", b"content")
    assert not (tmp_path / "a.dcm").exists()


def test_the_whitelist_holds_known_attributes_once():
    assert len(set(INHERITED)) == len(INHERITED)
