"""Which images belong together, when they are whole, and what is said when they are not."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.assemble import acquisition_key, judge
from node.headers import read_header
from node.site import Site
from node.vendors.stated import Stated
from recon.types import Geometry

WRITERS = ["siemens", "siemens_xa", "ge", "philips"]
NAMES = {"M": "magnitude", "P": "phase", "R": "real", "I": "imaginary"}


@pytest.fixture(scope="module")
def headers(dicom_sets):
    """Headers of a three-echo scan, for each flavour."""
    scan = dicom_sets.scan(echoes=3)
    return {writer: [read_header(ds) for ds in getattr(dicom_sets, writer)(scan)] for writer in WRITERS}


def judged(images):
    """Verdicts of all groups, largest first."""
    found = sorted((read_header(ds) for ds in images), key=acquisition_key)
    groups = [list(group) for _, group in groupby(found, key=acquisition_key)]
    return [judge(group) for group in sorted(groups, key=len, reverse=True)]


@pytest.mark.parametrize("writer", WRITERS)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_order_and_repetition_make_no_difference(headers, writer, data):
    images = headers[writer]
    shuffled = data.draw(st.permutations(images))
    repeated = shuffled + data.draw(st.lists(st.sampled_from(images), max_size=20))
    assert len({acquisition_key(h) for h in repeated}) == 1
    assert judge(repeated) == judge(images)
    assert judge(images).state == ("whole" if writer.startswith("siemens") else "announced")


@pytest.mark.parametrize("writer", WRITERS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_one_missing_image_is_named(headers, writer, data):
    images = [h for h in headers[writer] if writer != "ge" or h.frames[0].component != "M"]
    gone = data.draw(st.sampled_from(images))
    verdict = judge(h for h in headers[writer] if h is not gone)
    frame = gone.frames[0]
    echo = 1 + sorted({h.frames[0].te_s for h in images}).index(frame.te_s)
    whole = judge(images).arrangement
    at = next(k for (_, _, k), p in whole.planes.items() if p.header == gone)
    assert verdict.state == "incomplete"
    assert verdict.refusal.sentence == (
        f"echo {echo}: 15 of 16 {NAMES[frame.component]} slices; missing position {whole.locations_mm[at]:g} mm"
    )


@pytest.mark.parametrize("writer", ["ge", "philips"])
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_nothing_starts_early_before_the_last_image(headers, writer, data):
    order = data.draw(st.permutations(headers[writer]))
    states = [judge(order[:n]).state for n in range(1, len(order) + 1)]
    assert "announced" not in states[:-1]
    assert states[-1] == "announced"


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_digits_of_positions_and_echo_times_do_not_matter(headers, data):
    """Magnitude and phase may be written with other digits; a rounding boundary must not part them."""
    shift_mm, shift_s = data.draw(st.floats(-0.02, 0.02)), data.draw(st.floats(-9e-6, 9e-6))
    offset_mm = data.draw(st.floats(0, 0.01))

    def moved(header, mm, s):
        frame = header.frames[0]
        normal = np.cross(frame.orientation[:3], frame.orientation[3:])
        position = tuple((frame.position_mm + mm * normal).tolist())
        return replace(header, frames=(replace(frame, position_mm=position, te_s=frame.te_s + s),))

    images = [
        moved(h, offset_mm + shift_mm, shift_s) if h.frames[0].component == "P" else moved(h, offset_mm, 0)
        for h in headers["siemens"]
    ]
    verdict = judge(images)
    assert (verdict.state, verdict.echoes, verdict.slices) == ("whole", 3, 16)


def test_slices_that_lack_in_every_echo_are_missed(headers):
    gone = headers["siemens"][5].frames[0].position_mm
    verdict = judge(h for h in headers["siemens"] if h.frames[0].position_mm != gone)
    assert verdict.state == "incomplete"
    assert re.fullmatch(r"every echo: 15 of 16 slices; missing position -?[\d.]+ mm", verdict.refusal.sentence)


def test_end_slices_that_lack_are_missed_where_the_count_is_announced(headers):
    last = headers["philips"][15].frames[0].position_mm
    verdict = judge(h for h in headers["philips"] if h.frames[0].position_mm != last)
    assert verdict.refusal.sentence == "every echo: 15 of 16 announced slices"


@pytest.mark.parametrize("writer", WRITERS)
def test_echoes_that_lack_are_missed_where_the_count_is_announced(headers, writer):
    last = max(h.frames[0].te_s for h in headers[writer])
    verdict = judge(h for h in headers[writer] if h.frames[0].te_s != last)
    assert verdict.state == "incomplete"
    assert verdict.refusal.sentence == "2 of 3 announced echoes (TE 4, 10.1 ms)"


def test_protocols_studies_and_geometries_are_kept_apart(dicom_sets):
    base = dicom_sets.siemens(dicom_sets.scan())[0]
    changes = {
        "StudyInstanceUID": "1.2.3",
        "FrameOfReferenceUID": "1.2.3",
        "ProtocolName": "t1",
        "Rows": 9,
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "PixelSpacing": [1, 1],
        "RepetitionTime": "41",
        "FlipAngle": "20",
        "AcquisitionNumber": 2,
        "ScanningSequence": "SE",
    }
    keys = {acquisition_key(read_header(base))}
    for keyword, value in changes.items():
        other = dicom_sets.siemens(dicom_sets.scan())[0]
        setattr(other, keyword, value)
        keys.add(acquisition_key(read_header(other)))
    assert len(keys) == 1 + len(changes)


def test_export_suffixes_and_series_do_not_separate(dicom_sets):
    images = dicom_sets.siemens(dicom_sets.scan())
    for ds in images:
        ds.ProtocolName = "gre_qsm_RR" if ds.ImageType[2] == "M" else "gre_qsm"
    assert [v.state for v in judged(images)] == ["whole"]


def test_scans_of_one_protocol_are_told_apart_where_a_series_holds_all(dicom_sets):
    images = dicom_sets.ge(dicom_sets.scan())
    again = dicom_sets.repeated(images, 1)
    assert [v.state for v in judged(images + again)] == ["announced", "announced"]


def test_a_repeated_siemens_scan_is_refused_rather_than_mixed(dicom_sets):
    images = dicom_sets.siemens(dicom_sets.scan())
    (verdict,) = judged(images + dicom_sets.repeated(images, 10))
    assert verdict.state == "refused"
    assert verdict.refusal.code == "duplicate-images"
    assert "(series 2, 12)" in verdict.refusal.sentence or "(series 3, 13)" in verdict.refusal.sentence


def test_the_magnitude_that_is_not_normalised_is_used(dicom_sets):
    images = dicom_sets.siemens(dicom_sets.scan(), variants=("ND\\NORM", "ND"))
    (verdict,) = judged(images)
    assert verdict.state == "whole"
    used = {p.header.series_number for (c, _, _), p in verdict.arrangement.planes.items() if c == "M"}
    assert used == {3}
    assert verdict.arrangement.unused == 32


def test_a_normalised_magnitude_alone_is_used(dicom_sets):
    (verdict,) = judged(dicom_sets.siemens(dicom_sets.scan(), variants=("ND\\NORM",)))
    assert verdict.state == "whole"


def test_real_and_imaginary_come_before_magnitude_and_phase(dicom_sets):
    (verdict,) = judged(dicom_sets.ge(dicom_sets.scan(), components="MPRI"))
    assert verdict.state == "announced"
    assert verdict.arrangement.components == ("R", "I")


def test_magnitude_and_phase_do_when_real_lacks(dicom_sets):
    images = dicom_sets.ge(dicom_sets.scan(), components="MPRI")
    (verdict,) = judged([ds for ds in images if ds.InstanceNumber != 3])
    assert verdict.state == "whole"  # not announced: an image may still come
    assert verdict.arrangement.components == ("M", "P")


@pytest.mark.parametrize(
    ("keep", "code"),
    [
        (lambda ds: ds.ImageType[2] == "M", "no-phase"),
        (lambda ds: ds.ImageType[2] == "M" or ds.EchoNumbers == 2, "phase-difference"),
        (lambda ds: ds.ImageType[2] == "P", "incomplete"),
        (lambda ds: ds.ImageType[2] == "M" or ds.EchoNumbers == 1, "incomplete"),
    ],
)
def test_components_that_lack(dicom_sets, keep, code):
    (verdict,) = judged([ds for ds in dicom_sets.siemens(dicom_sets.scan()) if keep(ds)])
    assert verdict.refusal.code == code
    assert verdict.state == ("incomplete" if code == "incomplete" else "refused")


def test_phase_of_a_manufacturer_without_a_convention_is_refused(dicom_sets):
    images = dicom_sets.siemens(dicom_sets.scan())
    for ds in images:
        ds.Manufacturer = "CANON_MEC"
    (verdict,) = judged(images)
    assert verdict.refusal.code == "unverified-sign"
    assert "CANON_MEC" in verdict.refusal.sentence
    canon = Stated("canon", 1, 8192.0)
    assert judge(map(read_header, images), Site(scanners=(canon,))).state == "whole"


def test_too_few_slices_are_refused(dicom_sets):
    (verdict,) = judged(dicom_sets.siemens(dicom_sets.scan(shape=(7, 6, 15))))
    assert verdict.refusal.code == "too-few-slices"


def test_a_site_says_how_few_echoes_will_do(dicom_sets):
    headers = [read_header(ds) for ds in dicom_sets.philips(dicom_sets.scan(echoes=2))]
    assert judge(headers, Site(min_echoes=2)).state == "announced"
    refusal = judge(headers, Site(min_echoes=3)).refusal
    assert refusal.code == "too-few-echoes"
    assert refusal.sentence == "2 echoes (TE 4, 10.1 ms); this site asks for at least 3"


@pytest.mark.parametrize("writer", WRITERS)
def test_one_echo_will_do(dicom_sets, writer):
    (verdict,) = judged(getattr(dicom_sets, writer)(dicom_sets.scan(echoes=1)))
    assert verdict.arrangement.te_s == pytest.approx((0.004,))


@pytest.mark.parametrize("writer", ["siemens", "siemens_xa"])
def test_a_lone_siemens_phase_of_a_sequence_without_a_name_may_be_a_difference(dicom_sets, writer):
    images = getattr(dicom_sets, writer)(dicom_sets.scan(echoes=1))
    for name in ("", "ANONYMIZED"):
        for ds in images:
            ds.SequenceName = name
        (verdict,) = judged(images)
        assert (verdict.state, verdict.refusal.code) == ("refused", "ambiguous-phase")


def test_slices_of_a_2d_scan_must_touch(dicom_sets):
    for thickness, code in (("2.5", None), ("2.4", None), ("2", "slice-gaps")):
        images = dicom_sets.philips(dicom_sets.scan())  # slices are 2.5 mm apart
        for ds in images:
            ds.MRAcquisitionType, ds.SliceThickness = "2D", thickness
        (verdict,) = judged(images)
        assert (verdict.refusal and verdict.refusal.code) == code


def at(images, time):
    """The images as acquired at another time."""
    for ds in images:
        ds.AcquisitionTime = time
    return images


def test_of_a_scan_that_was_repeated_the_newest_whole_one_is_taken(dicom_sets):
    first = dicom_sets.siemens(dicom_sets.scan())
    second = at(dicom_sets.repeated(first, 10), "121000")
    third = at(dicom_sets.repeated(first, 20), "122000")
    for images, series, others in ((first + second, {12, 13}, 1), (second + first + third[:40], {12, 13}, 2)):
        (verdict,) = judged(images)
        assert verdict.state == "whole"
        used = {p.header.series_number for p in verdict.arrangement.planes.values()}
        assert (used, verdict.arrangement.other_scans) == (series, others)
        assert verdict.arrangement.unused == len(images) - 64


def test_of_repeated_scans_that_are_not_whole_the_newest_says_why(dicom_sets):
    first = dicom_sets.siemens(dicom_sets.scan())[:-1]
    second = at(dicom_sets.repeated(first, 10), "121000")[:-1]
    (verdict,) = judged(first + second)
    assert verdict.state == "incomplete"
    assert "14 of 16 phase slices" in verdict.refusal.sentence


def test_images_that_are_acquired_close_together_are_not_taken_for_two_scans(dicom_sets):
    """Echoes whose header says one echo time for all are no repetitions: the last of them would be misread."""
    first = dicom_sets.siemens(dicom_sets.scan(echoes=1))
    (verdict,) = judged(first + at(dicom_sets.repeated(first, 10), "120103"))
    assert verdict.refusal.code == "duplicate-images"


def test_2d_scans_that_overlap_in_time_are_not_told_apart(dicom_sets):
    first = dicom_sets.siemens(dicom_sets.scan())
    second = at(dicom_sets.repeated(first, 10), "121000")
    at(first[5:6], "123000")
    for ds in first + second:
        ds.MRAcquisitionType = "2D"
    (verdict,) = judged(first + second)
    assert verdict.refusal.code in {"duplicate-images", "mixed-acquisitions"}


@pytest.mark.parametrize("writer", ["siemens", "siemens_xa", "philips"])
def test_single_echoes_that_were_scanned_one_after_the_other_are_no_multi_echo_scan(dicom_sets, writer):
    images = []
    for number, time in enumerate(("120000", "121000", "122000")):
        scan = replace(dicom_sets.scan(echoes=1), te_s=(0.004 + 0.006 * number,))
        images += at(dicom_sets.repeated(getattr(dicom_sets, writer)(scan), 10 * number), time)
    (verdict,) = judged(images)
    assert verdict.arrangement.te_s == pytest.approx((0.016,))
    assert verdict.arrangement.other_scans == 2


def test_a_scan_repeated_with_other_echo_times_or_moved_slices_is_not_mixed_into_the_first(dicom_sets):
    base = dicom_sets.scan(echoes=2)
    affine = base.geometry.affine_mm.copy()
    affine[:3, 3] += affine[:3, 2] / 2
    for other in (
        replace(base, te_s=(0.006, 0.0121)),
        replace(base, geometry=Geometry(base.geometry.shape, affine)),
    ):
        again = at(dicom_sets.repeated(dicom_sets.siemens(other), 10), "130000")
        (verdict,) = judged(dicom_sets.siemens(base) + again)
        assert (verdict.echoes, verdict.slices, verdict.arrangement.other_scans) == (2, 16, 1)
        assert {p.header.series_number for p in verdict.arrangement.planes.values()} == {12, 13}


def test_magnitude_and_phase_of_different_scans_are_no_pair(dicom_sets):
    images = dicom_sets.siemens(dicom_sets.scan())
    at([ds for ds in images if ds.ImageType[2] == "P"], "130000")
    (verdict,) = judged(images)
    assert (verdict.state, verdict.refusal.code) == ("incomplete", "incomplete")
    for ds in images:
        ds.MRAcquisitionType = "2D"
    (verdict,) = judged(images)
    assert verdict.refusal.code == "mixed-acquisitions"
    assert "acquired 3540 s apart" in verdict.refusal.sentence


def test_more_echoes_than_announced_are_of_more_than_one_scan(dicom_sets):
    images = dicom_sets.philips(dicom_sets.scan(echoes=3))
    for ds in images:
        ds[0x2001, 0x1014].value = 2
    (verdict,) = judged(images)
    assert verdict.refusal.code == "mixed-acquisitions"
    assert "3 echoes (TE 4, 10.1, 16.2 ms), where 2 are announced" in verdict.refusal.sentence


def test_echo_times_in_seconds_are_refused(dicom_sets):
    images = dicom_sets.siemens(dicom_sets.scan())
    for ds in images:
        ds.EchoTime = str(float(ds.EchoTime) / 10)
    assert judged(images)[0].state == "whole"
    for ds in images:
        ds.EchoTime = str(float(ds.EchoTime) / 100)
    (verdict,) = judged(images)
    assert verdict.refusal.code == "echo-times"


def test_an_echo_that_is_normalised_alone_is_refused(dicom_sets):
    images = dicom_sets.siemens(dicom_sets.scan())
    for ds in images:
        if ds.ImageType[2] == "M" and ds.EchoNumbers == 2:
            ds.ImageType = [*ds.ImageType, "NORM"]
    (verdict,) = judged(images)
    assert verdict.refusal.code == "mixed-variants"
    assert "ORIGINAL\\PRIMARY\\ND and ORIGINAL\\PRIMARY\\ND\\NORM" in verdict.refusal.sentence


def test_digits_of_spacing_and_orientation_do_not_part_images(dicom_sets):
    images = dicom_sets.siemens(dicom_sets.scan(b0_dir=(0, 0.0316, 0.9995)))
    for ds in images:
        other = ds.ImageType[2] == "P"
        ds.PixelSpacing = ["0.93749999"] * 2 if other else ["0.9375"] * 2
        ds.ImageOrientationPatient = [f"{float(v) + 2e-8 * other:.10f}" for v in ds.ImageOrientationPatient]
    assert [v.state for v in judged(images)] == ["whole"]


def test_uneven_and_shifted_slices_are_refused(dicom_sets):
    for column in (0, 2):  # along a row, and mostly along the normal
        images = dicom_sets.siemens(dicom_sets.scan(b0_dir=(0, 0, 1)))
        for ds in images:
            if ds.InstanceNumber in {8, 24}:
                position = [float(v) for v in ds.ImagePositionPatient]
                position[column] += 0.7
                ds.ImagePositionPatient = position
        (verdict,) = judged(images)
        assert verdict.refusal.code == ("mixed-geometry" if column == 0 else "uneven-slices")


def test_no_images_are_incomplete_or_refused_but_never_whole():
    assert judge([]).state == "refused"


def test_every_refusal_is_explained_to_the_administrator():
    root = Path(__file__).parents[1]
    code = re.compile(r'(?:Refusal\(\s*|, )"([a-z]+(?:-[a-z]+)+|incomplete|unreadable)"')
    codes = {found for path in (root / "node").rglob("*.py") for found in code.findall(path.read_text())}
    explained = set(re.findall(r"`([a-z-]+)`", (root / "docs" / "refusals.md").read_text()))
    assert {"no-phase", "incomplete", "processed-swi", "suspect-phase"} <= codes
    assert codes - {"reject-context"} <= explained  # a setting
