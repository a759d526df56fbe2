"""A phantom as each vendor's DICOM loads back, bit for bit, to what `as_stored` says, and that is the phantom."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.assemble import acquisition_key, judge
from node.derive import write_derived
from node.headers import read_header
from node.load import load
from node.work import report_of
from phantoms.anatomy import head
from phantoms.lesions import Lesion
from phantoms.protocol import SMALL_PROTOCOL
from phantoms.scanner import Vendor, as_stored, philips, siemens, write_dicom
from phantoms.scanner.pixels import PhaseCode
from phantoms.simulate import Phantom, simulate
from recon.pipeline import reconstruct
from recon.recipe import Recipe

AXIAL = replace(SMALL_PROTOCOL, shape=(40, 38, 20), voxel_mm=(5.2, 5.4, 7.2), te_s=(0.0057, 0.0124))
PROTOCOLS = {"axial": AXIAL, "oblique": replace(AXIAL, b0_dir=(0.1, -0.25, 0.963))}
LESIONS = (
    Lesion("hemorrhage", 0.8, (-30.0, -30.0, 20.0), (12.0, 9.0, 10.0)),
    Lesion("calcification", -1.1, (31.0, 40.0, 22.0), (10.0, 10.0, 9.0)),
)
every_vendor = pytest.mark.parametrize("vendor", Vendor)
both_ways = pytest.mark.parametrize("tilt", PROTOCOLS)


@pytest.fixture(scope="module")
def scanned() -> Callable[[str], Phantom]:
    """The head, scanned axial or oblique."""
    return cache(lambda tilt: simulate(head(2, LESIONS), PROTOCOLS[tilt], seed=3))


@pytest.fixture(scope="module")
def written(
    scanned: Callable[[str], Phantom], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Vendor, str], list[Path]]:
    """The files of a scan."""
    return cache(lambda vendor, tilt: write_dicom(scanned(tilt), tmp_path_factory.mktemp(f"{vendor}-{tilt}"), vendor))


def on_circle(angle: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    return np.angle(np.exp(1j * angle.astype(np.float64)))


@every_vendor
@both_ways
def test_files_load_to_what_as_stored_says_bit_for_bit(
    scanned: Callable[[str], Phantom], written: Callable[[Vendor, str], list[Path]], vendor: Vendor, tilt: str
) -> None:
    got, said = load(written(vendor, tilt)).acquisition, as_stored(scanned(tilt), vendor)
    np.testing.assert_array_equal(got.magnitude, said.magnitude)
    np.testing.assert_array_equal(got.phase, said.phase)
    assert (got.te_s, got.f0_mhz, got.geometry.shape) == (said.te_s, said.f0_mhz, said.geometry.shape)
    np.testing.assert_array_equal(got.geometry.affine_mm, said.geometry.affine_mm)


@every_vendor
@both_ways
def test_what_is_stored_is_the_phantom_within_a_quantisation_step(
    scanned: Callable[[str], Phantom], vendor: Vendor, tilt: str
) -> None:
    """Half a step: of R and of I, or of magnitude and of phase."""
    truth, said = scanned(tilt).acquisition, as_stored(scanned(tilt), vendor)
    largest = {"siemens": 4095, "ge": 8191, "philips": None}[vendor.split("-")[0]]
    gain = largest / truth.magnitude.max() if largest else 1.0
    top = 2047 if vendor is Vendor.PHILIPS_COMPLEX else largest or 4095
    step = gain * truth.magnitude.max() / top
    if vendor in {Vendor.GE, Vendor.PHILIPS_COMPLEX}:
        difference = said.magnitude * np.exp(1j * said.phase) - gain * truth.magnitude * np.exp(1j * truth.phase)
        assert np.abs(difference).max() < 0.501 * np.sqrt(2) * step
    else:
        turn = {"siemens": 4096, "ge": 2000 * np.pi, "philips": 4095}[vendor.split("-")[0]]
        assert np.abs(on_circle(said.phase - truth.phase)).max() < 0.501 * 2 * np.pi / turn
        assert np.abs(said.magnitude - gain * truth.magnitude).max() < 0.501 * step
    assert said.te_s == pytest.approx(truth.te_s, abs=1e-12)
    assert said.f0_mhz == pytest.approx(truth.f0_mhz, abs=5e-7)  # to the Hz
    np.testing.assert_allclose(said.geometry.affine_mm, truth.geometry.affine_mm, atol=1e-9)
    np.testing.assert_allclose(said.geometry.b0_dir, truth.geometry.b0_dir, atol=1e-9)


@every_vendor
def test_nothing_lacks_and_counts_are_announced_where_the_vendor_does(
    written: Callable[[Vendor, str], list[Path]], vendor: Vendor
) -> None:
    found = [read_header(pydicom.dcmread(path)) for path in written(vendor, "oblique")]
    assert len({acquisition_key(header) for header in found}) == 1
    verdict = judge(found)
    silent_on_slices = vendor.startswith("siemens")
    assert verdict.state == ("whole" if silent_on_slices else "announced")
    assert (verdict.echoes, verdict.slices) == (2, 20)
    assert {header.announced_echoes for header in found} == {2}


@every_vendor
def test_lesions_keep_their_sign_from_files_to_files(
    scanned: Callable[[str], Phantom], written: Callable[[Vendor, str], list[Path]], tmp_path: Path, vendor: Vendor
) -> None:
    phantom, source = scanned("oblique"), load(written(vendor, "oblique"))
    result = reconstruct(source.acquisition, Recipe(), mask=phantom.brain)
    chi_ppb = np.zeros(phantom.chi_ppm.shape)
    to_index = np.linalg.inv(phantom.acquisition.geometry.affine_mm)
    for item in write_derived(source, result, report_of(source, result), tmp_path, datetime(2026, 1, 1, tzinfo=UTC)):
        ds = pydicom.dcmread(item.path)
        if item.series == "qsm":
            chi_ppb[:, :, round((to_index @ [*map(float, ds.ImagePositionPatient), 1])[2])] = ds.pixel_array.T
    bleed, stone = (np.mean(chi_ppb[lesion.mask]) for lesion in phantom.lesions)
    assert bleed > 300
    assert stone < -300


@pytest.mark.parametrize("code", [siemens.PHASE, philips.PHASE])
@settings(deadline=None)
@given(phase=st.floats(-10, 10, width=32))
def test_stored_phase_is_the_nearest_step_of_the_circle(code: PhaseCode, phase: float) -> None:
    stored = code.encode(np.full((1, 1), phase, np.float32))
    assert 0 <= stored[0, 0] < code.turn
    assert abs(on_circle(code.decode(stored) - phase)[0, 0]) < 0.501 * 2 * np.pi / code.turn


def test_siemens_phase_covers_the_circle() -> None:
    phase = np.array([[-np.pi, -np.pi / 2, 0, np.pi / 2, np.pi]], dtype=np.float32)
    assert siemens.PHASE.encode(phase).tolist() == [[0, 1024, 2048, 3072, 0]]
