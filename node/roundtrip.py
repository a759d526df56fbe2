"""A scanner, a node and a PACS on this machine: what a scan becomes when it goes the whole way over the network.

All three are real DICOM peers on free loopback ports.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import highdicom
import numpy as np
import pydicom
from pydicom.dataset import Dataset

from node import loopback
from node.config import Settings
from node.errors import PermanentError
from node.overview import Summary, summaries
from node.peers import Peer
from node.service import Node
from recon.types import FloatArray, Geometry

QUIET_S = 5.0
DEADLINE_S = 600.0
FAILED = frozenset({"incomplete", "refused", "failed", "undeliverable"})


class NothingCameBack(PermanentError):
    """The derived series did not arrive, or not as they should."""


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """A series as read from the PACS: a header and its values, float32 (X, Y, Z)."""

    header: Dataset
    values: FloatArray


@contextmanager
def peers(pacs_folder: Path, data: Path) -> Iterator[tuple[Node, loopback.Pacs]]:
    """A PACS and a node that delivers to it."""
    with loopback.Pacs(pacs_folder) as pacs:
        settings = Settings(
            host=loopback.LOOPBACK,
            port=0,
            data_dir=data,
            quiet_s=QUIET_S,
            peers={
                "scanner": Peer(ae_title="SCANNER"),
                "pacs": Peer(ae_title=pacs.ae_title, host=loopback.LOOPBACK, port=pacs.port),
            },
            deliver_to=("pacs",),
        )
        with Node(settings) as node:
            yield node, pacs


def wait(node: Node, reached: Callable[[Summary], bool], tick: Callable[[], None] = lambda: None) -> None:
    """Until the one acquisition has reached a state."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        tick()
        for summary in summaries(node.journal):
            if summary.state in FAILED:
                raise NothingCameBack(f"the node says {summary.state}: {summary.sentence}")
            if reached(summary):
                tick()
                return
        time.sleep(0.1)
    raise NothingCameBack(f"nothing arrived within {DEADLINE_S:.0f} s")


def read_series(paths: Sequence[Path], description: str, expected: Geometry) -> Series:
    """The series of this description, on the phantom's grid."""
    datasets = [ds for ds in map(pydicom.dcmread, paths) if description in ds.SeriesDescription]
    if not datasets:
        raise NothingCameBack(f"no {description} series arrived in the PACS")
    volume = highdicom.get_volume_from_series(datasets, dtype=np.float32).to_patient_orientation("LPH")
    if volume.array.shape != expected.shape or not np.allclose(volume.affine, expected.affine_mm, atol=0.01):
        raise NothingCameBack(f"the {description} series lies elsewhere than its source")
    return Series(datasets[0], np.ascontiguousarray(volume.array))
