"""Any lesion that the generator makes comes back with its sign, and its mean within a stated band.

The band is 35 % of the true mean, and 60 % below 20 voxels, where most voxels lie on the lesion's surface. It is set
by bleedings of 1.5 to 2 ppm, whose field turns the phase by more than half a turn between echoes; of 40 draws on
another head half were within 5 % and the worst was 24 % low.
"""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, assume, example, given, settings
from hypothesis import strategies as st

from phantoms.anatomy import head
from phantoms.lesions import random_lesion
from phantoms.protocol import SMALL_PROTOCOL
from phantoms.score import lesion_table
from phantoms.simulate import simulate
from recon.pipeline import reconstruct

FIELD_OF_VIEW_MM = (170, 210)
SLICES = 40


@cache
def bare():
    return head(104, ())


@pytest.mark.timeout(900)
@settings(
    deadline=None,
    max_examples=6,
    derandomize=True,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
@given(
    kind=st.sampled_from(["hemorrhage", "calcification"]),
    size=st.floats(1.2, 4),
    chi_ppm=st.floats(0.2, 2),
    place_mm=st.tuples(st.floats(-55, 55), st.floats(-75, 75), st.floats(-25, 25)),
    tilt_deg=st.floats(0, 45),
    turn_deg=st.floats(0, 360),
    voxel_mm=st.tuples(st.floats(1.8, 2.6), st.floats(1.8, 2.6), st.floats(1.8, 3.2)),
    seed=st.integers(0, 2**16),
)
@example("hemorrhage", 2.0, 1.0, (-30, 20, 10), 30, 60, (2.0, 2.0, 3.0), 1)
@example("calcification", 2.0, 1.0, (30, -20, -5), 30, 200, (2.0, 2.4, 2.0), 2)
def test_sign_and_mean(kind, size, chi_ppm, place_mm, tilt_deg, turn_deg, voxel_mm, seed):
    """``size`` is the lesion's mean radius in voxel edges; the head is tilted in the magnet by ``tilt_deg``."""
    radius_mm = min(9.0, size * float(np.cbrt(np.prod(voxel_mm))))
    lesion = random_lesion(np.random.default_rng(seed), kind, place_mm, radius_mm, chi_ppm)
    assume(bare().depth_mm(np.array([place_mm]))[0] > lesion.reach_mm + 3)
    tilt, turn = np.deg2rad([tilt_deg, turn_deg])
    protocol = replace(
        SMALL_PROTOCOL,
        shape=(int(FIELD_OF_VIEW_MM[0] / voxel_mm[0]), int(FIELD_OF_VIEW_MM[1] / voxel_mm[1]), SLICES),
        voxel_mm=voxel_mm,
        b0_dir=(np.sin(tilt) * np.cos(turn), np.sin(tilt) * np.sin(turn), np.cos(tilt)),
    )
    phantom = simulate(head(bare().seed, (lesion,)), protocol, seed)
    scores = lesion_table(reconstruct(phantom.acquisition, mask=phantom.brain).chi.chi_ppm, phantom)
    assume(scores and scores[0].voxels >= 3)
    (score,) = scores
    assert score.sign_right, score
    assert abs(score.error) < (0.35 if score.voxels >= 20 else 0.6), score
