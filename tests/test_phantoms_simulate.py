"""The simulated acquisition: noise, decay, phase, alignment with its truth, truth against closed forms."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from phantoms.anatomy import Head, head
from phantoms.atlas import LABEL, TISSUES
from phantoms.lesions import Lesion
from phantoms.physics import centred_axes, dipole_field, steady_state
from phantoms.protocol import REFERENCE_PROTOCOL, SMALL_PROTOCOL, Protocol
from phantoms.sequence import images
from phantoms.shapes import Chart
from phantoms.simulate import Phantom, simulate
from recon.types import BadInput, BoolArray, FloatArray, Vector

TINY = replace(SMALL_PROTOCOL, shape=(48, 48, 32), voxel_mm=(4.3, 4.3, 4.5), te_s=(0.006, 0.012, 0.018))
LESIONS = (
    Lesion("hemorrhage", 0.8, (-30.0, -30.0, 20.0), (11.0, 9.0, 10.0), (20.0, 0.0, 40.0), 0.0),
    Lesion("calcification", -1.1, (31.0, 40.0, 22.0), (9.0, 9.0, 9.0), irregularity=0.0),
)


@cache
def known_head(lesions: tuple[Lesion, ...]) -> Head:
    return head(1, lesions)


@cache
def phantom(protocol: Protocol = TINY, seed: int = 0) -> Phantom:
    return simulate(known_head(LESIONS), protocol, seed)


def image(of: Phantom) -> npt.NDArray[np.complex128]:
    return np.asarray(of.acquisition.magnitude * np.exp(1j * of.acquisition.phase.astype(np.float64)))


def eroded_white_matter(of: Phantom) -> BoolArray:
    return (of.labels == LABEL["white matter"]) & of.brain


def test_reference_protocol_is_that_of_chen_2014() -> None:
    assert REFERENCE_PROTOCOL.te_s == pytest.approx([0.0057 + 0.0067 * echo for echo in range(8)])
    assert REFERENCE_PROTOCOL.shape == (416, 320, 72)
    assert np.multiply(REFERENCE_PROTOCOL.shape[:2], REFERENCE_PROTOCOL.voxel_mm[:2]) == pytest.approx([240, 240])
    assert REFERENCE_PROTOCOL.f0_mhz == pytest.approx(127.732, abs=1e-3)


def test_the_same_arguments_give_the_same_phantom() -> None:
    again = simulate(head(1, LESIONS), TINY)
    np.testing.assert_array_equal(again.acquisition.magnitude, phantom().acquisition.magnitude)
    np.testing.assert_array_equal(again.acquisition.phase, phantom().acquisition.phase)
    np.testing.assert_array_equal(again.chi_ppm, phantom().chi_ppm)


@pytest.mark.parametrize("threads", [1, 3])
def test_the_number_of_threads_changes_no_bit(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phantoms.physics.threads", lambda: threads)
    again = simulate(known_head(LESIONS), TINY)
    np.testing.assert_array_equal(again.acquisition.magnitude, phantom().acquisition.magnitude)
    np.testing.assert_array_equal(again.acquisition.phase, phantom().acquisition.phase)
    np.testing.assert_array_equal(again.chi_ppm, phantom().chi_ppm)


def test_another_scan_has_other_noise_and_the_same_truth() -> None:
    other = phantom(seed=1)
    np.testing.assert_array_equal(other.chi_ppm, phantom().chi_ppm)
    assert (other.acquisition.magnitude != phantom().acquisition.magnitude).mean() > 0.99


def test_noise_is_white_and_as_strong_as_the_snr_says() -> None:
    """Against the same scan almost without noise: mean 0, the right deviation in both channels, no correlation."""
    clean = image(phantom(replace(TINY, snr=1e9)))
    noise = image(phantom()) - clean
    white = eroded_white_matter(phantom())
    expected = np.abs(clean[0][white]).mean() / TINY.snr
    count = noise[0].size
    for echo in noise:
        for channel in (echo.real, echo.imag):
            # Six standard errors.
            assert abs(channel.mean()) < 6 * expected / np.sqrt(count)
            assert channel.std() == pytest.approx(expected, rel=6 / np.sqrt(2 * count))
            kurtosis = ((channel / channel.std()) ** 4).mean()
            assert kurtosis == pytest.approx(3, abs=6 * np.sqrt(24 / count))
    assert abs(np.vdot(noise[0], noise[1])) < 6 * 2 * expected**2 * np.sqrt(count)
    assert abs((noise[0].real * noise[0].imag).mean()) < 6 * expected**2 / np.sqrt(count)


def test_snr_is_that_of_white_matter_at_the_first_echo() -> None:
    measured = phantom().acquisition.magnitude[0][eroded_white_matter(phantom())].mean()
    other = phantom(replace(TINY, snr=30))
    sigma = np.std(image(other) - image(phantom(replace(TINY, snr=1e9)))) / np.sqrt(2)
    assert measured / sigma == pytest.approx(30, rel=0.01)


def test_magnitude_of_air_is_rayleigh() -> None:
    """Where there is no signal: mean sqrt(pi / 2), mean square 2 standard deviations of a channel."""
    clean = phantom(replace(TINY, snr=1e9)).acquisition.magnitude[0]
    scan = phantom(replace(TINY, snr=20))
    sigma = clean[eroded_white_matter(scan)].mean() / 20
    air = scan.acquisition.magnitude[0][clean < 0.02 * sigma].astype(np.float64) / sigma
    assert air.size > 500
    # Six standard errors.
    assert air.mean() == pytest.approx(np.sqrt(np.pi / 2), abs=6 * np.sqrt((2 - np.pi / 2) / air.size))
    assert np.square(air).mean() == pytest.approx(2, abs=6 * 2 / np.sqrt(air.size))


def test_white_matter_decays_with_its_r2s() -> None:
    white = eroded_white_matter(phantom())
    magnitude = phantom().acquisition.magnitude
    rates = np.log(magnitude[0][white] / magnitude[2][white]) / (TINY.te_s[2] - TINY.te_s[0])
    assert np.median(rates) == pytest.approx(TISSUES[LABEL["white matter"]].r2s_hz, rel=0.1)


def test_steady_state_of_a_spoiled_gradient_echo() -> None:
    """The Ernst angle is where the signal is largest; at 90 degrees the signal is pd (1 - E1)."""
    tissue = TISSUES[LABEL["white matter"]]
    e1 = np.exp(-0.057 / tissue.t1_s)
    assert steady_state(tissue, 0.057, 90) == pytest.approx(tissue.pd * (1 - e1))
    ernst = float(np.rad2deg(np.arccos(e1)))
    best = steady_state(tissue, 0.057, ernst)
    assert best > steady_state(tissue, 0.057, ernst - 1)
    assert best > steady_state(tissue, 0.057, ernst + 1)


@pytest.mark.parametrize("b0_dir", [(0.0, 0.0, 1.0), (0.0, 0.6, 0.8)])
def test_phase_rises_with_the_field(b0_dir: tuple[float, float, float]) -> None:
    """Around strong lesions the phase gained between echoes follows the field of the true susceptibility."""
    with_lesions = phantom(replace(TINY, b0_dir=b0_dir, snr=1e6))
    without = simulate(known_head(()), replace(TINY, b0_dir=b0_dir, snr=1e6))
    signals = [image(p) for p in (with_lesions, without)]
    gained = np.angle(signals[0][1] * signals[0][0].conj() * (signals[1][1] * signals[1][0].conj()).conj())
    measured_ppm = gained / (2 * np.pi * (TINY.te_s[1] - TINY.te_s[0]) * TINY.f0_mhz)
    source = with_lesions.chi_ppm - without.chi_ppm
    field = dipole_field(source, TINY.voxel_mm, b0_dir)
    lesions = with_lesions.lesions[0].mask | with_lesions.lesions[1].mask
    around = with_lesions.brain & ~lesions & (np.abs(field) > 0.01) & (np.abs(field) < 0.1)
    assert around.sum() > 100
    slope = (measured_ppm[around] @ field[around]) / (field[around] @ field[around])
    assert np.corrcoef(measured_ppm[around], field[around])[0, 1] > 0.95
    assert slope == pytest.approx(1, abs=0.1)


def gained_ppm(chi_ppm: FloatArray, protocol: Protocol) -> npt.NDArray[np.float64]:
    """Field that the phase between two echoes shows, of white matter with this susceptibility on the fine grid."""
    field_hz = dipole_field(chi_ppm, protocol.fine_voxel_mm, protocol.b0_dir) * np.float32(protocol.f0_mhz)
    label = np.full(protocol.fine_shape, LABEL["white matter"], dtype=np.uint8)
    corners = tuple(np.array([-100.0, 100.0], dtype=np.float32) for _ in range(3))
    flat, offset = (
        Chart(np.full((2, 2, 2), value, np.float32), (corners[0], corners[1], corners[2])) for value in (1, 0.7)
    )
    first, second = images(known_head(()), label, field_hz, (flat, offset), protocol, 0)
    turns = np.angle(second.astype(np.complex128) * first.conj()) / (2 * np.pi)
    return np.asarray(turns / (protocol.te_s[1] - protocol.te_s[0]) / protocol.f0_mhz)


BODY = replace(TINY, shape=(64, 64, 40), voxel_mm=(1.0, 1.0, 1.0), te_s=(0.002, 0.004))


@pytest.mark.parametrize("b0_dir", [(0.0, 0.0, 1.0), (0.48, 0.64, 0.6)])
def test_phase_of_a_sphere(b0_dir: Vector) -> None:
    """Inside 0, outside chi/3 (a/r)^3 (3 cos^2 - 1): closed form of the field in the phase of the images."""
    protocol, radius, chi = replace(BODY, b0_dir=b0_dir), 7.0, 0.8
    x, y, z = np.meshgrid(*centred_axes(protocol.fine_shape, protocol.fine_voxel_mm), indexing="ij")
    measured = gained_ppm((chi * (x * x + y * y + z * z < radius**2)).astype(np.float32), protocol)
    x, y, z = np.meshgrid(*centred_axes(protocol.shape, protocol.voxel_mm), indexing="ij")
    r = np.sqrt(x * x + y * y + z * z)
    cosine = (x * b0_dir[0] + y * b0_dir[1] + z * b0_dir[2]) / r
    expected = chi / 3 * (radius / r) ** 3 * (3 * cosine**2 - 1)
    # Steps of the phase at the surface, and of the signal at the ends of the slab, ring over three voxels.
    outside = (r > radius + 3) & (r < 14)
    assert np.abs(measured - expected)[outside].max() < 0.03 * chi
    assert abs(measured[r < radius - 2.5].mean()) < 0.003 * chi
    slope = (measured[outside] @ expected[outside]) / (expected[outside] @ expected[outside])
    assert slope == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("angle_deg", [0.0, 40.0, 90.0])
def test_phase_of_a_cylinder(angle_deg: float) -> None:
    """An endless vein at an angle to B0: chi/6 (3 cos^2 - 1) inside, chi/2 sin^2 (a/r)^2 cos 2 phi outside."""
    radius, chi, angle = 5.0, 0.8, np.deg2rad(angle_deg)
    protocol = replace(BODY, b0_dir=(float(np.sin(angle)), 0.0, float(np.cos(angle))))
    x, y, _ = centred_axes(protocol.fine_shape, protocol.fine_voxel_mm)
    disc = chi * (x[:, None] ** 2 + y[None, :] ** 2 < radius**2)
    cylinder = np.repeat(disc[:, :, None], protocol.fine_shape[2], axis=2).astype(np.float32)
    section = gained_ppm(cylinder, protocol)[:, :, 20]
    x, y, _ = centred_axes(protocol.shape, protocol.voxel_mm)
    r = np.hypot(x[:, None], y[None, :])
    outside = chi / 2 * np.sin(angle) ** 2 * (radius / r) ** 2 * (x[:, None] ** 2 - y[None, :] ** 2) / r**2
    # The field is known but for a constant: compare against a far ring.
    far = (r > 22) & (r < 28)
    section = section - section[far].mean()
    ring = (r > radius + 2) & (r < 14)
    assert section[r < radius - 2].mean() == pytest.approx(chi / 6 * (3 * np.cos(angle) ** 2 - 1), abs=0.02 * chi)
    assert np.abs(section - outside)[ring].max() < 0.04 * chi


def centre_of_mass(weight: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """In voxels."""
    profiles = [weight.sum(axis=tuple(j for j in range(3) if j != i), dtype=np.float64) for i in range(3)]
    return np.array([profile @ np.arange(profile.size) / profile.sum() for profile in profiles])


@pytest.mark.parametrize("oversampling", [2, 3])
def test_images_lie_where_the_truth_lies(oversampling: int) -> None:
    """The signal that a dark lesion takes away is centred where its susceptibility is, to a tenth of a voxel.

    The points of the fine grid that the k-space crop keeps lie (oversampling - 1) / (2 oversampling) voxels off.
    """
    protocol = replace(TINY, te_s=(1e-6,), snr=1e6, oversampling=oversampling)
    dark = Lesion("calcification", -1.0, (27.0, 4.0, 31.0), (8.0, 8.0, 7.0), irregularity=0, r2s_hz=1, pd=0.01)
    marked, plain = simulate(known_head((dark,)), protocol), simulate(known_head(()), protocol)
    lost = plain.acquisition.magnitude[0] - marked.acquisition.magnitude[0]
    added = plain.chi_ppm - marked.chi_ppm
    box = tuple(slice(i - 5, i + 6) for i in np.rint(centre_of_mass(added)).astype(int))
    np.testing.assert_allclose(centre_of_mass(lost[box]), centre_of_mass(added[box]), atol=0.1)


@pytest.mark.parametrize("oversampling", [2, 3])
def test_volume_and_susceptibility_of_the_truth(oversampling: int) -> None:
    """Ellipsoids of known volume: 4/3 pi abc; the map integrates to the lesion's moment."""
    scan = phantom(replace(TINY, oversampling=oversampling))
    voxel_mm3 = np.prod(TINY.voxel_mm)
    for placed in scan.lesions:
        volume = 4 / 3 * np.pi * np.prod(placed.lesion.radii_mm)
        assert placed.volume_mm3 == pytest.approx(volume, rel=0.08)
        assert placed.mask.sum() * voxel_mm3 == pytest.approx(volume, rel=0.15)
        inner = scan.chi_ppm[placed.mask]
        assert placed.mean_chi_ppm == pytest.approx(inner.mean(), rel=1e-4)
        extreme = inner.max() if placed.lesion.chi_ppm > 0 else inner.min()
        assert extreme == pytest.approx(placed.lesion.chi_ppm, rel=1e-5)


def test_volumes_are_those_of_the_ellipsoids_to_two_percent() -> None:
    """At the voxels of a scan: volume, mask and moment of ellipsoids whose susceptibility goes beyond the signal."""
    lesions = (
        Lesion("hemorrhage", 0.8, (26.0, 22.0, 20.0), (9.0, 7.0, 8.0), (20.0, 0.0, 40.0), 0.0),
        Lesion("calcification", -1.1, (-26.0, 26.0, 22.0), (6.5, 6.5, 6.5), irregularity=0.0),
        Lesion("calcification", -1.0, (-24.0, -14.0, 24.0), (6.0, 7.0, 6.0), irregularity=0.0, chi_margin_mm=1.0),
    )
    protocol = replace(TINY, shape=(56, 56, 40), voxel_mm=(1.2, 1.2, 1.6), te_s=(0.006,))
    scan, without = (simulate(known_head(those), protocol) for those in (lesions, ()))
    added = scan.chi_ppm.astype(np.float64) - without.chi_ppm
    for placed in scan.lesions:
        volume = 4 / 3 * np.pi * np.prod(np.add(placed.lesion.radii_mm, placed.lesion.chi_margin_mm))
        assert placed.volume_mm3 == pytest.approx(volume, rel=0.02)
        # Whole voxels: some of those that are half lesion are missed or counted.
        assert placed.mask.sum() * np.prod(protocol.voxel_mm) == pytest.approx(volume, rel=0.05)
        around = ndimage.binary_dilation(placed.mask, iterations=3)
        moment = added[around].sum() * np.prod(protocol.voxel_mm)
        # What was there before, some hundredths of a ppm, is displaced.
        assert moment == pytest.approx(placed.lesion.chi_ppm * volume, rel=0.06)


def test_lesion_lies_at_its_centre() -> None:
    """Centre of mass of the susceptibility that the lesions add, in the patient's millimetres."""
    scan, without = phantom(), simulate(known_head(()), TINY)
    affine = scan.acquisition.geometry.affine_mm
    for placed in scan.lesions:
        weight = np.where(placed.mask, scan.chi_ppm - without.chi_ppm, 0)
        index = centre_of_mass(weight)
        place = affine @ [*index, 1]
        np.testing.assert_allclose(place[:3], placed.lesion.centre_mm, atol=0.15 * max(TINY.voxel_mm))


def test_strong_field_gradients_dephase_voxels() -> None:
    """Above the sphenoid sinus white matter loses much more signal than R2* takes."""
    magnitude = phantom().acquisition.magnitude
    loss = magnitude[2] / np.maximum(magnitude[0], 1e-6)
    white = eroded_white_matter(phantom())
    normal = np.median(loss[white])
    below = phantom().brain & (np.arange(32)[None, None, :] < 13)
    assert (loss[below] < 0.6 * normal).mean() > 0.01


@pytest.mark.parametrize(
    "change",
    [{"shape": (4, 48, 32)}, {"te_s": (0.0, 0.01)}, {"te_s": (0.01, 0.06)}, {"snr": 0.0}, {"oversampling": 0}],
)
def test_impossible_protocols_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(BadInput):
        replace(TINY, **change)  # type: ignore[arg-type]
