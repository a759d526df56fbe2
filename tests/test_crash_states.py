"""The model of a disk after a loss of power knows which programs answer for what they may lose."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import pytest

KEEPS = [
    "new('object'); write(); fsync(); fsync(here)",
    "new('part'); write(); fsync(); rename('part', 'object'); fsync(here)",
    "new('object', O_DSYNC); write(); fsync(here)",
    "new('object'); pwritev(file, [b'12', b'345'], 0, RWF_DSYNC); fsync(here)",
    "new('object'); write(b'12345678'); ftruncate(file, 5); sync()",
]
LOSES = [
    "new('object'); write()",
    "new('object'); write(); fsync()",
    "new('object'); write(); fsync(here)",
    "new('object'); fsync(); write(); fsync(here)",
    "new('part'); write(); rename('part', 'object'); fsync(here)",
    "new('part'); write(); fsync(); rename('part', 'object')",
    "new('part'); write(); fsync(); fsync(here); rename('part', 'object')",
    "new('object'); write(b'123'); fsync(); write(b'45'); fsync(here)",
    "new('object'); write(b'12345678'); fsync(); fsync(here); ftruncate(file, 5)",
    "new('object'); write(); fsync(); fsync(here); rename('object', 'o'); fsync(here); rename('o', 'object')",
    "new('a'); write(); fsync(); fsync(here); link('a', 'object', src_dir_fd=here, dst_dir_fd=here)",
]
"""What programs do before they answer for an object, the bytes 12345; the first ones keep it for certain."""

PROGRAM = r"""
import os, socket
from os import *

one, other = socket.socketpair()
here = open(".", O_RDONLY)

def new(name, flags=0):
    global file
    file = open(name, O_CREAT | O_WRONLY | flags)

def write(data=b"12345"):
    os.write(file, data)

def fsync(what=None):
    os.fsync(what or file)

def rename(old, new):
    os.rename(old, new, src_dir_fd=here, dst_dir_fd=here)

command = b"".join(
    b"\0\0" + tag.to_bytes(2, "little") + len(value).to_bytes(4, "little") + value
    for tag, value in ((0x0100, b"\x01\x80"), (0x0900, b"\0\0"), (0x1000, b"1.2\0"))
)
values = (len(command) + 2).to_bytes(4, "big") + b"\x01\x03" + command
{steps}
one.sendall(b"\x04\0" + len(values).to_bytes(4, "big") + values)
"""


@pytest.fixture
def left_by(
    strace: Callable[[Path, Sequence[str]], list[str]], crash_states: ModuleType, tmp_path: Path
) -> Callable[[str], list[bytes | None]]:
    """``left_by(steps)`` is what may be left of the object when `PROGRAM` has taken these steps and answered."""

    def left(steps: str) -> list[bytes | None]:
        folder, trace = tmp_path / "disk", tmp_path / "trace.txt"
        folder.mkdir()
        program = [sys.executable, "-S", "-c", PROGRAM.format(steps=steps)]
        subprocess.run(strace(trace, program), cwd=folder, check=True)
        replay = crash_states.Replay(trace, folder)
        assert list(replay)[-1] == ("answer", {"1.2"})
        assert replay.disk.state(crash_states.applied) == crash_states.held(folder)
        return [replay.disk.state(choose).get("object") for choose in crash_states.choices(0, 200)]

    return left


@pytest.mark.parametrize("steps", KEEPS)
def test_the_model_knows_who_answers_in_time(left_by: Callable[[str], list[bytes | None]], steps: str) -> None:
    assert set(left_by(steps)) == {b"12345"}


@pytest.mark.parametrize("steps", LOSES)
def test_the_model_knows_who_answers_too_early(left_by: Callable[[str], list[bytes | None]], steps: str) -> None:
    assert set(left_by(steps)) > {b"12345"}


def test_a_write_is_torn_at_sectors_and_nowhere_else(left_by: Callable[[str], list[bytes | None]]) -> None:
    left = left_by("new('object'); write(bytes(2000)); fsync(); fsync(here); pwrite(file, b'1' * 1000, 400)")
    parts = [(b"\0" * n, b"1" * n) for n in (112, 512, 376)]
    assert set(left) == {b"\0" * 400 + b"".join(chosen) + b"\0" * 600 for chosen in itertools.product(*parts)}
