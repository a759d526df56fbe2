"""What a worker process does with a job: load, reconstruct, write. Imported in workers alone: it brings numba along.

Knows neither the journal nor the network nor which process it runs in.
"""

from __future__ import annotations

import re

from node.derive import Derived, DeriveOptions, write_derived
from node.errors import NodeError, Refusal, Refused, TransientError
from node.load import load
from node.log import places
from node.provenance import stage_warnings
from node.recipes import from_text
from node.records import Done, Failed, JobOutcome, JobSpec, Result
from recon.pipeline import reconstruct
from recon.types import ReconError


def work(spec: JobSpec) -> JobOutcome:
    """The derived objects of a job, on disk, or why there are none."""
    options = DeriveOptions(segmentation=spec.segmentation, parametric_map=spec.parametric_map)
    try:
        source = load(spec.paths, spec.site)
        result = reconstruct(source.acquisition, from_text(spec.recipe))
        derived = write_derived(source, result, spec.folder, spec.derived_at, options)
    except Exception as error:
        return Failed(why(error), isinstance(error, TransientError | MemoryError | OSError))
    return Done(tuple(_result(spec, item) for item in derived), (*source.warnings, *stage_warnings(result)))


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
        case OSError():
            return Refusal("disk", f"{error.strerror or type(error).__name__} at {places(error)}")
        case _:  # a defect of ours; its message may quote a data set
            return Refusal("internal-error", f"please report: {type(error).__name__} at {places(error)}")
