"""Small fields, brains and inverse problems, and what tests of the numerics draw them from."""

import numpy as np
import scipy.ndimage
from hypothesis import strategies as st

from recon.fourier import dipole_kernel, irfft, rfft
from recon.inversion import Problem
from recon.types import LocalField

UP = (0.0, 0.0, 1.0)
CUBE = (1.0, 1.0, 1.0)
RAD_PER_PPM = 5.376

directions = st.tuples(*[st.floats(-1, 1)] * 3).filter(lambda v: np.linalg.norm(v) > 0.3)


def name(method):
    return type(method).__name__


def unit(v):
    return tuple(float(c) for c in np.array(v) / np.linalg.norm(v))


OBLIQUE = unit((0.3, -0.2, 0.9))


def ellipsoid(shape, fill=0.8):
    x, y, z = ((np.arange(n) - (n - 1) / 2) / (fill * n / 2) for n in shape)
    return x[:, None, None] ** 2 + y[None, :, None] ** 2 + z[None, None, :] ** 2 < 1


def bumpy(shape, seed=3):
    """A field with structure of all sizes, sd about 0.1 ppm."""
    return scipy.ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 1.0).astype(np.float32)


def problem_of(field, brain, voxel_mm=CUBE, b0_dir=UP, **more):
    """A field in a brain of even magnitude, with even weights and no fluid unless said otherwise."""
    values = {
        "local": LocalField(np.where(brain, field, 0).astype(np.float32), brain),
        "weight2": np.ones(brain.shape, np.float32),
        "magnitude": brain.astype(np.float32),
        "csf": np.zeros_like(brain),
        "rad_per_ppm": RAD_PER_PPM,
    }
    return Problem(brain=brain, voxel_mm=voxel_mm, b0_dir=b0_dir, **(values | more))


def lesion_problem():
    """Two lesions and noise on an anisotropic grid: field, weights and magnitude of a small head."""
    rng = np.random.default_rng(7)
    shape, voxel_mm = (32, 30, 28), (1.0, 1.0, 1.6)
    brain = ellipsoid(shape, 0.75)
    chi = np.zeros(shape, np.float32)
    chi[12:16, 12:17, 13:16] = 0.9
    chi[18:21, 14:17, 12:14] = -0.6
    field = irfft(dipole_kernel(shape, voxel_mm, OBLIQUE) * rfft(chi), shape)
    weight2 = rng.uniform(0.3, 1.7, shape).astype(np.float32)
    noisy = (field + rng.normal(0, 0.004, shape) / np.sqrt(weight2)).astype(np.float32)
    magnitude = np.where(brain, 1 - 0.5 * (chi != 0), 0).astype(np.float32)
    return problem_of(noisy, brain, voxel_mm, OBLIQUE, weight2=weight2, magnitude=magnitude), chi
