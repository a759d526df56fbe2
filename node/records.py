"""What passes between journal, loops and workers: frozen values, no behaviour."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from node.errors import Refusal
from node.report import Report
from node.site import Site


@dataclass(frozen=True, slots=True)
class Received:
    """An object that is safe in the spool. ``header``: see `node.intake.Image`."""

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
class Settled:
    """A study that got no QSM and in which nothing happens; what changed last, and when (seconds since the epoch)."""

    study_uid: str
    changed_at: float


@dataclass(frozen=True, slots=True)
class Stopped:
    """An acquisition that was refused or whose reconstruction failed."""

    acquisition_id: int
    refusal: Refusal


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a scan gave no QSM, and what to do. ``scan`` names its series, without patient data."""

    scan: str
    refusal: Refusal
    advice: str


@dataclass(frozen=True, slots=True)
class Notice:
    """What a page "QSM not produced" says; ``node`` is the AE title."""

    node: str
    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True)
class Job:
    """A leased job with what it needs. ``sha256s`` name the objects in the spool; ``notice``: makes this page.

    ``supersedes``: when the result was derived that was delivered before further images came. ``written``: name and
    SHA-256 of the files of an earlier run, if this one makes them again.
    """

    id: int
    acquisition_id: int
    recipe: str
    derived_at: datetime
    attempts: int
    sha256s: tuple[str, ...]
    senders: frozenset[str]
    notice: Notice | None = None
    supersedes: datetime | None = None
    written: tuple[tuple[str, str], ...] = ()


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
    """A derived object that is to be sent to a peer, named as in the configuration.

    ``asked``: how often its commitment was, the last time as ``transaction_uid``.
    """

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
    asked: int = 0
    transaction_uid: str = ""


@dataclass(frozen=True, slots=True)
class Attempt:
    """How an attempt to send an object ended. ``retry_in_s`` of one that is pending: when it may be tried again.

    ``stored``: like ``delivered``, but its commitment is waited for.
    """

    delivery: Delivery
    state: Literal["delivered", "stored", "pending", "undeliverable"]
    sentence: str = ""
    retry_in_s: float = 0.0


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
    notice
        A page that is made instead of a reconstruction.
    site
        What the site decides about its scanners and scans.
    supersedes
        Time of derivation of the result that this one takes the place of.
    written
        Name and SHA-256 of the files of an earlier run: they come out again as they were, or nothing is written.
    """

    paths: tuple[Path, ...]
    recipe: str
    derived_at: datetime
    folder: Path
    segmentation: bool = False
    parametric_map: bool = False
    notice: Notice | None = None
    site: Site = Site()
    supersedes: datetime | None = None
    written: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Done:
    """The derived objects, with paths relative to the job's folder, and what is known about the reconstruction."""

    results: tuple[Result, ...]
    report: Report | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """Why there are none, and whether another attempt may end differently.

    ``no_space``: it will when there is room on the disk, however often it takes.
    """

    refusal: Refusal
    transient: bool
    no_space: bool = False


JobOutcome = Done | Failed
