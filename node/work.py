"""What a worker process does with a job: load, reconstruct, write; or write a page that says why there is no QSM.

Imported in workers alone: it brings numba along. Knows neither journal nor network nor which process it runs in.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from node.capture import write_notice
from node.derive import Derived, DeriveOptions, write_derived
from node.errors import NodeError, Refusal, Refused, TransientError, is_full
from node.fitness import Scan, fitness
from node.load import Source, load
from node.log import places
from node.recipes import from_text
from node.records import Done, Failed, JobOutcome, JobSpec, Result
from node.report import Report, withhold_contradiction
from recon.pipeline import Result as Reconstruction
from recon.pipeline import reconstruct
from recon.types import Acquisition, ReconError


def work(spec: JobSpec) -> JobOutcome:
    """The derived objects of a job, on disk, or why there are none."""
    try:
        if spec.notice:
            before = next((sha256 for _, sha256 in spec.written), "")
            page = write_notice(spec.notice, spec.paths[0], spec.folder, spec.derived_at, before)
            return Done((_result(spec, page),))
        return _reconstruct(spec)
    except Exception as error:
        return Failed(why(error), isinstance(error, TransientError | MemoryError | OSError), is_full(error))


def _reconstruct(spec: JobSpec) -> Done:
    options = DeriveOptions(spec.segmentation, spec.parametric_map, supersedes=spec.supersedes, written=spec.written)
    source = load(spec.paths, spec.site)
    result = reconstruct(source.acquisition, from_text(spec.recipe))
    report = report_of(source, result)
    if spec.site.withhold_contradictions:
        withhold_contradiction(report)
    derived = write_derived(source, result, report, spec.folder, spec.derived_at, options)
    return Done(tuple(_result(spec, item) for item in derived), report)


def report_of(source: Source, result: Reconstruction) -> Report:
    """The report on what was reconstructed from DICOM."""
    scan = Scan.of(source.templates[0][0])
    return report_on(source.acquisition, scan, source.convention, source.warnings, result)


def report_on(
    acquisition: Acquisition, scan: Scan, convention: str, warnings: Iterable[str], result: Reconstruction
) -> Report:
    """The report on a reconstruction.

    Parameters
    ----------
    acquisition, scan
        What was reconstructed, and what its headers say about it.
    convention, warnings
        Of the loader.
    result
        What came out.
    """
    of_stages = (f"{trace.stage}: {warning}" for trace in result.traces for warning in trace.warnings)
    return Report(
        convention=convention,
        warnings=(*warnings, *of_stages),
        fitness=fitness(acquisition.te_s, acquisition.f0_mhz, acquisition.geometry.voxel_mm, scan),
        sign=result.sign.verdict,
        sign_evidence=result.sign.words,
    )


def _result(spec: JobSpec, item: Derived) -> Result:
    path = item.path.relative_to(spec.folder)
    return Result(item.series, str(item.sop_class_uid), str(item.sop_instance_uid), str(path), item.sha256)


def why(error: Exception) -> Refusal:
    """What went wrong as code and sentence, without quoting data."""
    match error:
        case Refused():
            return error.refusal
        case NodeError() | ReconError():
            code = re.sub(r"(?<!^)(?=[A-Z])", "-", type(error).__name__).lower()  # NoMask -> no-mask
            return Refusal(code, str(error))
        case MemoryError():
            return Refusal("out-of-memory", "the reconstruction needs more memory than there is")
        case OSError() if is_full(error):
            return Refusal("disk-full", f"no space left on the disk, at {places(error)}")
        case OSError():
            what = os.strerror(error.errno) if error.errno else type(error).__name__
            return Refusal("disk", f"{what} at {places(error)}")
        case _:  # a defect of ours; its message may quote a data set
            return Refusal("internal-error", f"please report: {type(error).__name__} at {places(error)}")
