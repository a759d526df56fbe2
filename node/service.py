"""The node as a whole: one data folder, one listening port, a few loops, one worker.

::

    with Node(settings) as node:
        print(node.port)

Everything that it was told and that is not finished goes on when it starts again, however it ended.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
import ssl
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import Self

from node.cleaning import Cleaner
from node.commitment import Committer
from node.config import HEALTH_AE_TITLE, RECIPE_NAMES, Settings
from node.deliver import Link, StoreLink, Unreachable, echo
from node.errors import PermanentError
from node.fetch import Fetcher
from node.files import make_folder
from node.inbox import Inbox
from node.indexing import Indexer
from node.jobs import compile_kernels, recipe_text
from node.journal import Journal
from node.log import get_logger
from node.loops import Gatherer, Loop, Reconstructor
from node.notices import Notifier
from node.outbox import Outbox
from node.peers import Peer
from node.receive import Receiver
from node.spool import Spool
from node.stow import StowLink
from node.tls import Credentials
from node.warm import ABOUT_S, SHIPPED, Warmed, choose_cache, is_warm, kernel_cache
from node.workers import SpawnedWorker, Worker

JOURNAL = "journal.sqlite"
_TICK_S = 0.5
_CLEAN_S = 15.0
_NAMED = 20
"""Acquisitions in a line of the log; `qsm-node jobs` lists all."""
READER_NICENESS = 15
"""Of the process that reads headers: images are received before they are looked at."""

log = get_logger("node.service")


class CannotStart(PermanentError):
    """The data folder or the port is not to be had; the message says why."""


class Node:
    """A node, from `start` to `stop`; also a context manager.

    Parameters
    ----------
    settings
        With port 0 any free port is taken.
    new_worker
        Makes what runs the jobs; default: one spawned process.

    Attributes
    ----------
    port, tls_port
        Where it listens, after `start`; `tls_port` is None without TLS.
    journal
        What it knows, from `start` to `stop`.
    """

    port: int
    tls_port: int | None
    journal: Journal

    def __init__(self, settings: Settings, new_worker: Callable[[], Worker] | None = None) -> None:
        self.settings = settings
        self._new_worker = new_worker or self._spawn
        self._new_reconstructor = new_worker or self._spawn_warm

    def _spawn(self) -> SpawnedWorker:
        return SpawnedWorker(self.settings.threads, kernel_cache(self.settings.data_dir))

    def _spawn_reader(self) -> SpawnedWorker:
        return SpawnedWorker(1, kernel_cache(self.settings.data_dir), niceness=READER_NICENESS)

    def _spawn_warm(self) -> Worker:
        """A worker that compiles, before its first job, what no image and no earlier run has compiled."""
        worker = self._spawn()
        if not is_warm(choose_cache(kernel_cache(self.settings.data_dir))) and not is_warm(SHIPPED):
            log.info(f"compiling kernels (once, about {ABOUT_S} s)")
            worker.submit(compile_kernels).add_done_callback(_told)
        return worker

    def start(self) -> Self:
        """Take the data folder, go on with what is unfinished, then listen.

        Raises
        ------
        CannotStart
            The data folder cannot be used or belongs to a running node, or a port is taken.
        ConfigError
            The TLS files cannot be used.
        RecipeError
            There is no such recipe, or its file cannot be used.
        """
        self._lock = self._take_data_dir()
        try:
            self._open()
        except BaseException as error:
            os.close(self._lock)
            if isinstance(error, OSError | sqlite3.OperationalError):
                free_gb = shutil.disk_usage(self.settings.data_dir).free / 1e9
                why = f"{error}; {free_gb:.2f} GB are free"  # SQLite may call a full disk an I/O error
                raise CannotStart(f"data_dir {self.settings.data_dir}: {why}") from error
            raise
        try:
            self.port = self._receiver.start()
        except OSError as error:
            self._close()
            raise CannotStart(f"cannot listen on {error.strerror or error}") from error
        self.tls_port = self._receiver.tls_port
        for loop in self._loops:
            loop.start()
        if not self.settings.peers:
            log.warning("no peers are configured: every association will be refused")
        where = {"host": self.settings.host, "port": self.port, "tls_port": self.tls_port}
        log.info("node started", ae_title=self.settings.ae_title, **where)
        return self

    def stop(self) -> None:
        """Receive no more, cut off a running job (it starts again with the node), and let go of everything."""
        self._receiver.stop()
        for loop in self._loops:
            loop.end()
        self._indexer.end()
        self._reconstructor.end()
        self._outbox.end()
        self._committer.end()
        self._fetcher.end()
        for loop in self._loops:
            loop.join()
        self._close()
        log.info("node stopped")

    def healthy(self) -> bool:
        """Whether every loop runs and the port answers a C-ECHO."""
        return all(loop.is_alive() for loop in self._loops) and not check(self.settings, self.port)

    def _take_data_dir(self) -> int:
        folder = self.settings.data_dir
        try:
            make_folder(folder, 0o700)
            lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise CannotStart(f"data_dir {folder}: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            raise CannotStart(f"data_dir {folder} belongs to a node that is running") from error
        return lock

    def _recipe(self) -> str:
        """The recipe as jobs carry it; a file is read by a worker, since it takes the numerics to understand one."""
        if self.settings.recipe in RECIPE_NAMES:
            return self.settings.recipe
        worker = self._new_worker()
        try:
            text: str = worker.submit(recipe_text, self.settings.recipe).result()
        finally:
            worker.kill()
        return text

    def _open(self) -> None:
        settings = self.settings.model_copy(update={"recipe": self._recipe()})
        self._credentials = Credentials(settings.tls) if settings.tls else None
        spool = Spool(settings.data_dir / "spool")
        inbox = Inbox(settings.data_dir / "inbox", int(settings.min_free_gb * 1e9))
        if inbox.folder.stat().st_dev != spool.folder.stat().st_dev:
            raise CannotStart(f"data_dir {settings.data_dir}: inbox and spool are on different file systems")
        self.journal = Journal(settings.data_dir / JOURNAL)
        self.journal.deliveries.waive(settings.asked)
        self._tell_of_lost_destinations()
        self._outbox = Outbox(self.journal, settings, self._link)
        deliver = Loop("deliver", self._outbox.step, _TICK_S)
        self._reconstructor = Reconstructor(self.journal, spool, settings, self._new_reconstructor, deliver.wake)
        reconstruct = Loop("reconstruct", self._reconstructor.step, _TICK_S)
        self._committer = Committer(self.journal, settings, self._tls)
        self._indexer = Indexer(inbox, spool, self.journal, settings.site, self._spawn_reader)
        self._indexer.recover()
        index = Loop("index", self._indexer.step, _TICK_S)
        self._receiver = Receiver(
            settings, self._indexer, self.journal, index.wake, self._committer, self._credentials
        )
        gatherer = Gatherer(self.journal, settings, self._receiver.senders, reconstruct.wake)
        gather = Loop("gather", gatherer.step, min(_TICK_S, settings.quiet_s / 4))
        cleaner = Cleaner(self.journal, spool, settings)
        cleaner.recover()
        self._loops = [index, gather, reconstruct, deliver, Loop("clean", cleaner.step, _CLEAN_S)]
        if settings.asked:
            self._loops.append(Loop("commit", self._committer.step, _TICK_S))
        self._fetcher = Fetcher(self.journal, settings, self._tls)
        if settings.fetched_from:
            self._loops.append(Loop("fetch", self._fetcher.step, _TICK_S))
        if settings.notice_after_min:
            notifier = Notifier(self.journal, settings, reconstruct.wake)
            self._loops.append(Loop("notify", notifier.step, min(5.0, settings.notice_after_min * 15)))

    def _tell_of_lost_destinations(self) -> None:
        """What is to be sent to them keeps its acquisitions from being deleted, until somebody decides."""
        reachable = [name for name, peer in self.settings.peers.items() if peer.reachable]
        for destination, objects, acquisitions in self.journal.deliveries.elsewhere(reachable):
            log.warning(
                "a destination is no longer in the configuration; "
                "`qsm-node jobs forget ID` gives up what it did not get",
                destination=destination, objects=objects,
                acquisitions=acquisitions[:_NAMED], of=len(acquisitions),
            )  # fmt: skip

    def _close(self) -> None:
        self.journal.close()
        os.close(self._lock)

    def _link(self, name: str, classes: frozenset[str]) -> Link:
        peer = self.settings.peers.get(name)
        if peer is None or not peer.reachable:
            raise Unreachable(f"peer {name!r} is no longer in the configuration")
        if peer.url:
            return StowLink(peer)
        return StoreLink(peer, self.settings.ae_title, classes, self._tls(peer))

    def _tls(self, peer: Peer) -> ssl.SSLContext | None:
        """What to connect to this peer with."""
        return self._credentials.client() if self._credentials and peer.tls else None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _told(compiling: Future[Warmed]) -> None:
    """Log what was compiled; a worker that was lost tells so with its job."""
    if compiling.cancelled():
        return
    error = compiling.exception()
    if error:
        log.warning("kernels were not compiled: jobs will", exc_info=error)
    else:
        log.info("kernels compiled", functions=len(compiling.result().functions), seconds=compiling.result().seconds)


def check(settings: Settings, port: int | None = None) -> str:
    """C-ECHO the node of these settings, on this machine; empty if it answers, else what is wrong."""
    if not (port or settings.port):
        return "the node takes any free port (port = 0): the log of its start says which"
    host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(settings.host, settings.host)
    node = Peer(ae_title=settings.ae_title, host=host, port=port or settings.port)
    return echo(node, HEALTH_AE_TITLE)
