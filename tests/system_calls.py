"""What a program asked of the kernel, in order: ``strace`` runs it and writes, this reads.

A call that a thread waits for has its line after that of its cause, since strace lets no thread go on before its line
is written. So the places of lines order what happened, over threads and processes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

NAMES = ",".join((
    "open,openat,creat,mkdir,mkdirat,rmdir,unlink,unlinkat,rename,renameat,renameat2,link,linkat,symlink,symlinkat",
    "write,pwrite64,writev,pwritev,pwritev2,lseek,truncate,ftruncate,fallocate,mmap",
    "copy_file_range,sendfile,splice,fsync,fdatasync,sync,syncfs,sendto,sendmsg",
))  # fmt: skip
"""What changes files or makes them durable, and what goes out to a peer."""

_LONGEST = 1 << 24
_RESUMED = re.compile(r"(\d+) +<\.\.\. \w+ resumed>(.*)")
_CALL = re.compile(r"(\w+)\((.*?)\)\s+= (-?\d+|\?|0x[0-9a-f]+)(?:<(.*?)>)?.*")
_BYTES = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_OF_DESCRIPTOR = re.compile(r"(-?\d+|AT_FDCWD)(?:<(.*)>(\(deleted\))?)?")


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A file descriptor and what it stood for when the call began: a path, or such as ``socket:[17]``."""

    number: str
    path: str
    deleted: bool


@dataclass(frozen=True, slots=True)
class Call:
    """A system call that succeeded, with the places of its begin and its end among all that happened.

    ``target``: what the descriptor stands for that it returned.
    """

    name: str
    arguments: tuple[str, ...]
    result: int
    target: str
    begun: int
    ended: int

    def descriptor(self, place: int) -> Descriptor:
        """This argument as a file descriptor."""
        found = _OF_DESCRIPTOR.fullmatch(self.arguments[place])
        assert found, self
        return Descriptor(found[1], _plain(found[2] or ""), bool(found[3]))

    def data(self, place: int) -> bytes:
        """The bytes of this argument: a string, or all strings of a vector or message."""
        return b"".join(bytes.fromhex(text.replace("\\x", "")) for text in _BYTES.findall(self.arguments[place]))

    def path(self, place: int) -> str:
        """This argument as a path, by the descriptor of its folder before it where there is one."""
        path = self.data(place).decode()
        if place and not path.startswith("/"):
            return f"{self.descriptor(place - 1).path}/{path}"
        return path


def traced(strace: str, output: Path, program: Sequence[str]) -> list[str]:
    """The command that runs a program, and what it starts, and writes its calls."""
    return [
        strace, "--follow-forks", "--seccomp-bpf", "--decode-fds=path", "--strings-in-hex=all",
        f"--string-limit={_LONGEST}", "--quiet=attach,personality", "--signal=none", f"--trace={NAMES}",
        "--output-append-mode", f"--output={output}", *program,
    ]  # fmt: skip


def calls(output: Path, folder: Path) -> Iterator[Call]:
    """The calls that succeeded and concern the folder, a socket or all files, in order of their end."""
    ours = re.compile(r"sync\(\)|" + "|".join(re.escape(_escaped(text)) for text in (str(folder), "socket:[")))
    begun: dict[str, tuple[int, str]] = {}
    with output.open() as lines:
        for place, line in enumerate(lines):
            if found := _RESUMED.match(line):
                start, text = begun.pop(found[1])
                whole = text + found[2]
            else:
                thread, _, text = line.rstrip("\n").partition(" ")
                start, (whole, unfinished, _) = place, text.lstrip().partition(" <unfinished ...>")
                if unfinished:
                    begun[thread] = (place, whole)
                    continue
            if ours.search(whole) and (call := _call(whole, start, place)):
                yield call


def _call(text: str, begun: int, ended: int) -> Call | None:
    found = _CALL.fullmatch(text)
    assert found, text
    if found[3].startswith(("-", "?")):
        return None
    assert '"...' not in found[2], f"{found[1]}: a string was cut"
    return Call(found[1], tuple(_split(found[2])), int(found[3], 0), _plain(found[4] or ""), begun, ended)


def _split(arguments: str) -> list[str]:
    """At commas outside brackets; strings are hexadecimal and have none."""
    parts: list[str] = []
    depth = 0
    for part in arguments.split(", "):
        if depth:
            parts[-1] += f", {part}"
        else:
            parts.append(part)
        depth += sum(map(part.count, "[{")) - sum(map(part.count, "]}"))
    return parts


def _plain(escaped: str) -> str:
    return bytes.fromhex(escaped.replace("\\x", "")).decode()


def _escaped(plain: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in plain.encode())
