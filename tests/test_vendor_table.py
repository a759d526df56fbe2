"""One head through every vendor's files: the same complex data, every lesion's sign, whatever the orientation and
whatever became of private elements on the way.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from hypothesis import Phase, event, example, given, settings
from hypothesis import strategies as st
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element
from pydicom.tag import BaseTag
from pydicom.uid import ExplicitVRLittleEndian

from node.errors import Refused
from node.load import load
from phantoms.anatomy import head
from phantoms.protocol import Protocol
from phantoms.scanner import Vendor, as_stored, write_dicom
from phantoms.score import LesionScore, lesion_table
from phantoms.simulate import Phantom, simulate
from recon.pipeline import reconstruct
from recon.types import Acquisition, Geometry

OBLIQUE = (0.1, -0.25, 0.963)
HEAD = Protocol(
    (88, 104, 44), (2.0, 2.0, 3.0), te_s=(0.006, 0.0135, 0.021, 0.0285), tr_s=0.05, flip_deg=20.0, b0_dir=OBLIQUE
)
TINY = replace(HEAD, shape=(24, 26, 18), voxel_mm=(7.5, 8.5, 8.0), te_s=(0.003, 0.0075))
SPREAD_PPB = 20.0
PHASES = (Phase.explicit, Phase.generate)
# Half a step of magnitude and of phase, or of real and imaginary part, in shares of the largest magnitude.
QUANTISATION = {
    "siemens": np.hypot(1 / 4095, 2 * np.pi / 4096) / 2,
    "ge": np.hypot(1, 1) / 8191 / 2,
    "ge-phase": np.hypot(1 / 8191, 1e-3) / 2,
    "philips": np.hypot(1 / 4095, 2 * np.pi / 4095) / 2,
    "philips-complex": np.hypot(1, 1) / 2047 / 2,
}


@cache
def scanned(protocol: Protocol) -> Phantom:
    """The head with the demonstration lesions: four hemorrhages and four calcifications."""
    return simulate(head(103), protocol, 1)


def signal(acquisition: Acquisition) -> npt.NDArray[np.complexfloating]:
    """Complex data, the largest magnitude 1."""
    return acquisition.magnitude / acquisition.magnitude.max() * np.exp(1j * acquisition.phase)


def loaded(phantom: Phantom, vendor: Vendor) -> Acquisition:
    with TemporaryDirectory() as folder:
        return load(write_dicom(phantom, Path(folder), vendor)).acquisition


# ------------------------------------------------------------------------------------------------ the table


def table(scores: dict[Vendor, list[LesionScore]]) -> str:
    """Lesions down, vendors across: means in ppb, those of the wrong sign marked."""
    lines = ["lesion        mm^3   true  " + "  ".join(scores)]
    for row in zip(*scores.values(), strict=True):
        found = [f"{score.measured_ppb:+.0f}{'' if score.sign_right else ' WRONG'}" for score in row]
        cells = "  ".join(cell.rjust(len(vendor)) for vendor, cell in zip(scores, found, strict=True))
        lines.append(f"{row[0].kind:13} {row[0].volume_mm3:4.0f} {row[0].true_ppb:+6.0f}  {cells}")
    return "\n" + "\n".join(lines)


def test_one_lesion_table_for_all_vendors() -> None:
    """Files that hold the same numbers give the same map: it is reconstructed once."""
    phantom = scanned(HEAD)
    truth = signal(phantom.acquisition)
    maps: list[tuple[Acquisition, list[LesionScore]]] = []
    scores: dict[Vendor, list[LesionScore]] = {}
    for vendor in Vendor:
        got = loaded(phantom, vendor)
        found = signal(got)
        found *= np.vdot(truth, truth).real / np.vdot(truth, found).real  # each vendor has its unit of magnitude
        bound = next(QUANTISATION[name] for name in (vendor, vendor.split("-")[0]) if name in QUANTISATION)
        assert np.abs(found - truth).max() < 1.01 * bound, vendor
        known = (lesions for other, lesions in maps if equal(got, other))
        scores[vendor] = next(known, None) or lesion_table(reconstruct(got, mask=phantom.brain).chi.chi_ppm, phantom)
        maps.append((got, scores[vendor]))
    rows = list(zip(*scores.values(), strict=True))
    assert [sum(row[0].kind == kind for row in rows) for kind in ("hemorrhage", "calcification")] == [4, 4]
    assert all(score.sign_right for row in rows for score in row), table(scores)
    # One acquisition, stored in 2047 to 8191 steps: 6 ppb apart.
    spread = max(max(s.measured_ppb for s in row) - min(s.measured_ppb for s in row) for row in rows)
    assert spread < SPREAD_PPB, table(scores)


def equal(one: Acquisition, other: Acquisition) -> bool:
    same = np.array_equal(one.phase, other.phase) and np.array_equal(one.magnitude, other.magnitude)
    return same and np.array_equal(one.geometry.affine_mm, other.geometry.affine_mm)


# ------------------------------------------------------------------------------------------------ orientation


def turned(phantom: Phantom, order: tuple[int, ...], flips: tuple[bool, ...]) -> Phantom:
    """The same patient in the same magnet, sliced otherwise; slices may run against the normal.

    Axis i of the new arrays is axis ``order[i]`` of the old, from its other end where ``flips[i]``.
    """
    acquisition, old = phantom.acquisition, phantom.acquisition.geometry
    affine = np.eye(4)
    affine[:3, :3] = old.affine_mm[:3, list(order)] * np.where(flips, -1, 1)
    corner = np.zeros(3)
    corner[list(order)] = [old.shape[axis] - 1 if flip else 0 for axis, flip in zip(order, flips, strict=True)]
    affine[:3, 3] = old.affine_mm[:3, :3] @ corner + old.affine_mm[:3, 3]

    def turn(volume: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        reversed_axes = [axis + 1 for axis in range(3) if flips[axis]]
        return np.ascontiguousarray(np.flip(volume.transpose(0, *(axis + 1 for axis in order)), reversed_axes))

    x, y, z = (old.shape[axis] for axis in order)
    made = replace(
        acquisition,
        magnitude=turn(acquisition.magnitude),
        phase=turn(acquisition.phase),
        geometry=Geometry((x, y, z), affine),
    )
    return replace(phantom, acquisition=made)


def places(geometry: Geometry, of: Geometry) -> tuple[npt.NDArray[np.intp], ...]:
    """For each voxel of ``of`` the index of the voxel of ``geometry`` at the same place in the patient."""
    to_index = np.linalg.inv(geometry.affine_mm) @ of.affine_mm
    grid = np.stack([*np.indices(of.shape), np.ones(of.shape)], axis=0)
    index = np.tensordot(to_index, grid, 1)[:3]
    assert np.abs(index - np.rint(index)).max() < 1e-3
    return tuple(np.rint(index).astype(np.intp))


ORDERS = st.permutations((0, 1, 2)).map(tuple)
FLIPS = st.tuples(st.booleans(), st.booleans(), st.booleans())


@settings(max_examples=12, deadline=None, derandomize=True, phases=PHASES)
@given(vendor=st.sampled_from(Vendor), order=ORDERS, flips=FLIPS)
def test_every_voxel_comes_back_to_its_place_in_the_patient(
    vendor: Vendor, order: tuple[int, ...], flips: tuple[bool, ...]
) -> None:
    tiny = scanned(TINY)
    got, said = loaded(turned(tiny, order, flips), vendor), signal(as_stored(tiny, vendor))
    found = signal(got)[:, *places(got.geometry, tiny.acquisition.geometry)]
    if vendor.startswith("ge"):  # which half of the slices is negated is not said
        found *= np.sign(np.vdot(said, found).real)
    assert np.abs(found - said).max() < 2e-3


@settings(max_examples=1, deadline=None, derandomize=True, phases=PHASES)
@given(vendor=st.sampled_from(Vendor), order=ORDERS, flips=FLIPS)
@example(vendor=Vendor.GE, order=(1, 2, 0), flips=(False, True, True))  # sagittal, slices against the normal
@example(vendor=Vendor.SIEMENS_XA_ENHANCED, order=(0, 2, 1), flips=(False, True, False))  # coronal
def test_lesions_keep_place_and_sign_in_any_orientation(
    vendor: Vendor, order: tuple[int, ...], flips: tuple[bool, ...]
) -> None:
    phantom = scanned(HEAD)
    got, grid = loaded(turned(phantom, order, flips), vendor), phantom.acquisition.geometry
    brain = np.ascontiguousarray(phantom.brain[places(grid, got.geometry)])
    chi_ppm = reconstruct(got, mask=brain).chi.chi_ppm[places(got.geometry, grid)]
    for score in lesion_table(chi_ppm, phantom):
        assert score.sign_right, score
        assert abs(score.error) < 0.35, score


# ------------------------------------------------------------------------------------------------ private elements


@cache
def exported(vendor: Vendor) -> tuple[tuple[bytes, ...], tuple[BaseTag, ...]]:
    """The files of the small head, and the private elements in them, creators included."""
    with TemporaryDirectory() as folder:
        files = tuple(path.read_bytes() for path in write_dicom(scanned(TINY), Path(folder), vendor))
    objects = (pydicom.dcmread(BytesIO(file)) for file in files)
    tags = {element.tag for ds in objects for item in items(ds) for element in item if element.tag.is_private}
    return files, tuple(sorted(tags))


def items(ds: Dataset) -> Iterator[Dataset]:
    """The dataset, and every item of its sequences."""
    yield ds
    for element in ds:
        if element.VR == "SQ":
            for item in element.value:
                yield from items(item)


def without_vr(element: DataElement) -> DataElement:
    """As what went through a system that does not know the element, in Implicit VR."""
    if element.VR == "UN":
        return element
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, True
    write_data_element(buffer, element)
    return DataElement(element.tag, "UN", buffer.getvalue()[8:])


def changed(file: bytes, fate: dict[BaseTag, str]) -> Dataset:
    """The object, after some of its private elements were lost or became unknown."""
    ds = pydicom.dcmread(BytesIO(file))
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    for item in list(items(ds)):
        for tag in [tag for tag in fate if tag in item and fate[tag] != "kept"]:
            if fate[tag] == "unknown":
                item[tag] = without_vr(item[tag])
            else:
                del item[tag]
    return ds


MOST = 24
"""No export has more private elements."""


@pytest.mark.parametrize("vendor", Vendor)
@settings(max_examples=3, deadline=None, derandomize=True, phases=PHASES)
@given(
    fates=st.lists(st.sampled_from(["kept", "lost", "unknown"]), min_size=MOST, max_size=MOST),
    every=st.integers(1, 3),
)
@example(fates=["lost"] * MOST, every=1)
@example(fates=["lost"] * MOST, every=2)
@example(fates=["lost"] * MOST, every=3)
@example(fates=["unknown"] * MOST, every=1)
@example(fates=["unknown"] * MOST, every=2)
@example(fates=["lost", "unknown", "unknown"] * (MOST // 3), every=2)  # of Philips the creators are lost
def test_private_elements_lost_or_without_vr_never_change_the_data(
    vendor: Vendor, fates: list[str], every: int
) -> None:
    """In every object, in every second or in every third one: read to the same, or refused."""
    files, tags = exported(vendor)
    assert len(tags) <= MOST
    with TemporaryDirectory() as folder:
        for number, file in enumerate(files):
            ds = changed(file, dict(zip(tags, fates, strict=False)) if number % every == 0 else {})
            ds.save_as(Path(folder) / f"{number}.dcm", enforce_file_format=True)
        try:
            got = load(Path(folder).iterdir()).acquisition
        except Refused as refused:
            event(f"refused: {refused.refusal.code}")
            return
    event("read")
    assert np.abs(signal(got) - signal(as_stored(scanned(TINY), vendor))).max() < 1e-5
