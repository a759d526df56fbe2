"""What `qsm-node reconstruct IN -o OUT` does: every acquisition in a folder, DICOM or BIDS, without network.

DICOM input gives derived DICOM series, BIDS input gives BIDS derivatives. Knows how to find, not how to compute.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Literal

from pydicom.misc import is_dicom

from node import bids
from node.assemble import acquisition_key
from node.derive import DeriveOptions, write_derived
from node.errors import Refused, Unreadable
from node.files import read_dataset
from node.headers import Header, read_header, scan_name
from node.load import Source, load
from node.masks import read_mask
from node.physical import check_smooth
from node.report import Report, withhold_contradiction
from node.site import Site
from node.work import report_of, report_on, why
from recon.pipeline import Result, reconstruct
from recon.recipe import Recipe
from recon.types import Acquisition, BoolArray, NoMask

Progress = Callable[[str, str, float], None]
"""Told the acquisition, the stage and how much of it is done, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one acquisition.

    Parameters
    ----------
    name
        The acquisition, without patient data: series numbers and protocol, or BIDS entities.
    state
        `done`; `refused`: not what is reconstructed; `failed`: it should have worked.
    message
        Why, when refused or failed; what was written, when done.
    files
        What was written.
    report
        What is known about it, when done.
    """

    name: str
    state: Literal["done", "refused", "failed"]
    message: str
    files: tuple[Path, ...] = ()
    report: Report | None = None

    def __str__(self) -> str:
        return f"{self.state:8} {self.name}: {self.message}"


def exit_code(outcomes: Iterable[Outcome]) -> int:
    """0: something was reconstructed and nothing failed; 1: something failed; 3: nothing but refusals, or nothing."""
    states = {outcome.state for outcome in outcomes}
    return 1 if "failed" in states else 0 if "done" in states else 3


def reconstruct_folder(
    folder: Path,
    out: Path,
    derived_at: datetime,
    recipe: Recipe = Recipe(),  # noqa: B008  a frozen value
    mask: Path | None = None,
    options: DeriveOptions = DeriveOptions(),  # noqa: B008  a frozen value
    progress: Progress | None = None,
    site: Site = Site(),  # noqa: B008  a frozen value
) -> Iterator[Outcome]:
    """Reconstruct every acquisition below ``folder`` into ``out``; one outcome each, as they come about.

    DICOM: ``out/series-<number>-<key>/{qsm,phase}-<instance>.dcm``. BIDS: ``out/sub-<label>/anat/``.
    `node.masks` says what a mask may be. Files that are not DICOM are passed over; damaged ones fail.
    """
    given = _Given(recipe, mask, options, progress or _silent, site)
    for files in bids.find(folder):
        yield _attempt(files.prefix, partial(_from_bids, files, out, given))
    groups: dict[str, list[tuple[Path, Header]]] = defaultdict(list)
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and is_dicom(p)):
        try:
            header = read_header(read_dataset(path), site)
        except Unreadable as error:
            yield Outcome(path.name, "failed", str(error))
            continue
        if header.refusal and header.refusal.code == "unreadable":
            yield Outcome(path.name, "failed", f"{path.name}: {header.refusal.sentence}")
            continue
        groups[acquisition_key(header)].append((path, header))
    for key, members in groups.items():
        paths, headers = zip(*members, strict=True)
        target = out / f"series-{min(h.series_number or 0 for h in headers)}-{key[:8]}"
        name = f"{scan_name(headers)} ({headers[0].protocol or 'no protocol name'})"
        yield _attempt(name, partial(_from_dicom, paths, target, derived_at, given))


@dataclass(frozen=True, slots=True)
class _Given:
    """What the user asked for."""

    recipe: Recipe
    mask: Path | None
    options: DeriveOptions
    progress: Progress
    site: Site

    def reconstruct(self, name: str, acquisition: Acquisition, mask: BoolArray | None) -> Result:
        return reconstruct(acquisition, self.recipe, mask, partial(self.progress, name))

    def check(self, report: Report) -> None:
        if self.site.withhold_contradictions:
            withhold_contradiction(report)

    def mask_for(self, acquisition: Acquisition, source: Source | None = None) -> BoolArray | None:
        return read_mask(self.mask, acquisition.geometry, source) if self.mask else None


_Work = Callable[[], tuple[list[Path], Report]]


def _attempt(name: str, work: _Work) -> Outcome:
    try:
        files, report = work()
    except Refused as error:
        return Outcome(name, "refused", str(error))
    except NoMask as error:
        return Outcome(name, "refused", f"no-mask: {error}")
    except Exception as error:  # one acquisition must not take the others along
        return Outcome(name, "failed", str(why(error)))
    where = files[0].parent
    return Outcome(name, "done", f"{len(files)} files in {where}", tuple(files), report)


def _from_bids(files: bids.Megre, out: Path, given: _Given) -> tuple[list[Path], Report]:
    acquisition = bids.load_megre(files, given.site.min_echoes)
    check_smooth(acquisition)
    result = given.reconstruct(files.prefix, acquisition, given.mask_for(acquisition))
    report = report_on(acquisition, bids.scan(files), bids.CONVENTION, (), result)
    given.check(report)
    return bids.write_derivatives(result, report, acquisition.geometry, out, files), report


def _from_dicom(
    paths: Sequence[Path], target: Path, derived_at: datetime, given: _Given
) -> tuple[list[Path], Report]:
    source = load(paths, given.site)
    mask = given.mask_for(source.acquisition, source)
    result = given.reconstruct(target.name, source.acquisition, mask)
    digest = hashlib.sha256(mask.tobytes()).hexdigest() if mask is not None else ""
    options = replace(given.options, supplied_mask_sha256=digest)
    report = report_of(source, result)
    given.check(report)
    derived = write_derived(source, result, report, target, derived_at, options)
    return [d.path for d in derived], report


def _silent(_acquisition: str, _stage: str, _done: float) -> None:
    pass
