"""The process that runs reconstructions.

`run_job` is the function that a worker executes, here or elsewhere; only paths and small values cross the border.
What it does is in `node.work`. Knows neither the journal nor the network.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

from node.log import configure
from node.records import JobOutcome, JobSpec
from node.warm import Warmed, use_cache, warm

_THREAD_VARIABLES = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


RESULTS = "results"


def job_folder(number: int) -> Path:
    """Where a job's results go, relative to the data folder."""
    return Path(RESULTS) / f"job-{number:06d}"


def run_job(spec: JobSpec) -> JobOutcome:
    """What a worker is asked to do. Never raises: a failure is a value, so that it survives the way back."""
    from node.work import work  # noqa: PLC0415  brings numba along, which the node's own process never sees

    return work(spec)


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


class Worker(Protocol):
    """A `concurrent.futures.Executor` that can be ended while a job runs."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]: ...

    def kill(self) -> None: ...


class InlineWorker(Executor):
    """The twin of `SpawnedWorker` for tests: runs the job in the calling thread."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # it belongs to the future
            future.set_exception(error)
        return future

    def kill(self) -> None:
        """Nothing runs between calls."""


class SpawnedWorker(ProcessPoolExecutor):
    """A spawned process, or several, which end when their parent does, however that ends.

    Parameters
    ----------
    threads
        Of the numerics in each; 0 leaves the choice to them.
    cache_dir
        Folder for compiled kernels, unless ``NUMBA_CACHE_DIR`` names one that can be written.
    processes
        How many.
    niceness
        By how much they stand back for others.
    """

    def __init__(self, threads: int, cache_dir: Path, processes: int = 1, niceness: int = 0) -> None:
        theirs, self._ours = multiprocessing.Pipe(duplex=False)
        self._killing = threading.Lock()
        super().__init__(
            max_workers=processes,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_initialise,
            initargs=(threads, str(cache_dir), theirs, niceness),
        )

    def kill(self) -> None:
        """End the processes at once, from any thread; a running job's future raises `BrokenProcessPool`."""
        with self._killing:
            self._ours.close()
            for process in list((self._processes or {}).values()):
                process.kill()  # what computes without Python hears of nothing
            self.shutdown(wait=True, cancel_futures=True)


def _initialise(threads: int, cache_dir: str, parent: Connection, niceness: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the node, which decides
    os.umask(0o077)
    os.nice(niceness)
    configure()  # what libraries say here would stand on the node's standard error as it is
    if threads:
        os.environ.update(dict.fromkeys(_THREAD_VARIABLES, str(threads)))
    use_cache(Path(cache_dir))
    threading.Thread(target=_die_with, args=(parent,), daemon=True).start()


def _die_with(parent: Connection) -> None:
    """Nothing is ever sent: the pipe ends when the parent closes it or is no more."""
    try:
        parent.recv()
    except (EOFError, OSError):
        os._exit(1)
