"""Fixtures and settings that every test shares."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

# One core for each worker process; set before numba and the BLAS libraries are imported.
_workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_threads = str(max(1, (os.cpu_count() or 1) // _workers))
for _variable in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_variable, _threads)

PEERS = {
    "Orthanc": "apt-get install orthanc orthanc-dicomweb",
    "dcmdump": "apt-get install dcmtk",
    "storescu": "apt-get install dcmtk",
    "ip": "apt-get install iproute2",
}
SEARCH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))


def find_peer(program: str) -> str:
    """Path of a peer program. Without it the test is skipped, or fails where CI=true."""
    found = shutil.which(program, path=SEARCH)
    if found is None:
        reason = f"{program} is not installed: {PEERS.get(program, f'apt-get install {program}')}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


@pytest.fixture
def peer() -> Callable[[str], str]:
    """``peer("Orthanc")`` gives the program's path, or skips (CI=true: fails) with what to install."""
    return find_peer


@pytest.fixture(scope="session")
def vendor_data() -> Path:
    """Folder of real vendor files, named by QSM_NODE_DATA; unset: the test is skipped."""
    folder = os.environ.get("QSM_NODE_DATA")
    if not folder:
        pytest.skip("QSM_NODE_DATA is not set: no real vendor files")
    path = Path(folder)
    if not path.is_dir():
        pytest.fail(f"QSM_NODE_DATA is not a folder: {folder}")
    return path
