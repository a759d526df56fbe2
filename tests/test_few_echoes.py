"""One or two echoes: less accurate, and every sign right. On heads that nothing was tuned on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from phantoms.anatomy import head
from phantoms.protocol import SMALL_PROTOCOL
from phantoms.score import lesion_table
from phantoms.simulate import simulate
from recon.pipeline import reconstruct


@pytest.mark.parametrize(
    ("te_s", "worst"),
    [
        ((0.010,), 0.2),
        ((0.020,), 0.35),  # a strong lesion dephases within its voxels
        ((0.007, 0.020), 0.2),
    ],
)
def test_every_lesion_keeps_its_sign(te_s, worst):
    phantom = simulate(head(107), replace(SMALL_PROTOCOL, te_s=te_s), seed=107)
    scores = lesion_table(reconstruct(phantom.acquisition).chi.chi_ppm, phantom)
    assert len(scores) == 8
    assert all(score.sign_right for score in scores)
    errors = np.abs([score.measured_ppb / score.true_ppb - 1 for score in scores])
    assert errors.max() < worst
    assert np.median(errors) < 0.12
