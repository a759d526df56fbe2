"""What a process that runs reconstructions is asked to do.

Only paths and small values cross the border. What `run_job` does is in `node.work`. Knows neither the journal nor the
network.
"""

from __future__ import annotations

import os
from pathlib import Path

from node.records import JobOutcome, JobSpec
from node.warm import Warmed, warm

RESULTS = "results"


def job_folder(number: int) -> Path:
    """Where a job's results go, relative to the data folder."""
    return Path(RESULTS) / f"job-{number:06d}"


def run_job(spec: JobSpec) -> JobOutcome:
    """What a worker is asked to do. Never raises: a failure is a value, so that it survives the way back."""
    from node.work import work  # noqa: PLC0415  brings numba along, which the node's own process never sees

    return work(spec)


def import_numerics() -> None:
    """What a process does before its first job."""
    import node.work  # noqa: F401, PLC0415


def recipe_text(setting: str) -> str:
    """What a job is told to do by a setting: the recipe of this name or file, in one line.

    Raises
    ------
    RecipeError
        If there is no such recipe, or its file cannot be used.
    """
    from node.recipes import as_text, recipe_named  # noqa: PLC0415  brings numba along

    return as_text(recipe_named(setting))


def compile_kernels() -> Warmed:
    """Compile what jobs need into the cache of the process that runs this."""
    return warm(Path(os.environ["NUMBA_CACHE_DIR"]))
