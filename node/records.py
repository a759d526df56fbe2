"""What passes between journal, loops and workers: frozen values, no behaviour."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from node.errors import Refusal
from node.site import Site


@dataclass(frozen=True, slots=True)
class Received:
    """An object that is safe in the spool. ``header`` is `node.headers.Header.to_json`."""

    study_uid: str
    key: str
    sop_instance_uid: str
    sha256: str
    sender: str
    header: str


@dataclass(frozen=True, slots=True)
class Gathering:
    """An acquisition whose instances are still coming."""

    id: int
    instances: int
    senders: frozenset[str]


@dataclass(frozen=True, slots=True)
class Job:
    """A leased job with what it needs. ``sha256s`` name the objects in the spool."""

    id: int
    acquisition_id: int
    recipe: str
    derived_at: datetime
    attempts: int
    sha256s: tuple[str, ...]
    senders: frozenset[str]


@dataclass(frozen=True, slots=True)
class Result:
    """A derived object, at a path relative to the data folder."""

    series: str
    sop_class_uid: str
    sop_instance_uid: str
    path: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Delivery:
    """A derived object that is to be sent to a peer, named as in the configuration."""

    id: int
    job_id: int
    destination: str
    series: str
    sop_class_uid: str
    sop_instance_uid: str
    path: str
    sha256: str
    attempts: int
    queued_at: float


@dataclass(frozen=True, slots=True)
class JobSpec:
    """Everything a worker has to know. Equal specifications yield equal bytes.

    Parameters
    ----------
    paths
        Source images.
    recipe
        The recipe in one line, see `node.recipes`.
    derived_at
        Time of derivation that the derived objects state.
    folder
        Where the derived objects go; made if absent.
    segmentation, parametric_map
        Whether these are written too.
    site
        What the site states about its scanners and asks of its scans.
    """

    paths: tuple[Path, ...]
    recipe: str
    derived_at: datetime
    folder: Path
    segmentation: bool = False
    parametric_map: bool = False
    site: Site = Site()


@dataclass(frozen=True, slots=True)
class Done:
    """The derived objects, with paths relative to the job's folder, and what a reader of them should know."""

    results: tuple[Result, ...]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Failed:
    """Why there are none, and whether another attempt may end differently."""

    refusal: Refusal
    transient: bool


JobOutcome = Done | Failed
