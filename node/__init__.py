"""The DICOM node: network, disk, time and vendors. Imports `recon` and `phantoms`; neither knows it."""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, version

from pydicom import config

try:
    __version__ = version("qsm-node")
except PackageNotFoundError:  # run from a checkout that is not installed
    __version__ = "0+checkout"

# Scanners write dates of `***` and numbers that are too long: that is normal input, read as it stands.
config.settings.reading_validation_mode = config.IGNORE

# Threads of OpenMP that wait by spinning take the cores from the transforms: kernels cost 2 to 4 times as much. The
# policy is read when the first kernel runs; worker processes inherit it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
