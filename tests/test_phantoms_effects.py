"""What spoils a scan, each effect against its closed form, and against what the reconstruction makes of it."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from phantoms import kernels
from phantoms.anatomy import Head, head
from phantoms.atlas import LABEL
from phantoms.effects import Bipolar, Flow, Motion
from phantoms.physics import centred_axes, decimate
from phantoms.protocol import Protocol
from phantoms.shapes import Tube
from phantoms.simulate import Phantom, simulate
from recon.bipolar import Readout, readout_phase
from recon.echoes import Echoes
from recon.types import BadInput, Vector

PLAIN = Protocol((48, 56, 36), (4.0, 4.0, 4.0), te_s=(0.006, 0.012, 0.018), tr_s=0.05, flip_deg=20.0, snr=1e6)


@cache
def healthy() -> Head:
    return head(1, lesions=())


@cache
def scan(protocol: Protocol = PLAIN) -> Phantom:
    return simulate(healthy(), protocol)


def image(of: Phantom) -> npt.NDArray[np.complex128]:
    return np.asarray(of.acquisition.magnitude * np.exp(1j * of.acquisition.phase.astype(np.float64)))


def turned(one: Phantom, other: Phantom) -> npt.NDArray[np.float64]:
    """Phase of one scan over that of another, rad (E, X, Y, Z)."""
    return np.angle(image(one) * image(other).conj())


@pytest.mark.parametrize(
    "idle", [{"bipolar": Bipolar()}, {"flow": Flow((0, 0, 0))}, {"flow": Flow(vein_cm_s=0, sinus_cm_s=0)}]
)
def test_an_effect_of_size_zero_changes_no_bit(idle: dict[str, Bipolar | Flow]) -> None:
    spoiled = scan(replace(PLAIN, **idle))  # type: ignore[arg-type]
    np.testing.assert_array_equal(spoiled.acquisition.phase, scan().acquisition.phase)
    np.testing.assert_array_equal(spoiled.acquisition.magnitude, scan().acquisition.magnitude)


def test_echoes_read_backwards_are_turned_the_other_way() -> None:
    """(-1)^e (constant + slope x) in rad; a slope inside a voxel moves k-space a little, hence the tolerance."""
    bipolar = Bipolar(0.4, 0.006)
    spoiled = scan(replace(PLAIN, bipolar=bipolar))
    x_mm = centred_axes(PLAIN.shape, PLAIN.voxel_mm)[0].astype(np.float64)[:, None, None]
    theta = 0.4 + 0.006 * x_mm
    for echo, phase in enumerate(turned(spoiled, scan())):
        error = np.abs(np.where(echo % 2, -1, 1) * phase - theta)[spoiled.brain]
        assert np.median(error) < 0.005
        assert np.quantile(error, 0.99) < 0.1


def test_the_reconstruction_finds_the_readout_phase() -> None:
    spoiled = scan(replace(PLAIN, bipolar=Bipolar(0.3, 0.008), snr=60.0))
    brain = ndimage.binary_erosion(spoiled.brain, iterations=2)
    magnitude, phase = spoiled.acquisition.magnitude[:, brain], spoiled.acquisition.phase[:, brain]
    found = readout_phase(
        Echoes(magnitude, phase, np.array(PLAIN.te_s, np.float32), brain, PLAIN.voxel_mm), Readout()
    )
    assert found.words.startswith("bipolar")
    assert found.theta_rad is not None
    x_mm = centred_axes(PLAIN.shape, PLAIN.voxel_mm)[0]
    theta = 0.3 + 0.008 * np.broadcast_to(x_mm[:, None, None], brain.shape)[brain]
    assert np.abs(found.theta_rad - theta).max() < 0.03
    monopolar = Echoes(
        scan().acquisition.magnitude[:, brain],
        scan().acquisition.phase[:, brain],
        np.array(PLAIN.te_s, np.float32),
        brain,
        PLAIN.voxel_mm,
    )
    assert readout_phase(monopolar, Readout()).theta_rad is None


@settings(deadline=None, max_examples=20, derandomize=True)
@given(count=st.integers(8, 13), factor=st.integers(1, 3), lines=st.integers(1, 35), voxels=st.integers(-3, 3))
def test_one_frequency_displaces_by_frequency_over_bandwidth(
    count: int, factor: int, lines: int, voxels: int
) -> None:
    """Whole voxels: what the crop of k-space gives, rolled."""
    rng = np.random.default_rng(0)
    shape = (count * factor, 2, lines)
    signal = (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)
    bandwidth_hz = 180.0
    omega = np.full(shape, 2 * np.pi * voxels * bandwidth_hz, dtype=np.float32)
    spectrum = np.empty((count, *shape[1:]), dtype=np.complex64)
    kernels.displaced(signal, omega, 1 / bandwidth_hz, factor, spectrum)
    np.testing.assert_allclose(
        np.fft.ifft(spectrum, axis=0), np.roll(decimate(signal, 0, factor), voxels, axis=0), atol=1e-4
    )


def test_two_frequencies_lie_apart() -> None:
    """Two smooth blobs in one place part when their frequencies do: each goes its own way, in parts of a voxel."""
    x = centred_axes((64, 1, 1), (0.5, 1, 1))[0]
    blob = np.exp(-(x**2) / 8).astype(np.complex64)[:, None, None]
    for frequency_hz, voxels in ((70.0, 0.35), (-434.0, -2.17)):
        spectrum = np.empty((32, 1, 1), dtype=np.complex64)
        omega = np.full(blob.shape, 2 * np.pi * frequency_hz, dtype=np.float32)
        kernels.displaced(blob, omega, 1 / 200.0, 2, spectrum)
        seen = np.abs(np.fft.ifft(spectrum[:, 0, 0])) ** 2
        place = centred_axes((32, 1, 1), (1, 1, 1))[0].astype(np.float64)
        assert seen @ place / seen.sum() == pytest.approx(voxels, abs=1e-3)


@pytest.mark.parametrize("bipolar", [None, Bipolar()])
def test_fat_is_displaced_against_water(bipolar: Bipolar | None) -> None:
    """3.4 ppm below water, at half that bandwidth two voxels; towards the other side in an echo read backwards."""
    tissues = tuple(
        replace(t, pd=0.6 if t.name == "fat" else 1e-7, chi_ppm=0.0, chi_sd_ppm=0.0) for t in healthy().healthy
    )
    fat = replace(healthy(), healthy=tissues)
    protocol = replace(PLAIN, snr=1e3, bipolar=bipolar)
    straight = simulate(fat, protocol).acquisition.magnitude
    shifted = simulate(fat, replace(protocol, bandwidth_hz=3.4 * protocol.f0_mhz / 2)).acquisition.magnitude
    for echo in range(2):
        voxels = 2 if bipolar and echo else -2
        expected = np.roll(straight[echo], voxels, axis=0)
        # The shim's error of some Hz displaces by hundredths of a voxel.
        assert np.linalg.norm(shifted[echo] - expected) < 0.1 * np.linalg.norm(expected)


def test_a_wide_band_displaces_nothing() -> None:
    wide = scan(replace(PLAIN, bandwidth_hz=1e9))
    np.testing.assert_allclose(image(wide), image(scan()), atol=1e-5)


def test_blood_in_a_tube_flows_along_it() -> None:
    """m . v of each straight piece, at points on its axis."""
    flow = Flow((0.03, -0.02, 0.05), vein_cm_s=4.0, sinus_cm_s=15.0)
    drift = flow.drift(0)
    for part in healthy().veins:
        assert isinstance(part.solid, Tube)
        start, end = (np.array(p) for p in part.solid.points_mm[:2])
        centre = ((start + end) / 2).astype(np.float32)
        axes = (centre[:1], centre[1:2], centre[2:])
        speed = 4.0 if part.tissue == "vein" else 15.0
        label = np.full((1, 1, 1), LABEL[part.tissue], dtype=np.uint8)
        expected = speed * np.dot(flow.rad_per_cm_s, end - start) / np.linalg.norm(end - start)
        assert flow.phase_rad(healthy(), label, drift, axes).item() == pytest.approx(expected, rel=1e-4)
        elsewhere = np.full((1, 1, 1), LABEL["csf"], dtype=np.uint8)
        assert flow.phase_rad(healthy(), elsewhere, drift, axes).item() == 0


def test_blood_between_tubes_never_turns_more_than_its_speed_allows() -> None:
    flow = Flow((0.03, -0.02, 0.05))
    drift = flow.drift(1).values
    most = np.linalg.norm(flow.rad_per_cm_s)
    assert np.abs(drift).max() <= most * 1.001
    assert drift.min() < -0.8 * most
    assert drift.max() > 0.8 * most


def test_flow_phase_grows_with_the_square_of_the_echo_time() -> None:
    """In sinuses, which fill voxels; nothing far from blood."""
    flow = Flow((0.0, 0.02, 0.0), vein_cm_s=0.0, sinus_cm_s=12.0)
    fine = replace(PLAIN, shape=(56, 76, 52), voxel_mm=(2.6, 2.6, 2.6))
    phase = turned(scan(replace(fine, flow=flow)), scan(fine))
    labels = scan(fine).labels
    axes = centred_axes(fine.shape, fine.voxel_mm)
    sinus = labels == LABEL["dural sinus"]
    first = flow.phase_rad(healthy(), np.where(sinus, labels, 0).astype(np.uint8), flow.drift(0), axes)
    strong = sinus & (np.abs(first) > 0.1)
    assert strong.sum() > 20
    for echo, factor in enumerate((1, 4, 9)):
        ratio = phase[echo][strong] / first[strong]
        # Neighbours without flow spread into these voxels.
        assert np.median(ratio) == pytest.approx(factor, rel=0.1)
    far = scan(fine).brain & (ndimage.distance_transform_edt(~sinus) > 8)
    assert np.abs(phase[0][far]).max() < 0.05


shifts = st.tuples(*[st.integers(-3, 3)] * 3)


@settings(deadline=None, max_examples=20, derandomize=True)
@given(voxels=shifts, at=st.floats(0.51, 1.0), ny=st.integers(8, 15))
def test_lines_after_the_motion_are_those_of_the_shifted_head(
    voxels: tuple[int, int, int], at: float, ny: int
) -> None:
    rng = np.random.default_rng(0)
    shape, voxel_mm = (12, ny, 9), (1.5, 2.0, 3.0)
    still = (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)
    shift: Vector = tuple(n * h for n, h in zip(voxels, voxel_mm, strict=True))  # type: ignore[assignment]
    moved = Motion(shift, at).moved(still, voxel_mm)
    before, after, seen = (
        np.fft.fftshift(np.fft.fftn(a), axes=1) for a in (still, np.roll(still, voxels, (0, 1, 2)), moved)
    )
    first = int(np.ceil(at * ny))
    np.testing.assert_allclose(seen[:, :first], before[:, :first], atol=1e-3)
    np.testing.assert_allclose(seen[:, first:], after[:, first:], atol=1e-3)
    assert np.linalg.norm(moved) == pytest.approx(np.linalg.norm(still), rel=1e-5)


@pytest.mark.parametrize("motion", [Motion((0, 0, 0)), Motion((3.0, -2.0, 5.0), at=1.0)])
def test_a_head_that_does_not_move_gives_the_same_scan(motion: Motion) -> None:
    np.testing.assert_allclose(image(scan(replace(PLAIN, motion=motion))), image(scan()), atol=1e-6)


def test_motion_spreads_ghosts_along_y_and_keeps_the_energy() -> None:
    moved = scan(replace(PLAIN, motion=Motion((0.0, 3.0, 0.0), at=0.55)))
    energy = [np.square(p.acquisition.magnitude.astype(np.float64)).sum() for p in (moved, scan())]
    assert energy[0] == pytest.approx(energy[1], rel=1e-5)
    air = scan().acquisition.magnitude[0] < 0.002
    ghosts = np.where(air, moved.acquisition.magnitude[0], 0)
    assert ghosts.max() > 0.01
    beside = ghosts[(scan().acquisition.magnitude[0] < 0.002).all(axis=1)[:, None, :].repeat(PLAIN.shape[1], 1)]
    assert beside.size > 100
    assert beside.max() < 0.003


@pytest.mark.parametrize("at", [0.0, 0.5, 1.1])
def test_motion_that_would_move_the_image_off_its_truth_is_refused(at: float) -> None:
    with pytest.raises(BadInput):
        Motion((1.0, 0.0, 0.0), at)


def test_a_bandwidth_must_be_positive() -> None:
    with pytest.raises(BadInput):
        replace(PLAIN, bandwidth_hz=0.0)
