"""Speed and memory of loading: files of every vendor to arrays, beside reading the same bytes.

    python -m benchmarks.loading                      8 echoes of 416 x 320 x 72, all vendors, a table
    python -m benchmarks.loading --shape 256 256 72   another matrix

Every vendor runs in a process of its own. Memory is what the first run adds, over the size of the arrays. Runs of
reading and loading take turns, so that both see the same neighbours on the machine; `cold` is the first run after the
files were dropped from the page cache. Files are written once and kept below cache/.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.bench import CACHE, HERE, Record, peak_bytes
from node.load import load
from phantoms.protocol import REFERENCE_PROTOCOL
from phantoms.scanner import Vendor, write_dicom
from phantoms.simulate import Phantom
from recon.types import Acquisition, Shape


def scanned(shape: Shape) -> Phantom:
    """A noisy disc with a smooth field, under the reference protocol: cheap to make, no truth behind it."""
    protocol = replace(REFERENCE_PROTOCOL, shape=shape)
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n, dtype=np.float32) for n in shape], indexing="ij", sparse=True)
    field_hz, body = 40 * (x**2 - z**2) + 20 * y * z, x**2 + y**2 < 0.6
    rng = np.random.default_rng(1)
    magnitude, phase = (np.empty((len(protocol.te_s), *shape), np.float32) for _ in range(2))
    for echo, te_s in enumerate(protocol.te_s):
        signal = 60 * body * np.exp(-20 * te_s) * np.exp(2j * np.pi * te_s * field_hz)
        signal += rng.standard_normal(shape) + 1j * rng.standard_normal(shape)
        magnitude[echo], phase[echo] = np.abs(signal), np.angle(signal)
    acquisition = Acquisition(magnitude, phase, protocol.te_s, protocol.f0_mhz, protocol.geometry)
    nothing = np.zeros(shape, np.bool_)
    return Phantom(acquisition, magnitude[0], nothing, nothing.astype(np.uint8), (), (), protocol, 1, 1)


def files(shape: Shape) -> dict[Vendor, list[Path]]:
    """The files of every vendor, written unless that has been done."""
    folder = CACHE / f"files-{'x'.join(map(str, shape))}"
    if not folder.exists():
        part = folder.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        phantom = scanned(shape)
        for vendor in Vendor:
            print(f"writing {folder.name}/{vendor} ...", file=sys.stderr)
            write_dicom(phantom, part / vendor, vendor)
        part.rename(folder)
    return {vendor: sorted((folder / vendor).rglob("*.dcm")) for vendor in Vendor}


def measure(paths: list[Path], runs: int) -> Record:
    """Load the files some times in this process: seconds, what reading alone takes, and peak memory over arrays."""
    before = peak_bytes()
    forget(paths)
    start = time.perf_counter()
    source = load(paths)
    cold_s = time.perf_counter() - start
    peak = peak_bytes() - before
    arrays = source.acquisition.magnitude.nbytes + source.acquisition.phase.nbytes
    del source
    read, loaded = [], []
    for _ in range(runs):
        read.append(seconds(lambda: sum(len(path.read_bytes()) for path in paths)))
        loaded.append(seconds(lambda: load(paths)))
    return {
        "files": len(paths),
        "load_s": median(loaded),
        "least_s": min(loaded),
        "cold_s": cold_s,
        "read_s": median(read),
        "peak_ratio": peak / arrays,
    }


def seconds(work: Callable[[], object]) -> float:
    """How long the call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def forget(paths: Iterable[Path]) -> None:
    """Drop the files from the page cache, where the system can."""
    if not hasattr(os, "posix_fadvise"):
        return
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def line(name: str, record: Record) -> str:
    """The row of one vendor."""
    times = "".join(f"{record[key]:9.2f}" for key in ("load_s", "least_s", "cold_s", "read_s"))
    rate, ratio = record["files"] / record["load_s"], record["peak_ratio"]
    return f"{name:18}{record['files']:6}{times}{rate:9.0f}{ratio:9.2f}"


HEADER = f"{'vendor':18}{'files':>6}{'load s':>9}{'least s':>9}{'cold s':>9}{'read s':>9}{'files/s':>9}{'memory':>9}"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", nargs=3, type=int, default=REFERENCE_PROTOCOL.shape, metavar=("X", "Y", "Z"))
    parser.add_argument("--runs", type=int, default=5, help="runs per vendor after the first, cold one")
    parser.add_argument("--write", action="store_true", help="write the files only")
    parser.add_argument("--one", type=Vendor, metavar="VENDOR", help="measure one vendor and print it as JSON")
    chosen = parser.parse_args()
    x, y, z = chosen.shape
    if chosen.write:
        files((x, y, z))
    elif chosen.one:
        print(json.dumps(measure(files((x, y, z))[chosen.one], chosen.runs)))
    else:
        again = [
            sys.executable,
            "-m",
            "benchmarks.loading",
            "--shape",
            *map(str, (x, y, z)),
            "--runs",
            str(chosen.runs),
        ]
        # In a process of its own too: one that is started by a large process counts that one's memory as its own.
        subprocess.run([*again, "--write"], cwd=HERE.parent, check=True)
        print(HEADER)
        for vendor in Vendor:
            done = subprocess.run([*again, "--one", vendor], cwd=HERE.parent, stdout=subprocess.PIPE, check=True)
            print(line(vendor, json.loads(done.stdout)), flush=True)


if __name__ == "__main__":
    main()
