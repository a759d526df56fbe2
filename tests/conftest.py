"""Fixtures and settings that every test shares."""

from __future__ import annotations

import io
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import pytest

# One core for each worker process; set before numba and the BLAS libraries are imported.
_workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_threads = str(max(1, (os.cpu_count() or 1) // _workers))
for _variable in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_variable, _threads)
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Kernels are compiled once for all test processes and for the workers that nodes under test spawn.
os.environ.setdefault("NUMBA_CACHE_DIR", str(Path(__file__).parent.parent / ".pytest_cache" / "numba"))

PEERS = {
    "Orthanc": "apt-get install orthanc orthanc-dicomweb",
    **dict.fromkeys(("dcmcjpeg", "dcmconv", "dcmdump", "storescu"), "apt-get install dcmtk"),
    "ip": "apt-get install iproute2",
    "openssl": "apt-get install openssl",
    "strace": "apt-get install strace",
    "unshare": "apt-get install util-linux",
}
SEARCH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))


def find_peer(program: str) -> str:
    """Path of a peer program. Without it the test is skipped, or fails where CI=true."""
    found = shutil.which(program, path=SEARCH)
    if found is None:
        _lacks(f"{program} is not installed: {PEERS.get(program, f'apt-get install {program}')}")
    return found


def _lacks(reason: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


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


@pytest.fixture(scope="session")
def dicom_sets() -> ModuleType:
    """Builders of small scans as vendors write them: `tests/dicom_sets.py`."""
    return import_module("dicom_sets")


@pytest.fixture(scope="session")
def killing() -> ModuleType:
    """Scanners, a node to be killed, and an archive: `tests/killing.py`."""
    return import_module("killing")


@pytest.fixture(scope="session")
def crash_states() -> ModuleType:
    """What a loss of power may leave: `tests/crash_states.py`."""
    return import_module("crash_states")


@pytest.fixture(scope="session")
def strace(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path, Sequence[str]], list[str]]:
    """``strace(output, program)`` is the command that traces a program; skips where that is not permitted."""
    command = partial(import_module("system_calls").traced, find_peer("strace"))
    trial = command(tmp_path_factory.mktemp("strace") / "trial.txt", [sys.executable, "-S", "-c", ""])
    ended = subprocess.run(trial, capture_output=True, text=True, check=False)
    if ended.returncode:
        _lacks(f"strace may not trace here: {ended.stderr.strip()}")
    return command


@pytest.fixture(scope="session")
def bad_peer() -> ModuleType:
    """A PACS that does what it should not: `tests/bad_peer.py`."""
    return import_module("bad_peer")


@pytest.fixture(scope="session")
def stow() -> ModuleType:
    """A DICOMweb server that answers what its script says: `tests/test_stow.py`."""
    return import_module("test_stow")


@pytest.fixture(scope="session")
def new_authority(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """``new_authority("name")`` is an `Authority` of `tests/authority.py`, that issues certificates."""
    openssl, made = find_peer("openssl"), import_module("authority")
    return lambda name="authority": made.Authority(openssl, tmp_path_factory.mktemp("authority"), name)


@pytest.fixture
def captured_log() -> Iterator[io.StringIO]:
    """The log as it would be written, of our own lines and the libraries'."""
    from node import log  # noqa: PLC0415

    loggers = [logging.getLogger(name) for name in ("", "node", "pynetdicom", "pydicom")]
    before = [(logger, logger.level, logger.handlers[:]) for logger in loggers]
    hook, stream = threading.excepthook, io.StringIO()
    log.configure(stream)
    yield stream
    threading.excepthook = hook
    logging.captureWarnings(False)
    for logger, level, handlers in before:
        logger.setLevel(level)
        logger.handlers[:] = handlers


@pytest.fixture
def eventually() -> Callable[..., None]:
    """``eventually(condition, "what", timeout_s)`` polls until the condition holds; then it fails with ``what``."""

    def wait(condition: Callable[[], object], what: str = "condition", timeout_s: float = 60.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"not within {timeout_s:g} s: {what}")
            time.sleep(0.05)

    return wait


@pytest.fixture(scope="session")
def tiny_study(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The smallest study that is reconstructed, as scanner files: 3 echoes, 16 slices; magnitude first."""
    from phantoms.anatomy import head  # noqa: PLC0415  numba is imported after the settings above
    from phantoms.protocol import Protocol  # noqa: PLC0415
    from phantoms.scanner import write_dicom  # noqa: PLC0415
    from phantoms.simulate import simulate  # noqa: PLC0415

    protocol = Protocol((32, 40, 16), (6.0, 6.0, 10.0), te_s=(0.006, 0.014, 0.022), tr_s=0.05, flip_deg=20.0)
    return write_dicom(simulate(head(1), protocol, 1), tmp_path_factory.mktemp("tiny-study"))
