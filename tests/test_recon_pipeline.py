"""The whole reconstruction: what it accepts, what it refuses, and that it repeats itself."""

import dataclasses

import numpy as np
import pytest

from phantoms.anatomy import head
from phantoms.simulate import Phantom, Protocol, simulate
from recon.pipeline import hz_to_ppm, reconstruct
from recon.recipe import RECIPES, Recipe, as_dict
from recon.types import Acquisition, BadInput, NoMask

PROTOCOL = Protocol(
    shape=(64, 80, 40),
    voxel_mm=(3.0, 3.0, 3.6),
    te_s=tuple(5.7e-3 + 6.7e-3 * np.arange(5)),
    tr_s=0.057,
    flip_deg=20.0,
)


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return simulate(head(101), PROTOCOL, seed=101)


def echoes(acquisition: Acquisition, used: slice) -> Acquisition:
    return dataclasses.replace(
        acquisition,
        magnitude=acquisition.magnitude[used],
        phase=acquisition.phase[used],
        te_s=acquisition.te_s[used],
    )


def hematoma_and_stone(phantom: Phantom, chi_ppm):
    largest = {
        kind: max((p for p in phantom.lesions if p.lesion.kind == kind), key=lambda p: p.volume_mm3)
        for kind in ("hemorrhage", "calcification")
    }
    return (float(chi_ppm[largest[kind].mask].mean()) for kind in ("hemorrhage", "calcification"))


def test_the_same_input_gives_the_same_map(phantom):
    first, second = (reconstruct(phantom.acquisition) for _ in range(2))
    np.testing.assert_array_equal(first.chi.chi_ppm, second.chi.chi_ppm)
    np.testing.assert_array_equal(first.highpass_rad, second.highpass_rad)
    np.testing.assert_array_equal(first.brain, second.brain)


def test_progress_names_every_stage_in_order(phantom):
    told: list[tuple[str, float]] = []
    result = reconstruct(phantom.acquisition, progress=lambda stage, done: told.append((stage, done)))
    stages = list(dict.fromkeys(stage for stage, _ in told))
    assert stages == ["GRE phase", "mask", "field", "background", "inversion"]
    traced = [trace.stage for trace in result.traces]
    assert traced == ["GRE phase", "mask", "readout", "field", "background", "inversion", "reference"]


def test_a_given_mask_is_used_as_it_is(phantom):
    result = reconstruct(phantom.acquisition, mask=phantom.brain)
    np.testing.assert_array_equal(result.brain, phantom.brain)
    np.testing.assert_array_equal(result.chi.mask, phantom.brain)
    assert not result.chi.chi_ppm[~phantom.brain].any()
    assert not (result.local.mask & ~phantom.brain).any()
    assert result.chi.chi_ppm[phantom.brain].mean() == pytest.approx(0, abs=1e-5)


def test_the_weight_map_tells_what_the_inversion_was_given(phantom):
    """0 where no field counts, about 1 on average, and low where the field is uncertain."""
    result = reconstruct(phantom.acquisition, mask=phantom.brain)
    counts = result.local.mask
    assert not result.weight2[~counts].any()
    assert 0.3 < result.weight2[counts].mean() < 1.05
    sd = result.field.sd_hz[counts]
    worst, best = sd > np.quantile(sd, 0.95), sd < np.quantile(sd, 0.5)
    assert result.weight2[counts][worst].mean() < 0.2 * result.weight2[counts][best].mean()


@pytest.mark.parametrize("used", [slice(0, 2), slice(2, 3)], ids=["two echoes", "one echo"])
def test_few_echoes_keep_the_signs(phantom, used):
    result = reconstruct(echoes(phantom.acquisition, used), mask=phantom.brain)
    blood, stone = hematoma_and_stone(phantom, result.chi.chi_ppm)
    assert blood > 0.2
    assert stone < -0.2


def test_negated_phase_negates_the_map(phantom):
    negated = dataclasses.replace(phantom.acquisition, phase=-phantom.acquisition.phase)
    plus = reconstruct(phantom.acquisition, mask=phantom.brain).chi.chi_ppm
    minus = reconstruct(negated, mask=phantom.brain).chi.chi_ppm
    correlation = np.corrcoef(plus[phantom.brain], minus[phantom.brain])[0, 1]
    assert correlation < -0.99


def test_a_shifted_global_phase_and_field_change_nothing(phantom):
    """A constant phase and a constant field are no susceptibility."""
    te = np.array(phantom.acquisition.te_s, dtype=np.float32)[:, None, None, None]
    turned = phantom.acquisition.phase + np.float32(1.0) + np.float32(2 * np.pi * 11.0) * te
    turned = np.angle(np.exp(1j * turned)).astype(np.float32)
    plain = reconstruct(phantom.acquisition, mask=phantom.brain).chi.chi_ppm
    shifted = reconstruct(dataclasses.replace(phantom.acquisition, phase=turned), mask=phantom.brain).chi.chi_ppm
    difference = (plain - shifted)[phantom.brain]
    assert np.sqrt(np.mean(difference**2)) < 0.05 * np.std(plain[phantom.brain])


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (np.ones((3, 3, 3), dtype=bool), "shape"),
        (np.ones(PROTOCOL.shape, dtype=np.uint8), "bool"),
        (np.zeros(PROTOCOL.shape, dtype=bool), "0 voxels"),
    ],
)
def test_an_unusable_mask_is_refused(phantom, mask, words):
    with pytest.raises(BadInput, match=rf"mask.*{words}"):
        reconstruct(phantom.acquisition, mask=mask)


@pytest.mark.parametrize("fill", ["nothing", "noise"])
def test_without_a_head_no_mask_is_made_up(phantom, fill):
    rng = np.random.default_rng(0)
    shape = phantom.acquisition.magnitude.shape
    magnitude = np.full(shape, 5.0, np.float32) if fill == "nothing" else rng.rayleigh(5, shape).astype(np.float32)
    phase = rng.uniform(-np.pi, np.pi, shape).astype(np.float32)
    with pytest.raises(NoMask):
        reconstruct(dataclasses.replace(phantom.acquisition, magnitude=magnitude, phase=phase))


def test_ppm_follow_the_imaging_frequency():
    np.testing.assert_allclose(hz_to_ppm(np.array([123.2], np.float32), 123.2), 1)


def test_a_recipe_is_described_by_plain_values():
    described = as_dict(RECIPES["default"])
    assert described["name"] == "default"
    assert described["background"] == {"method": "Pdf", "tolerance": 3e-3, "max_iterations": 60}
    assert described["inversion"]["method"] == "NonlinearTv"
    assert as_dict(Recipe()) == described
