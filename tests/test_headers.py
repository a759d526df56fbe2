"""What is kept of a header, and what an image is refused for on its own."""

from __future__ import annotations

from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, ImplicitVRLittleEndian

from node.assemble import acquisition_key, judge
from node.headers import Header, read_header
from node.identity import PRODUCT


def one(dicom_sets, vendor: str = "siemens") -> Dataset:
    return getattr(dicom_sets, vendor)(dicom_sets.scan())[0]


@pytest.mark.parametrize("vendor", ["siemens", "siemens_xa", "ge", "philips"])
def test_a_header_goes_through_json_unchanged_and_holds_no_patient(dicom_sets, vendor):
    for ds in getattr(dicom_sets, vendor)(dicom_sets.scan()):
        header = read_header(ds)
        line = header.to_json()
        assert Header.from_json(line) == header
        assert "ller" not in line
        assert "1950" not in line
        assert header.refusal is None


@pytest.mark.parametrize(
    ("vendor", "announced", "components"),
    [
        ("siemens", (2, None), {"M", "P"}),
        ("siemens_xa", (2, None), {"M", "P"}),
        ("ge", (2, 16), {"M", "R", "I"}),
        ("philips", (2, 16), {"M", "P"}),
    ],
)
def test_vendors_say_component_and_counts_in_their_own_way(dicom_sets, vendor, announced, components):
    headers = [read_header(ds) for ds in getattr(dicom_sets, vendor)(dicom_sets.scan())]
    assert {(h.announced_echoes, h.announced_slices) for h in headers} == {announced}
    assert {frame.component for h in headers for frame in h.frames} == components
    assert {round(frame.te_s, 6) for h in headers for frame in h.frames} == {0.004, 0.0101}


def test_an_interpolated_stack_announces_no_slices(dicom_sets):
    ds = one(dicom_sets, "ge")
    ds.SpacingBetweenSlices, ds.SliceThickness = "1", "2"
    assert read_header(ds).announced_slices is None


def test_ge_kinds_survive_implicit_vr_without_creators(dicom_sets):
    components = []
    for ds in dicom_sets.ge(dicom_sets.scan())[:3]:
        for group in (0x0019, 0x0021, 0x0043):
            del ds[group, 0x0010]
        buffer = BytesIO()
        ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
        ds.save_as(buffer, enforce_file_format=True)
        buffer.seek(0)
        header = read_header(dcmread(buffer))
        assert (header.announced_echoes, header.announced_slices) == (2, 16)
        components += [frame.component for frame in header.frames]
    assert components == ["M", "R", "I"]


def test_an_enhanced_object_has_a_frame_for_every_plane(dicom_sets):
    header = read_header(dicom_sets.philips_enhanced(dicom_sets.scan()))
    classic = [read_header(ds).frames[0] for ds in dicom_sets.philips(dicom_sets.scan())]
    assert header.refusal is None
    assert [(f.component, f.te_s, f.position_mm) for f in header.frames] == [
        (f.component, f.te_s, f.position_mm) for f in classic
    ]
    assert Header.from_json(header.to_json()) == header


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"SOPClassUID": CTImageStorage}, "not-mr-gre"),
        ({"SOPInstanceUID": ""}, "unreadable"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]}, "epi-or-mosaic"),
        ({"ScanningSequence": ["SE", "EP"]}, "epi-or-mosaic"),
        ({"SequenceName": "*epfid2d1_64"}, "epi-or-mosaic"),
        ({"SequenceName": "SEEPI2D+0.7"}, "epi-or-mosaic"),
        ({"ScanningSequence": "SE"}, "not-mr-gre"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "SW_P_FFE", "SW_P", "FFE"]}, "processed-swi"),
        ({"ImageType": ["DERIVED", "PRIMARY", "MNIP", "SWI"]}, "processed-swi"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "T1", "FIELD_MAP"]}, "field-map-hz"),
        ({"ImageType": ["DERIVED", "PRIMARY", "M", "ND"]}, "derived-image"),
        ({"LossyImageCompression": "01"}, "lossy-compression"),
        ({"EchoTime": "0"}, "no-echo-time"),
        ({"EchoTime": None}, "no-echo-time"),
        ({"ImagePositionPatient": None}, "no-geometry"),
        ({"PixelSpacing": None}, "no-geometry"),
        ({"PixelSpacing": [0, 0]}, "no-geometry"),
        ({"PixelSpacing": [-1, 1]}, "no-geometry"),
        ({"ImageOrientationPatient": [2, 0, 0, 0, 2, 0]}, "no-geometry"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "no-geometry"),
        ({"ImagePositionPatient": ["1e30", 0, 0]}, "no-geometry"),
        ({"ManufacturerModelName": PRODUCT}, "own-output"),
    ],
)
def test_what_is_not_raw_gradient_echo_is_refused_by_name(dicom_sets, change, code):
    ds = one(dicom_sets)
    for keyword, value in change.items():
        setattr(ds, keyword, value)
    refusal = read_header(ds).refusal
    assert refusal is not None
    assert refusal.code == code
    assert len(refusal.sentence) > 10


@pytest.mark.parametrize("count", [8, 48, 56, 57, 256])
def test_announced_counts_that_lost_their_vr_are_read_as_numbers(dicom_sets, count):
    """56 is the digit 8 and a NUL: texts are padded by spaces."""
    ds = one(dicom_sets, "ge")
    del ds[0x0021, 0x104F]
    ds.add_new((0x0021, 0x104F), "UN", count.to_bytes(2, "little"))
    assert read_header(ds).announced_slices == count


@pytest.mark.parametrize("value", ["NaN", "-inf"])
def test_positions_that_are_no_numbers_survive_no_journal(dicom_sets, value):
    ds = one(dicom_sets)
    ds["ImagePositionPatient"] = DataElement("ImagePositionPatient", "DS", None)
    ds._dict[ds["ImagePositionPatient"].tag] = RawDataElement(
        ds["ImagePositionPatient"].tag, "DS", 11, f"{value}\\0\\0".encode(), 0, False, True
    )
    header = read_header(ds)
    assert header.refusal.code == "no-geometry"
    assert Header.from_json(header.to_json()) == header


@pytest.mark.parametrize(("coil", "refused"), [("H15", True), ("HEA;HEP", False), ("HC1-6", False), ("BC", False)])
def test_single_coil_elements_are_refused(dicom_sets, coil, refused):
    ds = one(dicom_sets)
    ds.add_new((0x0051, 0x0010), "LO", "SIEMENS MR HEADER")
    ds.add_new((0x0051, 0x100F), "LO", coil)
    refusal = read_header(ds).refusal
    assert (refusal is not None and refusal.code == "uncombined-coils") == refused


@pytest.mark.parametrize(("dims", "refused"), [("X_1_1_1", False), ("7_1_1_1", True), ("", False)])
def test_single_coil_elements_of_newer_systems_are_told_by_ice_dims(dicom_sets, dims, refused):
    ds = one(dicom_sets, "siemens_xa")
    ds.add_new((0x0021, 0x0011), "LO", "SIEMENS MR SDI 02")
    ds.add_new((0x0021, 0x114F), "LO", "HC1-7;NC1")
    ds.add_new((0x0021, 0x1106), "LO", dims)
    refusal = read_header(ds).refusal
    assert (refusal is not None and refusal.code == "uncombined-coils") == refused


@pytest.mark.parametrize(
    ("change", "later_s"),
    [
        ({"AcquisitionTime": "120101.5"}, 1.5),
        ({"AcquisitionTime": "120100.250000 "}, 0.25),
        ({"AcquisitionDate": "20200102"}, 86400),
        ({"AcquisitionDateTime": "20200101120107.125000+0100"}, 7.125),
        ({"AcquisitionTime": "***"}, None),
        ({"AcquisitionDate": ""}, None),
    ],
)
def test_the_moment_of_the_acquisition(dicom_sets, change, later_s):
    base, ds = read_header(one(dicom_sets)).acquired_s, one(dicom_sets)
    for keyword, value in change.items():
        ds[keyword] = DataElement(keyword, dictionary_VR(keyword), value, validation_mode=0)
    moment = read_header(ds).acquired_s
    assert moment is None if later_s is None else moment - base == pytest.approx(later_s)


@pytest.fixture(scope="module", params=["siemens", "ge", "philips_enhanced"])
def written(request, dicom_sets):
    made = getattr(dicom_sets, request.param)(dicom_sets.scan())
    buffer = BytesIO()
    (made[0] if isinstance(made, list) else made).save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


@settings(max_examples=80, deadline=None)
@given(data=st.data(), value=st.binary(max_size=24) | st.sampled_from([b"***", b"1\\2\\x", b"-1e400", b"\\\\"]))
def test_nonsense_in_an_element_never_raises(written, data, value):
    ds = dcmread(BytesIO(written))
    tag = data.draw(st.sampled_from(sorted(ds.keys())))
    items = {key: ds.get_item(key) for key in list(ds.keys())}
    if isinstance(items[tag], RawDataElement):
        items[tag] = items[tag]._replace(value=value, length=len(value))
    header = read_header(Dataset(items))
    assert Header.from_json(header.to_json()) == header
    acquisition_key(header)
    judge([header])


def test_an_empty_dataset_is_unreadable():
    assert read_header(Dataset()).refusal.code == "unreadable"
