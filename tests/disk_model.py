"""What a disk may hold after a loss of power: a model of a POSIX file system that system calls are replayed on.

A file is a map from sector (512 bytes) to bytes, with its size; a folder is a map from name to what it names. Both
change by calls; `fsync` makes the changes of one of them safe that had ended before it began. After a loss of power,
each holds what is safe and any part of what changed since:

- a write may be there in part, sector by sector; a sector holds what it held after one of the writes to it;
- the size of a file may be there without the bytes, which are zero then;
- a name is not made safe by `fsync` of the file that it names, only by that of its folder; a renaming inside a folder
  is there as a whole or not at all;
- what nothing names is lost, however safe it was.

``O_SYNC``, ``O_DSYNC`` and ``RWF_SYNC``, ``RWF_DSYNC`` are respected. Files named ``*-shm`` are left out: SQLite
makes them anew. What the model does not know, it refuses.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from system_calls import Call

SECTOR = 512
SIZE = -1
"""Key of a file's size, among its sectors."""

State = dict[str, bytes | None]
"""Of everything below the root, by relative path: a file's bytes, None of a folder."""

Values = dict[Hashable, Any]
Choose = Callable[["Node", Values, Values], Values]
"""(file or folder, what is on the disk of it, a change that was not made safe) -> what of the change is there too."""


class NotModelled(Exception):
    """A call whose effect the model does not know."""


@dataclass(eq=False, slots=True)
class Node:
    """A file or a folder: what programs see, what is safe, and what changed since, with the end of each call."""

    folder: bool
    now: Values = field(default_factory=dict)
    safe: Values = field(default_factory=dict)
    pending: list[tuple[int, Values]] = field(default_factory=list)
    settled: bytes | None = None

    def change(self, ended: int, values: Values, safe: bool = False) -> None:
        """From now on programs see this; ``safe``: and it survives."""
        self.now.update(values)
        self.settled = None
        if safe:
            self.safe.update(values)
            for _, earlier in self.pending:
                for key in values:
                    earlier.pop(key, None)
        else:
            self.pending.append((ended, values))

    def sync(self, begun: int) -> bool:
        """Make safe what had changed before; whether that was anything."""
        covered = [values for ended, values in self.pending if ended < begun]
        for values in covered:
            self.safe.update(values)
        self.pending = [(ended, values) for ended, values in self.pending if ended >= begun]
        self.settled = None
        return bool(covered)

    def left(self, choose: Choose) -> Values:
        """What is on the disk."""
        if not self.pending:
            return self.safe
        values = self.safe.copy()
        for _, change in self.pending:
            values.update(choose(self, values, change))
        return values

    def content(self, choose: Choose) -> bytes:
        """Of a file: its bytes on the disk."""
        if self.settled is not None:
            return self.settled
        values = self.left(choose)
        size, zeros = values.get(SIZE, 0), bytes(SECTOR)
        content = b"".join(values.get(sector, zeros) for sector in range(-(-size // SECTOR)))[:size]
        if not self.pending:
            self.settled = content
        return content


class Disk:
    """Everything below a folder that is there, safe and empty, when the trace begins."""

    def __init__(self, root: Path) -> None:
        self._root = str(root)
        self._top = Node(folder=True)
        self._places: dict[tuple[str, Node], int] = {}
        self._appending: set[tuple[str, Node]] = set()
        self._at_once: set[tuple[str, Node]] = set()

    def apply(self, call: Call) -> bool:
        """Replay a call; whether it changed anything on the disk."""
        do = getattr(self, f"_{_ALIASES.get(call.name, call.name)}", None)
        if do is None:
            raise NotModelled(call.name)
        return bool(do(call))

    # --- crash states

    def state(self, choose: Choose) -> State:
        """What is on the disk after a loss of power now."""
        return dict(self._below(self._top, "", choose))

    def _below(self, folder: Node, prefix: str, choose: Choose) -> Iterator[tuple[str, bytes | None]]:
        for name, node in folder.left(choose).items():
            if node is None:
                continue
            yield f"{prefix}{name}", None if node.folder else node.content(choose)
            if node.folder:
                yield from self._below(node, f"{prefix}{name}/", choose)

    def _nodes(self, node: Node) -> Iterator[Node]:
        yield node
        if node.folder:
            for below in node.now.values():
                if below is not None:
                    yield from self._nodes(below)

    # --- where a call acts

    def _find(self, path: str) -> tuple[Node, str] | None:
        """Folder and name; None of what is elsewhere or left out."""
        root, below = path[: len(self._root)], path[len(self._root) :]
        if root != self._root or below[:1] not in {"", "/"} or path.endswith("-shm"):
            return None
        *folders, name = [part for part in below.split("/") if part not in {"", "."}] or [""]
        folder = self._top
        for part in folders:
            folder = folder.now[part]
        return folder, name

    def _node(self, path: str) -> Node | None:
        found = self._find(path)
        if found is None:
            return None
        folder, name = found
        return folder.now.get(name) if name else folder

    def _open_node(self, call: Call, place: int = 0) -> Node | None:
        """What a descriptor stands for; None of what is elsewhere or has no name any more."""
        descriptor = call.descriptor(place)
        if descriptor.deleted:
            return None
        node = self._node(descriptor.path)
        if node is None and self._find(descriptor.path) is not None:
            raise NotModelled(f"{call.name} to {descriptor.path}, that nothing has made")
        return node

    # --- names

    def _openat(self, call: Call) -> bool:
        offset = 1 if call.name == "openat" else 0
        found = self._find(call.path(offset))
        if found is None:
            return False
        flags = "O_CREAT|O_WRONLY|O_TRUNC" if call.name == "creat" else call.arguments[offset + 1]
        flag = flags.split("|")
        if "O_TMPFILE" in flag:
            raise NotModelled("O_TMPFILE")
        folder, name = found
        node = folder.now.get(name) if name else folder
        changed = False
        if node is None:
            node, changed = Node(folder=False), True
            folder.change(call.ended, {name: node})
        elif "O_TRUNC" in flag:
            changed = self._resize(node, 0, call.ended)
        key = (str(call.result), node)
        self._places[key] = 0
        for which, names in ((self._appending, {"O_APPEND"}), (self._at_once, {"O_SYNC", "O_DSYNC"})):
            which.discard(key)
            if names & set(flag):
                which.add(key)
        return changed

    def _mkdirat(self, call: Call) -> bool:
        found = self._find(call.path(int(call.name == "mkdirat")))
        if found is None:
            return False
        folder, name = found
        folder.change(call.ended, {name: Node(folder=True)})
        return True

    def _unlinkat(self, call: Call) -> bool:
        found = self._find(call.path(int(call.name == "unlinkat")))
        if found is None:
            return False
        folder, name = found
        folder.change(call.ended, {name: None})
        return True

    def _renameat(self, call: Call) -> bool:
        at = call.name != "rename"
        if call.name == "renameat2" and call.arguments[4] not in {"0", "RENAME_NOREPLACE"}:
            raise NotModelled(f"renameat2 with {call.arguments[4]}")
        source, target = self._find(call.path(int(at))), self._find(call.path(3 if at else 1))
        if source is None and target is None:
            return False
        if source is None or target is None:
            raise NotModelled("a renaming across the border")
        (left, old), (entered, new) = source, target
        node = left.now[old]
        if left is entered:
            left.change(call.ended, {old: None, new: node})
        else:
            entered.change(call.ended, {new: node})
            left.change(call.ended, {old: None})
        return True

    def _linkat(self, call: Call) -> bool:
        at = call.name == "linkat"
        node, target = self._node(call.path(int(at))), self._find(call.path(3 if at else 1))
        if target is None:
            return False
        if node is None:
            raise NotModelled(f"{call.name} of what has no name")
        folder, name = target
        folder.change(call.ended, {name: node})
        return True

    # --- contents

    def _write(self, call: Call) -> bool:
        node = self._open_node(call)
        if node is None:
            return False
        if node.folder:
            raise NotModelled(f"{call.name} to a folder")
        key = (call.descriptor(0).number, node)
        data = call.data(1)[: call.result]
        positioned = call.name.startswith("p")
        if positioned:
            place = int(call.arguments[3])
        elif key in self._appending:
            place = node.now.get(SIZE, 0)
        else:
            place = self._places[key]
        if not positioned:
            self._places[key] = place + len(data)
        at_once = key in self._at_once or (call.name == "pwritev2" and "SYNC" in call.arguments[4])
        size = max(node.now.get(SIZE, 0), place + len(data))
        node.change(call.ended, {**_sectors(node.now, place, data), SIZE: size}, at_once)
        return True

    def _lseek(self, call: Call) -> bool:
        node = self._open_node(call)
        if node is not None:
            self._places[call.descriptor(0).number, node] = call.result
        return False

    def _ftruncate(self, call: Call) -> bool:
        node = self._node(call.path(0)) if call.name == "truncate" else self._open_node(call)
        return node is not None and self._resize(node, int(call.arguments[1]), call.ended)

    def _fallocate(self, call: Call) -> bool:
        node = self._open_node(call)
        if node is None:
            return False
        mode, start, length = call.arguments[1:4]
        if mode != "0":
            raise NotModelled(f"fallocate with {mode}")
        return self._resize(node, max(node.now.get(SIZE, 0), int(start) + int(length)), call.ended)

    @staticmethod
    def _resize(node: Node, size: int, ended: int) -> bool:
        before = node.now.get(SIZE, 0)
        if size == before:
            return False
        node.change(ended, {**_sectors(node.now, size, bytes(max(before - size, 0))), SIZE: size})
        return True

    def _mmap(self, call: Call) -> bool:
        shared = "MAP_SHARED" in call.arguments[3] and "PROT_WRITE" in call.arguments[2]
        if shared and call.arguments[4] != "-1" and self._open_node(call, 4) is not None:
            raise NotModelled(f"a shared mapping of {call.descriptor(4).path}")
        return False

    def _splice(self, call: Call) -> bool:
        target = {"sendfile": 0, "copy_file_range": 2, "splice": 2}[call.name]
        if self._open_node(call, target) is not None:
            raise NotModelled(f"{call.name} to {call.descriptor(target).path}")
        return False

    # --- what makes safe

    def _fsync(self, call: Call) -> bool:
        node = self._open_node(call)
        return node is not None and node.sync(call.begun)

    def _sync(self, call: Call) -> bool:
        return sum(node.sync(call.begun) for node in self._nodes(self._top)) > 0

    def _sendto(self, _call: Call) -> bool:
        return False


_ALIASES = {
    "open": "openat", "creat": "openat", "mkdir": "mkdirat", "rmdir": "unlinkat", "unlink": "unlinkat",
    "rename": "renameat", "renameat2": "renameat", "link": "linkat", "truncate": "ftruncate", "fdatasync": "fsync",
    "pwrite64": "write", "writev": "write", "pwritev": "write", "pwritev2": "write", "syncfs": "sync",
    "sendfile": "splice", "copy_file_range": "splice", "sendmsg": "sendto",
}  # fmt: skip


def _sectors(before: Mapping[Hashable, Any], place: int, data: bytes) -> Values:
    """What the sectors hold that the data falls into."""
    if not data:
        return {}
    first, last = place // SECTOR, (place + len(data) - 1) // SECTOR
    zeros = bytes(SECTOR)
    region = bytearray().join(before.get(sector, zeros) for sector in range(first, last + 1))
    start = place - first * SECTOR
    region[start : start + len(data)] = data
    return {first + k: bytes(region[k * SECTOR : (k + 1) * SECTOR]) for k in range(last - first + 1)}
