"""Real vendor files: every case ends as its table says, reconstructed with the right sign or refused by name."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime

import nibabel as nib
import numpy as np
import pytest
from pydicom import dcmread

from node.headers import Header, read_header
from node.load import load
from node.offline import exit_code, reconstruct_folder
from recon.filtered import filtered_echo
from recon.highpass import Homodyne, homodyne
from recon.types import Acquisition, Geometry

REFUSED = {
    "siemens-megre-3echo-oneslice": {"incomplete": 1},
    "siemens-ve11-fieldmap-phasediff": {"phase-difference": 1},
    "siemens-xa30-interop-phasediff": {"phase-difference": 1},
    "ge-b0map-hz-brain": {"field-map-hz": 1},
    "philips-enhanced-b0map-hz": {"field-map-hz": 1},
    "philips-swip-reject": {"processed-swi": 1},
    "vendor-headers-nonqsm": {"no-phase": 2, "epi-or-mosaic": 5},
}
SENTENCES = {
    "siemens-megre-3echo-oneslice": "3 of 6 announced echoes (TE 4, 10, 16 ms)",
    "siemens-ve11-fieldmap-phasediff": "phase missing for echo 1 (TE 5.19 ms)",
    "siemens-xa30-interop-phasediff": "phase missing for echo 1 (TE 10 ms)",
}
RECONSTRUCTED = {"philips-classic-2echo-head", "ge-3d-2echo-mag-real-imag"}
NOT_DICOM = {"romeo-3echo-brainblock-nifti"}


def outcomes(source, out, **given):
    return list(reconstruct_folder(source, out, datetime(2026, 1, 1, tzinfo=UTC), **given))


def test_every_case_is_in_the_table(vendor_data):
    cases = set(re.findall(r"^\| `([a-z0-9-]+)` \|", (vendor_data / "README.md").read_text(), re.MULTILINE))
    assert cases == set(REFUSED) | RECONSTRUCTED | NOT_DICOM


@pytest.mark.parametrize("case", sorted(REFUSED))
def test_what_is_not_complex_gradient_echo_is_refused_by_name(vendor_data, tmp_path, case):
    found = outcomes(vendor_data / case, tmp_path)
    assert {outcome.state for outcome in found} == {"refused"}
    assert Counter(outcome.message.split(":")[0] for outcome in found) == REFUSED[case]
    assert SENTENCES.get(case, "") in found[0].message
    assert exit_code(found) == 3
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("case", sorted(set(REFUSED) | RECONSTRUCTED))
def test_headers_go_through_json(vendor_data, dicom_sets, case):
    headers = [read_header(dicom_sets.header_only(path)) for path in dicom_sets.dicom_files(vendor_data / case)]
    assert all(Header.from_json(h.to_json()) == h for h in headers)


def test_philips_head_is_read_with_the_right_sign(vendor_data, dicom_sets):
    source = load(dicom_sets.dicom_files(vendor_data / "philips-classic-2echo-head"))
    acquisition = source.acquisition
    assert acquisition.magnitude.shape == (2, 80, 80, 53)
    assert acquisition.te_s == pytest.approx((0.0023, 0.0046))
    assert acquisition.geometry.b0_dir == pytest.approx((0.061, -0.002, 0.998), abs=1e-3)
    assert acquisition.geometry.voxel_mm == pytest.approx((3, 3, 3), abs=1e-5)
    # The field is higher above the sphenoid sinus than in the middle of the head.
    bright = acquisition.magnitude[0] > 0.3 * acquisition.magnitude[0].max()
    rise = np.angle(np.exp(1j * (acquisition.phase[1] - acquisition.phase[0])))
    sinus, centre = (slice(36, 44), slice(14, 22), slice(22, 26)), (slice(36, 44), slice(36, 44), slice(34, 38))
    assert rise[sinus][bright[sinus]].mean() > rise[centre][bright[centre]].mean() + 0.5


def test_ge_abdomen_is_read_with_the_right_sign(vendor_data, dicom_sets):
    source = load(dicom_sets.dicom_files(vendor_data / "ge-3d-2echo-mag-real-imag"))
    acquisition = source.acquisition
    assert acquisition.magnitude.shape == (2, 256, 256, 16)
    assert acquisition.geometry.b0_dir == pytest.approx((0, -0.98, -0.199), abs=1e-3)
    assert "alternation removed" in source.convention
    strong = acquisition.magnitude[0] > 0.2 * acquisition.magnitude[0].max()
    between = np.abs(np.angle(np.exp(1j * np.diff(acquisition.phase[0], axis=2))))
    assert np.median(between[strong[..., 1:] & strong[..., :-1]]) < 0.4
    # Conjugated: the field rises below the lung. Rows run from head to feet; the liver's dome is at the right.
    rise = np.angle(np.exp(1j * (acquisition.phase[1] - acquisition.phase[0])))
    dome, depth = np.median(rise[60:90, 62:70, 5:9]), np.median(rise[60:90, 95:110, 5:9])
    assert dome > depth + 0.3


@pytest.mark.parametrize("case", sorted(RECONSTRUCTED | NOT_DICOM))
def test_real_phase_is_told_from_its_filtered_self(vendor_data, dicom_sets, case):
    if case in NOT_DICOM:  # stored as a fraction of a turn; its echo times are not known
        magnitude, phase = (
            np.moveaxis(nib.load(vendor_data / case / name).get_fdata(dtype=np.float32), -1, 0)
            for name in ("Mag.nii", "Phase.nii")
        )
        phase *= np.float32(np.pi) / np.abs(phase).max()
        grid = Geometry.of(magnitude.shape[1:], (0.47, 0.47, 1.0))
        real = Acquisition(magnitude, phase, (0.004, 0.008, 0.012), 127.7, grid)
    else:
        real = load(dicom_sets.dicom_files(vendor_data / case)).acquisition
    assert filtered_echo(real) is None
    for samples in (32, 64):
        filtered = np.stack([homodyne(real, Homodyne(samples, te_s))[0] for te_s in real.te_s])
        assert filtered_echo(replace(real, phase=filtered)) is not None


def test_real_head_has_bright_iron(vendor_data, tmp_path):
    (outcome,) = outcomes(vendor_data / "philips-classic-2echo-head", tmp_path)
    assert outcome.state == "done"
    images = [dcmread(path) for path in outcome.files if path.name.startswith("qsm")]
    images.sort(key=lambda ds: ds.ImagePositionPatient[2])
    ppb = np.stack([ds.pixel_array for ds in images])
    level = np.median(ppb[28][ppb[28] != 0])
    for left in (31, 44):  # lentiform nuclei
        assert np.median(ppb[28, 35:42, left : left + 5]) > level + 60


def test_real_ge_scan_is_reconstructed(vendor_data, dicom_sets, tmp_path):
    case = vendor_data / "ge-3d-2echo-mag-real-imag"
    acquisition = load(dicom_sets.dicom_files(case)).acquisition
    liver = np.zeros(acquisition.geometry.shape, np.uint8)
    liver[50:100, 70:115, 3:13] = 1
    mask = tmp_path / "liver.nii"
    nib.save(nib.Nifti1Image(liver, np.diag([-1, -1, 1, 1]) @ acquisition.geometry.affine_mm), mask)
    (outcome,) = outcomes(case, tmp_path, mask=mask)
    assert outcome.state == "done"
    assert len(outcome.files) == 32
    assert any("zero-filled" in warning for warning in outcome.report.warnings)
