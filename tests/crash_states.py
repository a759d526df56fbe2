"""What a loss of power may leave at each moment of a trace, and who had been answered with Success until then."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

from disk_model import SECTOR, SIZE, Choose, Disk, Node, State, Values
from system_calls import Call, calls


def dropped(_node: Node, _before: Values, _change: Values) -> Values:
    """Nothing that was not made safe."""
    return {}


def applied(_node: Node, _before: Values, change: Values) -> Values:
    """Everything."""
    return change


def names_early(node: Node, _before: Values, change: Values) -> Values:
    """Names and sizes, as a journalling file system writes them within seconds; no bytes."""
    return change if node.folder else {key: change[key] for key in change if key == SIZE}


def names_late(node: Node, _before: Values, change: Values) -> Values:
    """Bytes, and no names."""
    return {} if node.folder else change


def scattered(seed: int) -> Choose:
    """Of each change all, nothing, its first sectors, or any of its sectors and the size or not."""
    chance = random.Random(seed)

    def choose(node: Node, before: Values, change: Values) -> Values:
        how = chance.randrange(2 if node.folder else 4)
        if how < 2:
            return change if how else {}
        if how == 2:
            return {key: value for key, value in change.items() if chance.random() < 0.5}
        sectors = [key for key in change if key != SIZE]
        torn = {key: change[key] for key in sectors[: chance.randrange(len(sectors) + 1)]}
        if SIZE in change and torn:
            torn[SIZE] = min(change[SIZE], max(SECTOR * (max(torn) + 1), before.get(SIZE, 0)))
        return torn

    return choose


def choices(seed: int, scattered_ones: int) -> list[Choose]:
    """Nothing, everything, names or bytes alone, and so many random parts."""
    return [dropped, applied, names_early, names_late, *(scattered(seed + k) for k in range(scattered_ones))]


class Answers:
    """Instances that were answered with Success, read from what went out on sockets.

    PS3.8 section 9.3.5 (P-DATA-TF), PS3.7 sections 6.3.1 and 9.3.1.2 (C-STORE-RSP).
    """

    def __init__(self) -> None:
        self.instances: set[str] = set()
        self._streams: dict[str, bytes] = {}
        self._commands: dict[str, bytes] = {}

    def hear(self, connection: str, data: bytes) -> bool:
        """Whether with these bytes an instance has been answered."""
        before = len(self.instances)
        stream = self._streams.get(connection, b"") + data
        while len(stream) >= 6 and len(stream) >= (end := 6 + int.from_bytes(stream[2:6], "big")):
            if stream[0] == 0x04:
                self._hear_values(connection, stream[6:end])
            stream = stream[end:]
        self._streams[connection] = stream
        return len(self.instances) > before

    def _hear_values(self, connection: str, values: bytes) -> None:
        while values:
            end = 4 + int.from_bytes(values[:4], "big")
            control, fragment, values = values[5], values[6:end], values[end:]
            if not control & 1:
                continue
            command = self._commands.pop(connection, b"") + fragment
            if control & 2:
                self._hear_command(command)
            else:
                self._commands[connection] = command

    def _hear_command(self, command: bytes) -> None:
        elements = {}
        while command:
            end = 8 + int.from_bytes(command[4:8], "little")
            elements[int.from_bytes(command[2:4], "little")] = command[8:end]
            command = command[end:]
        if elements[0x0100] == b"\x01\x80" and elements[0x0900] == b"\0\0":
            self.instances.add(elements[0x1000].rstrip(b"\0 ").decode())


class Replay:
    """What a traced program did to a folder that was empty, call by call.

    An iteration replays it once. It stops after each call that changed the disk and each answer, and says which it
    was and who is answered; `disk` is as it was then. An answer counts from the begin of the call that sends it, a
    change from the end.
    """

    def __init__(self, trace: Path, folder: Path) -> None:
        self.calls = sorted(calls(trace, folder), key=lambda call: call.begun if _socket(call) else call.ended)
        self.disk = Disk(folder)

    def __iter__(self) -> Iterator[tuple[str, frozenset[str]]]:
        answers, answered = Answers(), frozenset[str]()
        for call in self.calls:
            if connection := _socket(call):
                if answers.hear(connection, call.data(1)[: call.result]):
                    answered = frozenset(answers.instances)
                    yield "answer", answered
            elif self.disk.apply(call):
                yield call.name, answered


def _socket(call: Call) -> str:
    """The socket that a call sends to."""
    path = call.descriptor(0).path if call.name in {"sendto", "sendmsg", "write", "writev"} else ""
    return path if path.startswith("socket:") else ""


class Replica:
    """A folder that holds one state after the other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._written: dict[str, tuple[bytes, tuple[int, int]]] = {}

    def become(self, state: State) -> None:
        """Hold this; what is there already, and was not touched, is left."""
        before, self._written = self._written, {}
        for at, folders, files in os.walk(self.folder, topdown=False):
            prefix = "" if at == str(self.folder) else f"{at[len(str(self.folder)) + 1 :]}/"
            for name in files:
                path, here = Path(at, name), prefix + name
                if before.get(here) == (state.get(here), _stamp(path)):
                    self._written[here] = before[here]
                else:
                    path.unlink()
            for name in folders:
                if prefix + name not in state:
                    Path(at, name).rmdir()
        for name in sorted(state.keys() - self._written.keys()):
            path, content = self.folder / name, state[name]
            if content is None:
                path.mkdir(mode=0o700, exist_ok=True)
            else:
                path.write_bytes(content)
                os.utime(path, (0, 0))  # whoever writes to it, be it in the same tick, changes that
                self._written[name] = (content, _stamp(path))


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_ino, found.st_mtime_ns


def held(folder: Path) -> State:
    """What a folder holds, without what the model leaves out."""
    return {
        str(path.relative_to(folder)): None if path.is_dir() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if not path.name.endswith("-shm")
    }
