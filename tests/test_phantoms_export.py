"""BIDS and scores of one small oblique phantom."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from phantoms.anatomy import head
from phantoms.bids import write_bids
from phantoms.lesions import Lesion
from phantoms.protocol import SMALL_PROTOCOL
from phantoms.score import lesion_table, nrmse_percent, tissue_rmse_ppb
from phantoms.simulate import Phantom, simulate
from recon.types import BadInput

OBLIQUE = replace(
    SMALL_PROTOCOL,
    shape=(48, 44, 30),
    voxel_mm=(4.3, 4.6, 4.8),
    te_s=(0.0057, 0.0124),
    b0_dir=(0.1, -0.25, 0.963),
)
LESIONS = (
    Lesion("hemorrhage", 0.8, (-30.0, -30.0, 20.0), (12.0, 9.0, 10.0)),
    Lesion("calcification", -1.1, (31.0, 40.0, 22.0), (10.0, 10.0, 9.0)),
)


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return simulate(head(2, LESIONS), OBLIQUE, seed=3)


def test_bids_holds_the_arrays_in_ras(phantom: Phantom, tmp_path: Path) -> None:
    subject = write_bids(phantom, tmp_path, label="one")
    acquisition = phantom.acquisition
    for echo, te_s in enumerate(acquisition.te_s):
        for part, expected, unit in (
            ("mag", acquisition.magnitude, "arbitrary"),
            ("phase", acquisition.phase, "rad"),
        ):
            stem = subject / "anat" / f"sub-one_echo-{echo + 1}_part-{part}_MEGRE"
            image = nib.load(stem.with_name(stem.name + ".nii.gz"))
            np.testing.assert_array_equal(np.asarray(image.dataobj), expected[echo])
            about = json.loads(stem.with_name(stem.name + ".json").read_text("utf-8"))
            assert about["EchoTime"] == te_s
            assert about["MagneticFieldStrength"] == 3.0
            assert about["Units"] == unit
            assert about["ImagingFrequency"] == pytest.approx(127.732, abs=1e-3)
            left, back, up = (acquisition.geometry.affine_mm @ [3, 5, 7, 1])[:3]
            np.testing.assert_allclose((image.affine @ [3, 5, 7, 1])[:3], [-left, -back, up], atol=1e-4)
    described = json.loads((tmp_path / "dataset_description.json").read_text("utf-8"))
    assert described["DatasetType"] == "raw"


def test_bids_truth(phantom: Phantom, tmp_path: Path) -> None:
    write_bids(phantom, tmp_path, label="one")
    folder = tmp_path / "derivatives" / "truth" / "sub-one" / "anat"
    chi = nib.load(folder / "sub-one_Chimap.nii.gz")
    np.testing.assert_array_equal(np.asarray(chi.dataobj), phantom.chi_ppm)
    mask = nib.load(folder / "sub-one_desc-brain_mask.nii.gz")
    np.testing.assert_array_equal(np.asarray(mask.dataobj), phantom.brain)
    numbers = np.asarray(nib.load(folder / "sub-one_desc-lesions_dseg.nii.gz").dataobj)
    rows = (folder / "sub-one_desc-lesions_dseg.tsv").read_text("utf-8").splitlines()[1:]
    assert [row.split("\t")[1] for row in rows] == ["hemorrhage", "calcification"]
    for number, placed in enumerate(phantom.lesions, start=1):
        np.testing.assert_array_equal(numbers == number, placed.mask)


def test_a_perfect_map_has_no_error_whatever_its_reference(phantom: Phantom) -> None:
    shifted = phantom.chi_ppm + np.float32(0.123)
    assert nrmse_percent(shifted, phantom) < 0.01
    assert tissue_rmse_ppb(shifted, phantom) < 0.01
    table = lesion_table(shifted, phantom)
    assert [score.kind for score in table] == ["hemorrhage", "calcification"]
    for score, placed in zip(table, phantom.lesions, strict=True):
        assert abs(score.error) < 1e-4
        assert score.sign_right
        assert score.volume_mm3 == placed.volume_mm3
        assert score.true_ppb == pytest.approx(1000 * placed.mean_chi_ppm, abs=40)


def test_wrong_maps_score_what_they_deserve(phantom: Phantom) -> None:
    half, flipped = phantom.chi_ppm * np.float32(0.5), -phantom.chi_ppm
    assert nrmse_percent(half, phantom) == pytest.approx(50, abs=0.01)
    assert nrmse_percent(flipped, phantom) == pytest.approx(200, abs=0.01)
    bleed, stone = lesion_table(half, phantom)
    assert (bleed.error, stone.error) == (pytest.approx(-0.5, abs=1e-3), pytest.approx(0.5, abs=1e-3))
    assert not any(score.sign_right for score in lesion_table(flipped, phantom))
    wrong_lesions = phantom.chi_ppm.copy()
    wrong_lesions[phantom.lesions[0].mask] += 1
    assert tissue_rmse_ppb(wrong_lesions, phantom) < 0.01
    noise = np.random.default_rng(0).normal(0, 0.02, phantom.chi_ppm.shape).astype(np.float32)
    assert tissue_rmse_ppb(phantom.chi_ppm + noise, phantom) == pytest.approx(20, rel=0.05)


def test_a_map_of_another_grid_is_refused(phantom: Phantom) -> None:
    with pytest.raises(BadInput, match="shape"):
        lesion_table(phantom.chi_ppm[1:], phantom)
