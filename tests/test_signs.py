"""Signs from files to files: what each vendor stores becomes positive for iron and negative for calcium.

The fields are closed forms (Lorentz-corrected): a sphere, and an infinite cylinder at an angle to B0.
"""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest
from pydicom import dcmread

from node.derive import write_derived
from node.load import load
from node.work import report_of
from recon.highpass import Homodyne, homodyne
from recon.pipeline import Result, reconstruct
from recon.recipe import Recipe
from recon.signcheck import SignCheck
from recon.types import Acquisition, ChiMap, FieldMap, Geometry, LocalField

F0_MHZ = 123.25
SIGN = SignCheck("no evidence", (), "not looked for")
TE_S = (0.0057, 0.0124, 0.0191, 0.0258)
SHIM_PPM = (0.1, -0.1, 0.1)
"""What the shim left: a field that rises by so much from end to end along each axis."""


def grid_mm(geometry):
    """Coordinates of voxel centres from the middle, in array axes."""
    axes = [(np.arange(n) - (n - 1) / 2) * d for n, d in zip(geometry.shape, geometry.voxel_mm, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)


def sphere_ppm(r_mm, b0, chi_ppm, radius_mm):
    """Field of a sphere: 0 inside, a dipole outside."""
    distance = np.linalg.norm(r_mm, axis=-1)
    cosine = (r_mm @ b0) / np.maximum(distance, 1e-9)
    outside = chi_ppm / 3 * (radius_mm / np.maximum(distance, radius_mm)) ** 3 * (3 * cosine**2 - 1)
    return np.where(distance > radius_mm, outside, 0), distance <= radius_mm


def cylinder_ppm(r_mm, b0, axis, chi_ppm, radius_mm):
    """Field of an infinite cylinder: chi (3 cos^2 - 1) / 6 inside."""
    across = r_mm - (r_mm @ axis)[..., None] * axis
    distance = np.linalg.norm(across, axis=-1)
    b0_across = b0 - (b0 @ axis) * axis
    along = (across @ b0_across) / np.maximum(distance, 1e-9)  # sin(theta) cos(phi)
    sine2 = float(b0_across @ b0_across)
    outside = chi_ppm / 2 * (radius_mm / np.maximum(distance, radius_mm)) ** 2 * (2 * along**2 - sine2)
    inside = chi_ppm / 6 * (3 * float(b0 @ axis) ** 2 - 1)
    return np.where(distance > radius_mm, outside, inside), distance <= radius_mm


def scanned(field_ppm, geometry):
    """The field in a head of signal that was not shimmed to the end, in air of noise."""
    rng = np.random.default_rng(0)
    extent_mm = np.array(geometry.shape) * geometry.voxel_mm
    head = ((grid_mm(geometry) / (0.45 * extent_mm)) ** 2).sum(axis=-1) < 1
    field_ppm = field_ppm + (grid_mm(geometry) / extent_mm) @ SHIM_PPM
    te = np.array(TE_S)[:, None, None, None]
    signal = np.where(head, 1000 * np.exp(-te / 0.04), 0) * np.exp(2j * np.pi * field_ppm * F0_MHZ * te)
    signal = signal + rng.normal(0, 8, signal.shape) + 1j * rng.normal(0, 8, signal.shape)
    magnitude, phase = np.abs(signal).astype(np.float32), np.angle(signal).astype(np.float32)
    return Acquisition(magnitude, phase, TE_S, F0_MHZ, geometry), head


def derived(source, result, folder):
    """Stored QSM and GRE phase as volumes, read from the derived files."""
    geometry = source.acquisition.geometry
    to_index = np.linalg.inv(geometry.affine_mm)
    volumes = {name: np.zeros(geometry.shape, np.int16) for name in ("qsm", "phase")}
    for item in write_derived(source, result, report_of(source, result), folder, datetime(2026, 1, 1, tzinfo=UTC)):
        ds = dcmread(item.path)
        k = round((to_index @ [*map(float, ds.ImagePositionPatient), 1])[2])
        volumes[item.series][:, :, k] = ds.pixel_array.T
    return volumes["qsm"], volumes["phase"]


@pytest.mark.parametrize(
    ("vendor", "chi_ppm", "b0"),
    [
        ("siemens", 0.8, (0, 0, 1)),
        ("siemens", -0.8, (0.36, -0.48, 0.8)),
        ("ge", -0.8, (0, -0.98, -0.199)),
        ("philips", 0.8, (0.36, -0.48, 0.8)),
    ],
)
def test_hemorrhage_is_positive_and_calcification_negative(dicom_sets, tmp_path, vendor, chi_ppm, b0):
    b0 = np.array(b0) / np.linalg.norm(b0)
    geometry = Geometry.of((52, 48, 28), (1.5, 1.5, 2.0), tuple(b0))
    field, inside = sphere_ppm(grid_mm(geometry), b0, chi_ppm, 6.0)
    acquisition, head = scanned(field, geometry)
    source = load(dicom_sets.write(getattr(dicom_sets, vendor)(acquisition), tmp_path / "in"))
    qsm, _ = derived(source, reconstruct(source.acquisition, mask=head), tmp_path / "out")
    contrast = qsm[inside] - np.median(qsm[head & ~inside])
    assert np.mean(contrast) == pytest.approx(1000 * chi_ppm, rel=0.2)
    assert np.mean(np.sign(contrast) == np.sign(chi_ppm)) > 0.95


@pytest.mark.parametrize(
    ("vendor", "chi_ppm", "along"),
    [
        ("siemens", 0.3, True),
        ("siemens", 0.3, False),
        ("siemens", -0.3, True),
        ("siemens", -0.3, False),
        ("ge", 0.3, True),
        ("philips", -0.3, False),
    ],
)
def test_a_paramagnetic_cylinder_is_dark_along_b0_and_bright_across(dicom_sets, tmp_path, vendor, chi_ppm, along):
    b0 = np.array([0.0, 0.0, 1.0] if along else [1.0, 0.0, 0.0])
    geometry = Geometry.of((200, 180, 16), (1.2, 1.2, 2.0), tuple(b0))
    field, inside = cylinder_ppm(grid_mm(geometry), b0, np.array([0.0, 0.0, 1.0]), chi_ppm, 2.5)
    acquisition, head = scanned(field, geometry)
    source = load(dicom_sets.write(getattr(dicom_sets, vendor)(acquisition), tmp_path / "in"))
    highpass, te_s = homodyne(source.acquisition, Homodyne())
    zeros = np.zeros(geometry.shape, np.float32)
    field_map = FieldMap(zeros, zeros, zeros, zeros, zeros, 1.0)
    chi, local = ChiMap(zeros, head, "whole brain"), LocalField(zeros, head)
    result = Result(chi, local, field_map, head, zeros, highpass, te_s, Recipe(), (), SIGN)
    _, phase = derived(source, result, tmp_path / "out")
    middle = phase[..., 2:-2][inside[..., 2:-2]]
    dark = (chi_ppm > 0) == along
    assert np.mean(middle < -100 if dark else middle > 100) > 0.95
