"""How fast images are received: the node beside Orthanc and DCMTK, with the same files, in turns.

    python -m benchmarks.receiving                 200 images of 512 KiB per association, 1 and 4 associations
    python -m benchmarks.receiving --rounds 7      more turns
    python -m benchmarks.receiving --syncs         flushes to disk per image, traced in a run of its own

Sends with DCMTK's storescu, with PDUs of 128 KiB. Receivers write below cache/, which should be a disk and no memory;
the node and Orthanc make every image durable before they answer, DCMTK's storescp does not. Every turn starts each
receiver anew and empty. All run in a network of their own, since Orthanc and storescp listen on every address.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import pydicom
from pydicom.uid import generate_uid

from benchmarks.bench import CACHE, HERE
from benchmarks.loading import scanned
from phantoms.scanner import Vendor, write_dicom

IMAGES, SENDERS = 200, 4
TITLE, SENDER = "RECEIVER", "SENDER"
PDU = "131072"
SHAPE = (512, 512, 25)
ENVIRONMENT = os.environ | {"TCP_NODELAY": "1", "PATH": f"/usr/bin:/usr/sbin:{os.environ.get('PATH', '')}"}


@dataclass(frozen=True, slots=True)
class Turn:
    """One measurement: seconds from the first association to the last answer, and the receiver's CPU seconds."""

    images: int
    wall_s: float
    cpu_s: float


def studies() -> list[Path]:
    """Folders with the same images under different identifiers, one for each sender; written unless that is done."""
    folder = CACHE / "receiving"
    if not folder.exists():
        part = folder.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        source = write_dicom(scanned(SHAPE), part / "source", Vendor.SIEMENS)
        for path in source[:IMAGES]:
            ds = pydicom.dcmread(path)
            for sender in range(SENDERS):
                (part / str(sender)).mkdir(parents=True, exist_ok=True)
                for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID"):
                    ds[keyword].value = generate_uid(entropy_srcs=[str(sender), ds[keyword].value])
                ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
                ds.save_as(part / str(sender) / path.name)
        shutil.rmtree(part / "source")
        part.rename(folder)
    return sorted(folder.iterdir())


def node(folder: Path, port: int) -> list[str]:
    """The node; it gathers images and starts no job while they come."""
    config = folder / "node.toml"
    config.write_text(
        f'ae_title = "{TITLE}"\nport = {port}\nquiet_s = 600\ndata_dir = "{folder / "data"}"\nmin_free_gb = 0\n'
        f'deliver_to = ["sender"]\n[peers.sender]\nae_title = "{SENDER}"\nhost = "127.0.0.1"\nport = 1\n'
    )
    return [sys.executable, "-c", "from node.cli import main; main()", "serve", "--config", str(config)]


def orthanc(folder: Path, port: int, sync: bool = True) -> list[str]:
    """Orthanc, which makes every image durable unless it is told not to."""
    settings = {
        "DicomAet": TITLE, "DicomPort": port, "HttpServerEnabled": False, "DicomAlwaysAllowStore": True,
        "StorageDirectory": str(folder / "db"), "IndexDirectory": str(folder / "db"), "SyncStorageArea": sync,
    }  # fmt: skip
    config = folder / "orthanc.json"
    config.write_text(json.dumps(settings))
    return ["Orthanc", str(config)]


def storescp(folder: Path, port: int) -> list[str]:
    """DCMTK's receiver, a process for every association; writes without making durable."""
    (folder / "files").mkdir()
    return ["storescp", "--fork", "-pdu", PDU, "-aet", TITLE, "-od", str(folder / "files"), str(port)]


RECEIVERS = {"node": node, "Orthanc": orthanc, "storescp": storescp}


@contextmanager
def running(name: str, before: Sequence[str] = ()) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A receiver with an empty folder, as soon as it answers; its process and port."""
    folder = CACHE / f"receiving-{name}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    port = free_port()
    with (folder / "log").open("w") as log:
        command = [*before, *RECEIVERS[name](folder, port)]
        process = subprocess.Popen(command, stdout=log, stderr=log, env=ENVIRONMENT)
        try:
            echo = ["echoscu", "-aet", SENDER, "-aec", TITLE, "127.0.0.1", str(port)]
            deadline = time.monotonic() + 60
            while subprocess.run(echo, capture_output=True, env=ENVIRONMENT, check=False).returncode:
                if time.monotonic() > deadline or process.poll() is not None:
                    raise RuntimeError((folder / "log").read_text())
                time.sleep(0.1)
            yield process, port
        finally:
            for pid in _children(process.pid)[:1] if before else [process.pid]:  # strace passes no signal on
                os.kill(pid, signal.SIGTERM)
            process.wait(60)
    shutil.rmtree(folder)


def send(folders: Sequence[Path], port: int) -> float:
    """Send every folder over an association of its own, all at once; the seconds that took."""
    command = ["storescu", "-aet", SENDER, "-aec", TITLE, "-pdu", PDU, "--scan-directories", "127.0.0.1", str(port)]
    start = time.perf_counter()
    senders = [
        subprocess.Popen([*command, str(folder)], stdout=subprocess.DEVNULL, env=ENVIRONMENT) for folder in folders
    ]
    if sum(sender.wait() for sender in senders):
        raise RuntimeError("an image was refused")
    return time.perf_counter() - start


def measure(name: str, folders: Sequence[Path]) -> Turn:
    """One turn of one receiver."""
    with running(name) as (process, port):
        before = _cpu_s(process.pid)
        wall_s = send(folders, port)
        return Turn(IMAGES * len(folders), wall_s, _cpu_s(process.pid) - before)


def syncs(name: str, folders: Sequence[Path]) -> float:
    """Flushes to disk per image."""
    trace = CACHE / "syncs"
    calls = "trace=fsync,fdatasync,sync_file_range,syncfs,msync"
    with running(name, ["strace", "-f", "-qq", "-e", calls, "-o", str(trace)]) as (_, port):
        before = len(trace.read_bytes().splitlines())
        send(folders, port)
        lines = trace.read_text().splitlines()[before:]
    trace.unlink()
    return sum(bool(re.search(r"sync\w*\(", line)) for line in lines) / (IMAGES * len(folders))


def free_port() -> int:
    """A loopback port that nobody uses now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _cpu_s(pid: int) -> float:
    """Of a process and of its children that have ended; of living children too."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except FileNotFoundError:  # it ended just now
        return 0.0
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK") + sum(map(_cpu_s, _children(pid)))


def _children(pid: int) -> list[int]:
    try:
        tasks = [task.read_text() for task in Path(f"/proc/{pid}/task").glob("*/children")]
    except FileNotFoundError:
        return []
    return [int(child) for task in tasks for child in task.split()]


def line(name: str, turns: Sequence[Turn], against: Sequence[Turn]) -> str:
    """The row of one receiver; the ratio is the median over the turns, each beside Orthanc's of the same turn."""
    rates = [turn.images / turn.wall_s for turn in turns]
    ratio = median(other.wall_s / turn.wall_s for turn, other in zip(turns, against, strict=True))
    cpu_ms = median(1e3 * turn.cpu_s / turn.images for turn in turns)
    return f"{name:12}{median(rates):10.0f}{max(rates):10.0f}{ratio:12.2f}{cpu_ms:12.2f}"


HEADER = f"{'receiver':12}{'median /s':>10}{'best /s':>10}{'to Orthanc':>12}{'CPU ms':>12}"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--syncs", action="store_true", help="count flushes instead of measuring time")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if not chosen.inside:
        again = " ".join(["exec", sys.executable, "-m", "benchmarks.receiving", *sys.argv[1:], "--inside"])
        command = ["unshare", "--net", "--map-root-user", "sh", "-c", f"ip link set lo up; {again}"]
        studies()
        sys.exit(subprocess.run(command, cwd=HERE.parent, env=ENVIRONMENT, check=False).returncode)
    for senders in (1, SENDERS):
        folders = studies()[:senders]
        print(f"\n{senders} x {IMAGES} images of {SHAPE[0] * SHAPE[1] >> 9} KiB")
        if chosen.syncs:
            for name in RECEIVERS:
                print(f"{name:12}{syncs(name, folders):8.2f} flushes per image", flush=True)
            continue
        turns: dict[str, list[Turn]] = {name: [] for name in RECEIVERS}
        for _ in range(chosen.rounds):
            for name, of_name in turns.items():
                of_name.append(measure(name, folders))
        print(HEADER)
        for name, of_name in turns.items():
            print(line(name, of_name, turns["Orthanc"]), flush=True)


if __name__ == "__main__":
    main()
