"""Stored pixel values of a dataset; compressed ones are decoded in a process of its own, which may die.

Damaged codestreams make decoders abort (gdcm), loop for ever (CharLS), panic (pylibjpeg-rle) or ask for any amount of
memory. All of this ends the process, by itself or by its limits of CPU time and address space, and becomes
`Unreadable` here.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import threading
from multiprocessing.connection import Connection
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.pixels.utils import get_expected_length, pixel_array
from pydicom.uid import UID

from node.codecs import DECODERS, IMAGE_TRANSFER_SYNTAXES, check_pixels
from node.errors import Refusal, Refused, TransientError, Unreadable

Pixels = npt.NDArray[np.generic]

BYTES_PER_S = 1 << 20
"""The slowest decoder, of JPEG 2000, makes 12 times as many bytes of pixels in a second of CPU time."""
_LEAST_S = 3
_SPARE_BYTES = 1 << 30
"""Address space for the libraries that decoding loads, and room to spare."""


class Decoder:
    """A context in which pixels are read, by any thread; the process starts with the first compressed image."""

    def __init__(self) -> None:
        self._pipe: Connection | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> Decoder:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pipe is not None:
            self._pipe.close()

    def pixels(self, ds: Dataset) -> Pixels:
        """Stored values, (frames, rows, columns).

        Raises
        ------
        Refused
            `lossy-compression`: a syntax that is not in `node.codecs.IMAGE_TRANSFER_SYNTAXES`.
        Unreadable
            Pixels that do not fit their header, or cannot be decoded.
        TransientError
            No process can be started.
        """
        syntax = UID(ds.file_meta.TransferSyntaxUID)
        if syntax not in IMAGE_TRANSFER_SYNTAXES:
            raise Refused(Refusal("lossy-compression", f"images in {syntax.name}: lossy, or not to be decoded here"))
        check_pixels(ds)
        found = self._elsewhere(ds) if syntax.is_encapsulated else _decoded(ds)
        if isinstance(found, str):
            raise Unreadable(f"pixels cannot be decoded ({found})")
        return found.reshape(-1, int(ds.Rows), int(ds.Columns))

    def _elsewhere(self, ds: Dataset) -> Pixels | str:
        part = ds.group_dataset(0x0028)
        part.update(ds.group_dataset(0x7FE0))
        part.file_meta = ds.file_meta
        with self._lock:
            self._pipe = self._pipe or _start()
            try:
                self._pipe.send(part)
                return cast(Pixels | str, self._pipe.recv())
            except (EOFError, OSError):
                self._pipe = None
                return "the decoder crashed or did not end"


def _start() -> Connection:
    """The end of a pipe of which a new process serves the other; it ends when this one is closed."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    context.Process(target=_serve, args=(theirs,), daemon=True).start()
    theirs.close()
    try:
        ours.recv()
    except EOFError as error:
        raise TransientError("the process that decodes pixels did not start") from error
    return ours


def _serve(pipe: Connection) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # last words of C++ and Rust
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pipe.send("ready")
    while True:
        try:
            ds: Dataset = pipe.recv()
        except EOFError:
            return
        _limit(get_expected_length(ds))
        pipe.send(_decoded(ds))


def _limit(expected_bytes: int) -> None:
    """Let this process decode so much, and then be ended by the kernel."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    end_s = int(used.ru_utime + used.ru_stime) + _LEAST_S + expected_bytes // BYTES_PER_S
    pages = int(Path("/proc/self/statm").read_text().split()[0])  # numeric libraries reserve more on larger machines
    for limit, most in (
        (resource.RLIMIT_CPU, end_s),
        (resource.RLIMIT_AS, pages * resource.getpagesize() + _SPARE_BYTES + 8 * expected_bytes),
    ):
        _, hard = resource.getrlimit(limit)
        resource.setrlimit(limit, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _decoded(ds: Dataset) -> Pixels | str:
    """The pixels, or the name of what went wrong."""
    try:
        return cast(Pixels, pixel_array(ds, decoding_plugin=DECODERS.get(ds.file_meta.TransferSyntaxUID, "")))
    except BaseException as error:  # decoders raise nearly anything on nonsense, and a panic is not an Exception
        return type(error).__name__
