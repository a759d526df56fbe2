"""The DICOM node: network, disk, time and vendors. Imports `recon` and `phantoms`; neither knows it."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from pydicom import config

try:
    __version__ = version("qsm-node")
except PackageNotFoundError:  # run from a checkout that is not installed
    __version__ = "0+checkout"

# Scanners write dates of `***` and numbers that are too long: that is normal input, read as it stands.
config.settings.reading_validation_mode = config.IGNORE
