"""The quality measures have power: a setting that is known to be wrong is seen to be worse, on heads not tuned on.

Tilted in the magnet, on anisotropic voxels, with a hematoma and a solid calcification among its lesions.
"""

from dataclasses import replace

import numpy as np
import pytest

from phantoms.anatomy import head
from phantoms.protocol import SMALL_PROTOCOL
from phantoms.score import lesion_table, nrmse_percent, tissue_rmse_ppb
from phantoms.simulate import Phantom, simulate
from recon.inversion import NonlinearTv
from recon.pipeline import reconstruct
from recon.recipe import RECIPES, Recipe
from recon.types import Acquisition, Geometry

TILT = np.deg2rad(30)
PROTOCOL = replace(
    SMALL_PROTOCOL,
    shape=(90, 104, 40),
    voxel_mm=(1.8, 1.8, 3.2),
    te_s=SMALL_PROTOCOL.te_s[:5],
    b0_dir=(0.0, float(np.sin(TILT)), float(np.cos(TILT))),
)
pytestmark = pytest.mark.xdist_group("quality")


@pytest.fixture(scope="module", params=[101, 105])
def tilted(request) -> Phantom:
    return simulate(head(request.param), PROTOCOL, seed=request.param)


@pytest.fixture(scope="module")
def right(tilted) -> dict[str, float]:
    return measures(tilted, reconstruct(tilted.acquisition, mask=tilted.brain).chi.chi_ppm)


def measures(phantom: Phantom, chi_ppm) -> dict[str, float]:
    """Tissue error in ppb, error of the whole brain in %, and the median error of lesions of 60 mm3 and more in %."""
    large = [abs(score.error) for score in lesion_table(chi_ppm, phantom) if score.volume_mm3 >= 60]
    return {
        "tissue": tissue_rmse_ppb(chi_ppm, phantom),
        "brain": nrmse_percent(chi_ppm, phantom),
        "lesions": 100 * float(np.median(large)),
    }


def on(acquisition: Acquisition, voxel_mm, b0_dir) -> Acquisition:
    """The acquisition as if it had been scanned on another grid."""
    return replace(acquisition, geometry=Geometry.of(acquisition.geometry.shape, voxel_mm, b0_dir))


def test_an_ignored_field_direction_is_seen(tilted, right):
    wrong = on(tilted.acquisition, PROTOCOL.voxel_mm, (0.0, 0.0, 1.0))
    seen = measures(tilted, reconstruct(wrong, mask=tilted.brain).chi.chi_ppm)
    assert seen["tissue"] > 2 * right["tissue"]
    assert seen["brain"] > 1.5 * right["brain"]
    assert seen["lesions"] > 2 * right["lesions"]


def test_ignored_anisotropy_is_seen(tilted, right):
    edge = float(np.cbrt(np.prod(PROTOCOL.voxel_mm)))
    wrong = on(tilted.acquisition, (edge, edge, edge), PROTOCOL.b0_dir)
    seen = measures(tilted, reconstruct(wrong, mask=tilted.brain).chi.chi_ppm)
    assert seen["tissue"] > 2 * right["tissue"]
    assert seen["brain"] > 1.5 * right["brain"]
    assert seen["lesions"] > 2 * right["lesions"]


def test_missing_merit_is_seen(tilted, right):
    """Voxels that contradict the model keep their weight: where blood flows, phase outruns the field."""
    without = Recipe(inversion=NonlinearTv(merit_at=()))
    seen = measures(tilted, reconstruct(tilted.acquisition, without, tilted.brain).chi.chi_ppm)
    assert seen["brain"] > right["brain"]

    flowing = np.random.default_rng(tilted.seed).random(PROTOCOL.shape) < 0.01
    te_s = np.array(PROTOCOL.te_s, np.float32)[:, None, None, None]
    phase = tilted.acquisition.phase + np.float32(2 * np.pi * 30) * te_s * flowing
    acquisition = replace(tilted.acquisition, phase=np.angle(np.exp(1j * phase)).astype(np.float32))
    kept, dropped = (
        measures(tilted, reconstruct(acquisition, recipe, tilted.brain).chi.chi_ppm) for recipe in (without, Recipe())
    )
    assert kept["tissue"] > 1.2 * dropped["tissue"]


def test_recipes_give_different_maps_and_the_default_beats_the_seed_papers(tilted):
    maps = {
        name: reconstruct(tilted.acquisition, recipe, tilted.brain).chi.chi_ppm for name, recipe in RECIPES.items()
    }
    centred = {name: chi[tilted.brain] - chi[tilted.brain].mean() for name, chi in maps.items()}
    for name, one in centred.items():
        assert all((one - centred[other]).std() > 1e-3 for other in centred if other != name)
    assert nrmse_percent(maps["default"], tilted) < nrmse_percent(maps["medi"], tilted)
