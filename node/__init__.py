"""The DICOM node: network, disk, time and vendors. Imports `recon` and `phantoms`; neither knows it."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("qsm-node")
except PackageNotFoundError:  # run from a checkout that is not installed
    __version__ = "0+checkout"
