"""Processes that work for the node: spawned, ended with their parent, and replaced when they are lost.

Knows nothing of what they do.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Executor, Future, ProcessPoolExecutor, wait
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol, TypeVar

from node.errors import TransientError
from node.log import configure
from node.warm import use_cache

_THREAD_VARIABLES = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

Answer = TypeVar("Answer")


class Worker(Protocol):
    """A `concurrent.futures.Executor` that can be ended while a job runs."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]: ...

    def kill(self) -> None: ...


class WorkerLost(TransientError):
    """The process ended, or was ended, before it answered."""


class WorkerSlow(WorkerLost):
    """It did not answer in time, and was ended."""


class NoWorker(TransientError):
    """A new process does not work; no task is to blame."""


class KeptWorker:
    """A worker that is replaced when it is lost. One thread runs tasks; any may call `end`.

    Parameters
    ----------
    new_worker
        Makes one; called when the first task comes and after a loss.
    proof
        What a new one has to do before it gets a task.
    limit_s
        For each task.

    Attributes
    ----------
    ended
        Whether `end` was called: no task is run any more.
    """

    def __init__(self, new_worker: Callable[[], Worker], proof: Callable[[], object], limit_s: float) -> None:
        self._new_worker = new_worker
        self._proof = proof
        self._limit_s = limit_s
        self._worker: Worker | None = None
        self._lock = threading.Lock()
        self.ended = False

    def run(self, task: Callable[..., Answer], *arguments: object) -> Answer:
        """What the task returns.

        Raises
        ------
        WorkerLost, WorkerSlow
            Also by `end`.
        NoWorker
            There is none to run it.
        """
        worker = self._proven()
        try:
            return self._answer(worker, task, *arguments)
        except WorkerLost:
            self._drop(worker)
            raise

    def end(self) -> None:
        """Cut off what runs, and run nothing more."""
        with self._lock:
            self.ended = True
            worker = self._worker
        if worker is not None:
            worker.kill()

    def _proven(self) -> Worker:
        with self._lock:
            if self.ended:
                raise WorkerLost("no task is run any more")
            if self._worker is not None:
                return self._worker
            try:
                worker = self._worker = self._new_worker()
            except OSError as error:  # no file descriptor, no shared memory
                raise NoWorker("no new process can be made") from error
        try:
            self._answer(worker, self._proof)
        except Exception as error:
            self._drop(worker)
            if self.ended:
                raise WorkerLost("no task is run any more") from error
            raise NoWorker("a new process does not work") from error
        return worker

    def _answer(self, worker: Worker, task: Callable[..., Answer], *arguments: object) -> Answer:
        try:
            future = worker.submit(task, *arguments)
            wait([future], self._limit_s)
            if not future.done():
                raise WorkerSlow(f"no answer within {self._limit_s:g} s")
            answer: Answer = future.result()  # a `TimeoutError` from here is the task's: a disk that did not answer
        except (RuntimeError, CancelledError) as error:  # BrokenProcessPool is a RuntimeError
            raise WorkerLost("the process ended") from error
        return answer

    def _drop(self, worker: Worker) -> None:
        with self._lock:
            self._worker = None
        worker.kill()


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
    for number in (signal.SIGINT, signal.SIGTERM):  # a terminal or service manager tells all; the node decides
        signal.signal(number, signal.SIG_IGN)
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
