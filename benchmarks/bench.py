"""Speed and memory of the reconstruction, stage by stage, beside what this machine's cores and memory allow.

    python -m benchmarks.bench                        three sizes, a table, and a JSON file below results/
    python -m benchmarks.bench --compare [OLD NEW]    two such files (the two newest) as ratios
    python -m benchmarks.bench --scale                64 to 384 voxels cubed: time and memory per voxel and echo

Every case runs in a process of its own: compiled kernels warm, arrays in memory, mask given. Peak memory is what the
first run adds to the process that holds the input. Inputs are simulated once and kept below cache/.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.floor import Machine, Size, measured, needs
from phantoms.anatomy import head
from phantoms.protocol import REFERENCE_PROTOCOL, SMALL_PROTOCOL
from phantoms.simulate import simulate
from recon.coarse import halving
from recon.grid import WorkGrid
from recon.kernels import threads
from recon.mask import AutoMask, automatic_mask
from recon.pipeline import Result, reconstruct
from recon.types import Acquisition, BoolArray, Geometry

HERE = Path(__file__).parent
RESULTS, CACHE = HERE / "results", HERE / "cache"

PROTOCOLS = {
    "128x128x72": SMALL_PROTOCOL,
    "256x256x128": replace(REFERENCE_PROTOCOL, shape=(256, 256, 128), voxel_mm=(240 / 256, 240 / 256, 1.5)),
    "416x320x72": REFERENCE_PROTOCOL,
}
SCALES = (64, 96, 128, 192, 256, 384)
AUTOMATIC = "automatic mask"

Record = dict[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """An acquisition and its brain mask."""

    acquisition: Acquisition
    brain: BoolArray


# ---------------------------------------------------------------------------------------------------------- inputs


def prepare(name: str) -> None:
    """Simulate head 1 with its lesions at SNR 60, unless that has been done."""
    if all(file.exists() for file in _files(name)):
        return
    print(f"simulating {name} ...", file=sys.stderr)
    made = simulate(head(1), PROTOCOLS[name], seed=1)
    CACHE.mkdir(exist_ok=True)
    volumes = (made.acquisition.magnitude, made.acquisition.phase, made.brain)
    for file, volume in zip(_files(name), volumes, strict=True):
        np.save(file, volume)


def phantom(name: str) -> Case:
    """What :func:`prepare` has simulated."""
    protocol = PROTOCOLS[name]
    geometry = Geometry.of(protocol.shape, protocol.voxel_mm, protocol.b0_dir)
    magnitude, phase, brain = (np.load(file) for file in _files(name))
    return Case(Acquisition(magnitude, phase, protocol.te_s, protocol.f0_mhz, geometry), brain)


def _files(name: str) -> list[Path]:
    return [CACHE / f"{name}-{part}.npy" for part in ("magnitude", "phase", "brain")]


def analytic(edge: int) -> Case:
    """An ellipsoid with a smooth field, a vein across and noise: cheap to make at any size, no truth behind it."""
    te_s, shape = REFERENCE_PROTOCOL.te_s, (edge, edge, edge)
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, edge, dtype=np.float32)] * 3, indexing="ij", sparse=True)
    brain = (x / 0.62) ** 2 + (y / 0.75) ** 2 + (z / 0.6) ** 2 < 1
    vein = np.exp(-((x - 0.1) ** 2 + (z - 0.05) ** 2) / 0.001)
    field_hz = (25 * (x**2 - z**2) + 8 * y * z + 6 * vein).astype(np.float32)
    rng = np.random.default_rng(edge)
    magnitude, phase = (np.empty((len(te_s), *shape), dtype=np.float32) for _ in range(2))
    for echo, te in enumerate(te_s):
        for i in range(edge):
            noise = rng.standard_normal((2, edge, edge), dtype=np.float32)
            signal = 60 * brain[i] * np.exp(-20 * te) * np.exp(2j * np.pi * te * field_hz[i])
            signal = signal + noise[0] + 1j * noise[1]
            magnitude[echo, i], phase[echo, i] = np.abs(signal), np.angle(signal)
    voxel = 240 / edge
    geometry = Geometry.of(shape, (voxel, voxel, voxel))
    return Case(Acquisition(magnitude, phase, te_s, REFERENCE_PROTOCOL.f0_mhz, geometry), brain)


# ----------------------------------------------------------------------------------------------------- measurement


def measure(name: str, runs: int) -> Record:
    """Run one case in this process: seconds of every stage in every run, the floor, and peak memory."""
    small = analytic(24)
    reconstruct(small.acquisition, mask=small.brain)
    case = phantom(name) if name in PROTOCOLS else analytic(int(name))
    before = peak_bytes()
    result, first, steps = timed(case)
    peak = peak_bytes() - before
    grid, voxel_mm = WorkGrid.around(case.brain), case.acquisition.geometry.voxel_mm
    x, y, z = (n // factor for n, factor in zip(grid.shape, halving(grid.shape, voxel_mm), strict=True))
    size = Size(grid.full, grid.shape, (x, y, z), int(np.count_nonzero(case.brain)), len(case.acquisition.te_s))
    # Floor and runs take turns, so that both see the same neighbours on the machine.
    seconds, machines = [], [measured(grid.shape)]
    for _ in range(runs):
        seconds.append(timed(case)[1])
        machines.append(measured(grid.shape))
    machine = Machine(median(m.pair_s for m in machines), median(m.bandwidth for m in machines))
    # A run of a fresh process also pays for its first touch of memory: it counts only where there is no other.
    seconds = seconds or [first]
    floors = {stage: need.seconds(machine) for stage, need in needs(size, result.traces, steps).items()}
    stages = {stage: entry([run[stage] for run in seconds], floors.get(stage)) for stage in seconds[0]}
    whole_floor = sum(floors.values()) if set(floors) == set(stages) else None
    total = entry([sum(run.values()) for run in seconds], whole_floor)
    if name in PROTOCOLS:
        stages[AUTOMATIC] = entry([mask_seconds(case) for _ in range(max(1, runs))], None)
    return {
        "size": asdict(size),
        "iterations": {trace.stage: trace.iterations for trace in result.traces if trace.iterations},
        "pair_ms": 1e3 * machine.pair_s,
        "bandwidth_gb_s": 1e-9 * machine.bandwidth,
        "peak_mb": 1e-6 * peak,
        "stages": stages,
        "total": total,
    }


def timed(case: Case) -> tuple[Result, dict[str, float], dict[str, int]]:
    """A reconstruction, the seconds of its stages, and how many steps each reported.

    A stage lasts until the next one tells that it begins; what comes before the first are the checks.
    """
    begins = [("checks", time.perf_counter())]
    steps = {"checks": 0}

    def progress(stage: str, done: float) -> None:
        if begins[-1][0] != stage:
            begins.append((stage, time.perf_counter()))
        steps[stage] = steps.get(stage, 0) + (done > 0)

    result = reconstruct(case.acquisition, mask=case.brain, progress=progress)
    ends = [start for _, start in begins[1:]] + [time.perf_counter()]
    return result, {stage: end - start for (stage, start), end in zip(begins, ends, strict=True)}, steps


def mask_seconds(case: Case) -> float:
    """Seconds of the automatic mask."""
    start = time.perf_counter()
    automatic_mask(case.acquisition, AutoMask())
    return time.perf_counter() - start


def entry(seconds: list[float], floor_s: float | None) -> Record:
    """Median, least and floor of a stage, and the ratio of median and floor where there is one."""
    middle = median(seconds)
    ratio = middle / floor_s if floor_s else None
    return {"median_s": middle, "min_s": min(seconds), "floor_s": floor_s, "ratio": ratio}


def peak_bytes() -> int:
    """The most memory that this process has held at once."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def in_own_process(name: str, runs: int) -> Record:
    """:func:`measure` in a fresh process, so that memory is this case's alone."""
    command = [sys.executable, "-m", "benchmarks.bench", "--one", name, "--runs", str(runs)]
    done = subprocess.run(
        command, cwd=HERE.parent, env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}, stdout=subprocess.PIPE, check=True
    )
    record: Record = json.loads(done.stdout)
    return record


# ---------------------------------------------------------------------------------------------------------- report


def machine() -> Record:
    """What was measured on."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text("utf-8").splitlines() if cpuinfo.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": threads(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("numpy", "scipy", "numba")},
    }


def table(record: Record) -> list[str]:
    """The lines of one case."""

    def line(name: str, row: Record) -> str:
        floor = f"{row['floor_s']:8.2f}{row['ratio']:8.2f}" if row["floor_s"] else f"{'-':>8}{'-':>8}"
        return f"  {name:16}{row['median_s']:8.2f}{row['min_s']:8.2f}{floor}"

    header = f"  {'stage':16}{'median s':>8}{'min s':>8}{'floor s':>8}{'ratio':>8}"
    rows = [line(stage, row) for stage, row in record["stages"].items() if stage != AUTOMATIC]
    extra = [line("+ " + AUTOMATIC, row) for stage, row in record["stages"].items() if stage == AUTOMATIC]
    facts = (
        f"  peak memory above the input {record['peak_mb']:.0f} MB; transform pair {record['pair_ms']:.1f} ms, "
        f"memory {record['bandwidth_gb_s']:.1f} GB/s; iterations {record['iterations']}"
    )
    return [header, *rows, line("total", record["total"]), *extra, facts]


def compared(old: Record, new: Record) -> list[str]:
    """Time of the new file over the old one's, stage by stage; below 1 is faster."""
    lines = [f"{old['commit']} -> {new['commit']}"]
    if old["machine"] != new["machine"]:
        lines.append(f"different machines: {old['machine']} -> {new['machine']}")
    for name in (name for name in new["sizes"] if name in old["sizes"]):
        before, after = old["sizes"][name], new["sizes"][name]
        lines.append(name)
        rows = {stage: (before["stages"].get(stage), row) for stage, row in after["stages"].items()}
        for stage, (a, b) in (rows | {"total": (before["total"], after["total"])}).items():
            if a is not None:
                change = f"{a['median_s']:8.2f} s ->{b['median_s']:8.2f} s{b['median_s'] / a['median_s']:8.2f}"
                lines.append(f"  {stage:16}{change}")
        peaks = f"{before['peak_mb']:7.0f} MB ->{after['peak_mb']:7.0f} MB"
        lines.append(f"  {'peak memory':16}{peaks}{after['peak_mb'] / before['peak_mb']:7.2f}")
    return lines


def commit() -> str:
    """Short hash of the checkout, with ``-dirty`` where files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--exclude", "*"]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def bench(runs: int) -> None:
    """Measure all sizes; print tables and keep a JSON file."""
    record: Record = {"commit": commit(), "machine": machine(), "sizes": {}}
    print(record["machine"])
    for name in PROTOCOLS:
        prepare(name)
        record["sizes"][name] = in_own_process(name, runs)
        print(f"{name}, {record['sizes'][name]['size']['echoes']} echoes", *table(record["sizes"][name]), sep="\n")
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{time.strftime('%Y%m%dT%H%M%S')}-{record['commit']}.json"
    file.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    print(f"kept as {file.relative_to(HERE.parent)}")


def scale(runs: int) -> None:
    """Print how time and memory grow with the number of voxels."""
    print(f"{'voxels':>12}{'seconds':>9}{'peak MB':>9}{'ns / voxel echo':>17}{'bytes / voxel echo':>20}  iterations")
    for edge in SCALES:
        record = in_own_process(str(edge), runs)
        samples = edge**3 * record["size"]["echoes"]
        seconds, peak_mb = record["total"]["median_s"], record["peak_mb"]
        per = f"{1e9 * seconds / samples:17.1f}{1e6 * peak_mb / samples:20.1f}"
        print(f"{edge**3:12}{seconds:9.2f}{peak_mb:9.0f}{per}  {record['iterations']}", flush=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="runs per case after the first one")
    parser.add_argument("--one", metavar="CASE", help="measure one case and print it as JSON")
    parser.add_argument("--scale", action="store_true", help="64 to 384 voxels cubed")
    parser.add_argument("--compare", nargs="*", type=Path, metavar="JSON", help="two files, or none for the newest")
    chosen = parser.parse_args()
    if chosen.one:
        print(json.dumps(measure(chosen.one, chosen.runs)))
    elif chosen.scale:
        scale(chosen.runs)
    elif chosen.compare is not None:
        files = chosen.compare or sorted(RESULTS.glob("*.json"))[-2:]
        if len(files) != 2:
            parser.error(f"two JSON files are needed, there are {len(files)}: run make bench")
        print(*compared(*(json.loads(file.read_text("utf-8")) for file in files)), sep="\n")
    else:
        bench(chosen.runs)


if __name__ == "__main__":
    main()
