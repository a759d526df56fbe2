"""The whole reconstruction: what it accepts, what it refuses, and that it repeats itself."""

import dataclasses
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phantoms.anatomy import head
from phantoms.protocol import Protocol
from phantoms.simulate import Phantom, simulate
from recon.background import Lbv, Pdf, Resharp, Sharp, VSharp
from recon.highpass import Homodyne
from recon.pipeline import BRAIN, hz_to_ppm, reconstruct
from recon.recipe import RECIPES, Recipe, as_dict
from recon.types import Acquisition, BadInput, BadRecipe, Geometry, NoMask

PROTOCOL = Protocol(
    shape=(64, 80, 40),
    voxel_mm=(3.0, 3.0, 3.6),
    te_s=tuple(5.7e-3 + 6.7e-3 * np.arange(5)),
    tr_s=0.057,
    flip_deg=20.0,
)


def one_voxel():
    mask = np.zeros(PROTOCOL.shape, dtype=bool)
    mask[30, 40, 20] = True
    return mask


def slab():
    """Two slices: no voxel has neighbours on all sides."""
    mask = np.zeros(PROTOCOL.shape, dtype=bool)
    mask[20:40, 20:60, 19:21] = True
    return mask


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return simulate(head(101), PROTOCOL, seed=101)


def echoes(acquisition: Acquisition, used) -> Acquisition:
    return dataclasses.replace(
        acquisition,
        magnitude=acquisition.magnitude[used],
        phase=acquisition.phase[used],
        te_s=tuple(np.array(acquisition.te_s)[used].tolist()),
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


@pytest.mark.parametrize("name", ["default", "fast"])
def test_negated_phase_negates_the_map(phantom, name):
    negated = dataclasses.replace(phantom.acquisition, phase=-phantom.acquisition.phase)
    plus = reconstruct(phantom.acquisition, RECIPES[name], phantom.brain)
    minus = reconstruct(negated, RECIPES[name], phantom.brain)
    np.testing.assert_allclose(minus.chi.chi_ppm, -plus.chi.chi_ppm, atol=1e-6)
    brain = phantom.brain
    np.testing.assert_allclose(minus.highpass_rad[brain], -plus.highpass_rad[brain], atol=1e-4)


@pytest.mark.parametrize("background", [Pdf(tolerance=1e-9, max_iterations=10), Lbv()], ids=str)
def test_a_patient_turned_with_the_field_gives_the_same_map(phantom, background):
    """Axes renamed in turn, B0 along y of the array: the field to 0.01 Hz, the map to 0.1 %.

    Rounding may make PDF stop an iteration earlier or later, which alone is 1 % of the map: so many are prescribed.
    """
    recipe = Recipe(background=background)
    upright = phantom.acquisition
    x, y, z = upright.geometry.shape
    turned = dataclasses.replace(
        upright,
        magnitude=np.ascontiguousarray(upright.magnitude.transpose(0, 2, 3, 1)),
        phase=np.ascontiguousarray(upright.phase.transpose(0, 2, 3, 1)),
        geometry=Geometry((y, z, x), upright.geometry.affine_mm[:, [1, 2, 0, 3]]),
    )
    one = reconstruct(upright, recipe, phantom.brain)
    other = reconstruct(turned, recipe, np.ascontiguousarray(phantom.brain.transpose(1, 2, 0)))
    np.testing.assert_allclose(other.field.field_hz, one.field.field_hz.transpose(1, 2, 0), atol=0.01)
    difference = other.chi.chi_ppm - one.chi.chi_ppm.transpose(1, 2, 0)
    assert difference.std() < 1e-3 * one.chi.chi_ppm.std()


RUN = """
import hashlib, sys
from phantoms.anatomy import head
from phantoms.protocol import Protocol
from phantoms.simulate import simulate
from recon.pipeline import reconstruct
from recon.recipe import RECIPES
te_s = tuple(5.7e-3 + 6.7e-3 * e for e in range(3))
phantom = simulate(head(101), Protocol((48, 60, 30), (4.0, 4.0, 4.8), te_s, 0.057, 20.0), 101)
for recipe in RECIPES.values():
    result = reconstruct(phantom.acquisition, recipe, phantom.brain)
    print(hashlib.sha256(result.chi.chi_ppm.tobytes() + result.highpass_rad.tobytes()).hexdigest())
"""


def test_neither_threads_nor_compilation_change_a_bit(tmp_path):
    """One thread and an empty cache of kernels, then two threads and the kernels of the first run.

    A BLAS sums in another order on more cores, and PDF once stopped an iteration earlier there; fused multiplication
    and addition once depended on what was compiled in the same process.
    """
    outputs = []
    for threads in ("1", "2"):
        counts = dict.fromkeys(("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), threads)
        environment = os.environ | counts | {"NUMBA_CACHE_DIR": str(tmp_path)}
        run = subprocess.run([sys.executable, "-c", RUN], env=environment, capture_output=True, check=True)
        outputs.append(run.stdout)
    assert len(outputs[0].split()) == 3
    assert outputs[0] == outputs[1]


def test_unevenly_spaced_echoes_give_nearly_the_same_map(phantom):
    """Echoes 1, 2, 3 and 5: the signs stay, and the map changes by less than a fifth."""
    uneven = echoes(phantom.acquisition, np.array([0, 1, 2, 4]))
    all_echoes = reconstruct(phantom.acquisition, mask=phantom.brain).chi.chi_ppm
    result = reconstruct(uneven, mask=phantom.brain)
    blood, stone = hematoma_and_stone(phantom, result.chi.chi_ppm)
    assert blood > 0.2
    assert stone < -0.2
    assert (result.chi.chi_ppm - all_echoes).std() < 0.2 * all_echoes.std()
    (readout,) = (trace for trace in result.traces if trace.stage == "readout")
    assert "not decidable from unevenly spaced echoes" in readout.method


def test_one_echo_tells_no_fluid_from_tissue(phantom):
    """Without R2* all tissue would pass for fluid, and MEDI+0 would make it uniform."""
    result = reconstruct(echoes(phantom.acquisition, slice(2, 3)), RECIPES["medi"], phantom.brain)
    assert result.chi.reference == BRAIN
    assert [value.region for value in result.references] == [BRAIN]
    assert any("no ventricular cerebrospinal fluid" in w for trace in result.traces for w in trace.warnings)


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
        (one_voxel(), "1 voxels, none of them inside"),
        (slab(), "none of them inside"),
    ],
)
def test_an_unusable_mask_is_refused(phantom, mask, words):
    with pytest.raises(BadInput, match=rf"mask.*{words}"):
        reconstruct(phantom.acquisition, mask=mask)


def sphere_scan(shape, voxel_mm, b0_dir, chi_ppm, radius_mm, te_s=(5e-3, 10e-3, 15e-3)):
    """A sphere in an ellipsoid of tissue, by its closed form: acquisition, tissue, sphere."""
    geometry = Geometry.of(shape, voxel_mm, b0_dir)
    x, y, z = np.meshgrid(
        *[(np.arange(n) - (n - 1) / 2) * h for n, h in zip(shape, voxel_mm, strict=True)], indexing="ij"
    )
    r = np.maximum(np.sqrt(x**2 + y**2 + z**2), 1e-6)
    cos = sum(a * b for a, b in zip((x, y, z), geometry.b0_dir, strict=True)) / r
    field_hz = 127.7 * np.where(r > radius_mm, chi_ppm / 3 * (radius_mm / r) ** 3 * (3 * cos**2 - 1), 0)
    half = [max(0.44 * n * h, 1.6 * h) for n, h in zip(shape, voxel_mm, strict=True)]
    tissue = (x / half[0]) ** 2 + (y / half[1]) ** 2 + (z / half[2]) ** 2 < 1
    te = np.array(te_s)[:, None, None, None]
    rng = np.random.default_rng(0)
    signal = np.where(tissue, 100, 0) * np.exp(-20 * te + 2j * np.pi * field_hz * te)
    signal = signal + rng.normal(0, 1, signal.shape) + 1j * rng.normal(0, 1, signal.shape)
    acquisition = Acquisition(
        np.abs(signal).astype(np.float32), np.angle(signal).astype(np.float32), te_s, 127.7, geometry
    )
    return acquisition, tissue, r < radius_mm


@given(
    shape=st.tuples(*[st.sampled_from([23, 25, 28, 29, 31, 37])] * 3),
    voxel_mm=st.tuples(*[st.floats(0.8, 1.6)] * 3),
    b0=st.tuples(*[st.floats(-1, 1)] * 3).filter(lambda v: np.linalg.norm(v) > 0.3),
    chi_ppm=st.sampled_from([0.4, -0.4, 0.8, -0.8]),
)
@settings(max_examples=8, deadline=None, derandomize=True)
def test_any_shape_voxel_and_field_direction_is_reconstructed(shape, voxel_mm, b0, chi_ppm):
    """Odd and prime sizes too: a sphere of four voxels' radius has its sign, and its mean within 25 %."""
    acquisition, tissue, sphere = sphere_scan(shape, voxel_mm, b0, chi_ppm, 4 * float(np.mean(voxel_mm)))
    chi = reconstruct(acquisition, mask=tissue).chi.chi_ppm
    assert chi.shape == shape
    assert not chi[~tissue].any()
    contrast = chi[sphere].mean() - chi[tissue & ~sphere].mean()
    assert contrast == pytest.approx(chi_ppm, rel=0.25)


@pytest.mark.parametrize("name", RECIPES)
def test_three_slices_are_enough(name):
    acquisition, tissue, _ = sphere_scan((30, 28, 3), (1.0, 1.0, 2.0), (0, 0, 1), 0.5, 3.0)
    result = reconstruct(acquisition, RECIPES[name], tissue)
    assert np.isfinite(result.chi.chi_ppm).all()
    assert result.chi.chi_ppm[tissue].std() > 0


@pytest.mark.parametrize("mask_given", [True, False])
@pytest.mark.parametrize(("axis", "thickness"), [(0, 1), (2, 1), (2, 2)])
def test_a_volume_of_one_or_two_slices_is_refused(phantom, axis, thickness, mask_given):
    """A field has no slope across it: no background can be told from sources."""
    cut = tuple(slice(20, 20 + thickness) if a == axis else slice(None) for a in range(3))
    thin = phantom.acquisition.magnitude[(slice(None), *cut)]
    acquisition = dataclasses.replace(
        phantom.acquisition,
        magnitude=thin,
        phase=phantom.acquisition.phase[(slice(None), *cut)],
        geometry=Geometry.of(thin.shape[1:], PROTOCOL.voxel_mm),
    )
    with pytest.raises(BadInput, match=r"the volume has shape \(.*\b[12]\b.*\): a field needs 3 voxels"):
        reconstruct(acquisition, mask=phantom.brain[cut] if mask_given else None)


def test_a_mask_without_signal_is_refused(phantom):
    dark = dataclasses.replace(phantom.acquisition, magnitude=np.zeros_like(phantom.acquisition.magnitude))
    with pytest.raises(BadInput, match=r"mask: 100 % of its voxels have no signal at all"):
        reconstruct(dark, mask=phantom.brain)


@pytest.mark.parametrize(
    "background", [Sharp(90.0), Resharp(90.0), VSharp((95.0, 90.0))], ids=lambda b: type(b).__name__
)
def test_a_ball_that_fits_nowhere_is_refused_before_anything_is_computed(phantom, background):
    told: list[str] = []
    with pytest.raises(
        BadRecipe, match=rf"background: {type(background).__name__} needs a ball of 90 mm inside the mask"
    ):
        reconstruct(
            phantom.acquisition, Recipe(background=background), phantom.brain, lambda stage, _: told.append(stage)
        )
    assert told == []


def test_a_low_pass_as_wide_as_the_matrix_is_told(phantom):
    warnings = {
        samples: reconstruct(
            phantom.acquisition, Recipe(highpass=Homodyne(samples=samples)), phantom.brain
        ).traces[0].warnings
        for samples in (32, 64)
    }  # fmt: skip
    assert warnings == {32: (), 64: ("the low-pass of 64 samples is no narrower than the matrix 64 x 80",)}


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
    assert described["background"] == {"method": "Pdf", "tolerance": 5e-3, "max_iterations": 40}
    assert described["inversion"]["method"] == "NonlinearTv"
    assert as_dict(Recipe()) == described
