"""A site's day in front of the node: scanners that send, a PACS that takes the results, and a disk that is cleaned.

    python -m benchmarks.site                               256 x 256 x 128, 8 echoes: turn-around, warm
    python -m benchmarks.site --acquisitions 200 --shape 256 256 72 --keep-gb 10    24 hours, compressed in time

Turn-around is from the last C-STORE that was answered to the last derived object that was delivered; the quiet time
is a part of it. Senders are DCMTK's storescu, four at a time; the PACS is its storescp, which forgets what it takes.
The data folder is below cache/. All run in a network of their own.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from statistics import median

from benchmarks.bench import CACHE, HERE
from benchmarks.receiving import ENVIRONMENT, PDU, SENDER, TITLE, free_port
from phantoms.anatomy import head
from phantoms.protocol import REFERENCE_PROTOCOL
from phantoms.scanner import Vendor, write_dicom
from phantoms.simulate import simulate
from recon.types import Shape

QUIET_S = 10.0
AT_ONCE = 4
FOLDER = CACHE / "site"
STAGES = ("acquisition complete", "job started", "job done", "delivered")


@dataclass(frozen=True, slots=True)
class Sample:
    """Resident memory of the node's own process, bytes in its data folder, and its threads."""

    resident: int
    stored: int
    threads: int


def images(shape: Shape) -> list[Path]:
    """The files that every acquisition is made from."""
    folder = CACHE / f"site-{'x'.join(map(str, shape))}"
    if not folder.exists():
        part = folder.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        x, y, z = shape
        protocol = replace(REFERENCE_PROTOCOL, shape=shape, voxel_mm=(240 / x, 240 / y, 160 / z))
        write_dicom(simulate(head(1), protocol, seed=1), part, Vendor.SIEMENS)
        part.rename(folder)
    return sorted(folder.rglob("*.dcm"))


def renamed(paths: Sequence[Path], number: int, folder: Path) -> Path:
    """Another acquisition: the same files, with other UIDs of the same length."""
    to = folder / f"sent-{number}"
    to.mkdir()
    for index, path in enumerate(paths):
        (to / f"{index:04d}.dcm").write_bytes(path.read_bytes().replace(b"2.25.", b"2.%03d" % (260 + number)))
    return to


@contextmanager
def running(name: str, command: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A program, until the end."""
    with (FOLDER / f"{name}.log").open("w") as log:
        kernels = {"NUMBA_CACHE_DIR": str(CACHE / "kernels")}
        process = subprocess.Popen(command, stdout=log, stderr=log, env=ENVIRONMENT | kernels)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


def events() -> list[dict[str, object]]:
    """What the node has said."""
    return [json.loads(line) for line in (FOLDER / "node.log").read_text().splitlines() if line.startswith("{")]


def wait_for(event: str, count: int, process: subprocess.Popen[bytes], limit_s: float) -> None:
    """Until the node has said this so often."""
    deadline = time.monotonic() + limit_s
    while (FOLDER / "node.log").read_text().count(f'"{event}"') < count:
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"not {count} times {event!r}: {(FOLDER / 'node.log').read_text()[-2000:]}")
        time.sleep(0.2)


def sample(pid: int) -> Sample:
    """The node now."""
    status = Path(f"/proc/{pid}/status").read_text()
    resident, threads = (int(re.search(rf"{name}:\s+(\d+)", status)[1]) for name in ("VmRSS", "Threads"))  # type: ignore[index]
    used = subprocess.run(["du", "-sk", FOLDER / "data"], capture_output=True, check=False).stdout.split()[0]
    return Sample(1024 * resident, 1024 * int(used), threads)


def configured(port: int, pacs_port: int, keep_gb: float) -> Path:
    """The node's configuration file."""
    config = FOLDER / "node.toml"
    config.write_text(
        f'ae_title = "{TITLE}"\nport = {port}\nquiet_s = {QUIET_S}\ndata_dir = "{FOLDER / "data"}"\n'
        f'deliver_to = ["pacs"]\nkeep_gb = {keep_gb}\n[peers.sender]\nae_title = "{SENDER}"\n'
        f'[peers.pacs]\nae_title = "PACS"\nhost = "127.0.0.1"\nport = {pacs_port}\n'
    )
    return config


def day(shape: Shape, acquisitions: int, keep_gb: float) -> None:
    """Send all acquisitions, and print what became of them."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    source = images(shape)
    port, pacs_port = free_port(), free_port()
    config = configured(port, pacs_port, keep_gb)
    serve = [sys.executable, "-c", "from node.cli import main; main()", "serve", "--config", str(config)]
    rounds = [range(1), range(1, 2)] if acquisitions == 1 else [range(acquisitions)]  # the first has a cold start
    samples: list[Sample] = []
    answered: dict[int, float] = {}
    with ExitStack() as stack:
        stack.enter_context(running("pacs", ["storescp", "--fork", "--ignore", "-pdu", PDU, str(pacs_port)]))
        node = stack.enter_context(running("node", serve))
        wait_for("node started", 1, node, 60)
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(10.0):
                samples.append(sample(node.pid))
                if len(samples) % 12 == 0:
                    last = samples[-1]
                    done = f"{answered_before()} reconstructed, {last.resident / 1e6:.0f} MB in memory"
                    print(f"{done}, {last.stored / 1e9:.1f} GB on disk", flush=True)

        def scan(number: int) -> None:
            while number > answered_before() + 2 * AT_ONCE:  # a day has pauses: the disk need not hold it all
                time.sleep(0.5)
            sent = renamed(source, number, FOLDER)
            command = ["storescu", "-aet", SENDER, "-aec", TITLE, "-pdu", PDU, "--scan-directories"]
            subprocess.run([*command, "127.0.0.1", str(port), str(sent)], env=ENVIRONMENT, check=True)
            answered[number] = time.time()
            shutil.rmtree(sent)

        def answered_before() -> int:
            return (FOLDER / "node.log").read_text().count('"job done"')

        watching = threading.Thread(target=watch)
        watching.start()
        start = time.monotonic()
        try:
            for numbers in rounds:
                with ThreadPoolExecutor(AT_ONCE) as senders:
                    list(senders.map(scan, numbers))
                wait_for("job done", numbers[-1] + 1, node, 3600)
                everything(config, numbers[-1] + 1)
        finally:
            ended.set()
            watching.join()
        samples.append(sample(node.pid))
        took_s = time.monotonic() - start
    print(f"{acquisitions} acquisitions of {len(source)} images in {took_s / 60:.1f} min")
    if acquisitions == 1:
        stages(answered[1])
    resources(samples)
    shutil.rmtree(FOLDER)


def resources(samples: Sequence[Sample]) -> None:
    """What the node needed, and whether that grew."""
    third = max(1, len(samples) // 3)
    print(
        f"memory {median(s.resident for s in samples[:third]) / 1e6:.0f} MB in the first third, "
        f"{median(s.resident for s in samples[-third:]) / 1e6:.0f} MB in the last, at most "
        f"{max(s.resident for s in samples) / 1e6:.0f}; at most {max(s.threads for s in samples)} threads and "
        f"{max(s.stored for s in samples) / 1e9:.1f} GB in the data folder"
    )


def everything(config: Path, acquisitions: int) -> None:
    """Wait until everything is delivered; what is cleaned was, and is not listed any more."""
    jobs = [sys.executable, "-c", "from node.cli import main; main()", "jobs", "--json", "--config", str(config)]
    deadline = time.monotonic() + 600
    while True:
        found = json.loads(subprocess.run(jobs, stdout=subprocess.PIPE, check=True).stdout)
        states = [acquisition["state"] for acquisition in found["acquisitions"]]
        cleaned = sum(event["event"] == "cleaned" for event in events())
        if len(states) + cleaned == acquisitions and set(states) <= {"delivered"}:
            return
        if time.monotonic() > deadline:
            raise RuntimeError(f"not delivered: { {state: states.count(state) for state in states} }")
        time.sleep(0.5)


def stages(answered_s: float) -> None:
    """Seconds from the last answer to the end of each stage."""
    at = {}
    for event in events():
        if event["event"] in STAGES:
            at[event["event"]] = datetime.fromisoformat(str(event["timestamp"])).timestamp() - answered_s
    for name in STAGES:
        print(f"{at[name]:8.1f} s  {name}")
    print(f"{at['delivered'] - QUIET_S:8.1f} s  turn-around without the quiet time of {QUIET_S:g} s")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", nargs=3, type=int, default=(256, 256, 128), metavar=("X", "Y", "Z"))
    parser.add_argument("--acquisitions", type=int, default=1)
    parser.add_argument("--keep-gb", type=float, default=10.0)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    x, y, z = chosen.shape
    if chosen.inside:
        day((x, y, z), chosen.acquisitions, chosen.keep_gb)
        return
    images((x, y, z))
    again = " ".join(["exec", sys.executable, "-m", "benchmarks.site", *sys.argv[1:], "--inside"])
    command = ["unshare", "--net", "--map-root-user", "sh", "-c", f"ip link set lo up; {again}"]
    sys.exit(subprocess.run(command, cwd=HERE.parent, env=ENVIRONMENT, check=False).returncode)


if __name__ == "__main__":
    main()
