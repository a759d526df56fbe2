"""The benchmark's own arithmetic: floors, ratios, comparison. Nothing here is timed."""

from math import log2

import pytest

from benchmarks import loading
from benchmarks.bench import compared, entry, table
from benchmarks.floor import Machine, Need, Size, measured, needs
from node.load import load
from phantoms.scanner import Vendor
from recon.types import Trace

MACHINE = Machine(pair_s=0.02, bandwidth=10e9)
SIZE = Size(full=(64, 32, 16), work=(48, 40, 36), coarse=(24, 20, 18), mask=5000, echoes=3)
V, N = 64 * 32 * 16, 48 * 40 * 36


def record(seconds, peak_mb=500.0, cpu="one"):
    row = entry(seconds, 0.5)
    case = {
        "size": {"echoes": 8},
        "iterations": {"inversion": 40},
        "pair_ms": 20.0,
        "bandwidth_gb_s": 10.0,
        "peak_mb": peak_mb,
        "stages": {"field": row, "automatic mask": entry([0.7], None)},
        "total": row,
    }
    return {"commit": f"c{peak_mb:.0f}", "machine": {"cpu": cpu}, "sizes": {"256x256x128": case}}


def test_a_need_takes_the_time_of_its_transforms_and_of_its_bytes():
    assert Need(pairs=10, bytes_moved=5e9).seconds(MACHINE) == pytest.approx(0.2 + 0.5)


def test_needs_follow_the_iterations_of_the_traces():
    traces = [Trace("background", "Pdf", 20), Trace("inversion", "NonlinearTv", 40)]
    found = needs(SIZE, traces, {"background": 20})
    assert found["background"] == Need(44, 72.0 * N * 20)
    assert found["inversion"] == Need(80, 102.0 * N * 40 + 32 * V)
    assert found["field"] == Need(0, 48 * 3 * 5000 + 64 * N)
    assert found["GRE phase"].pairs == pytest.approx(2 * V * 6 / (N * log2(N)))


def test_steps_on_the_coarse_grid_count_as_much_less():
    with_coarse = needs(SIZE, [Trace("background", "Pdf", 8)], {"background": 28})["background"]
    assert with_coarse.pairs == pytest.approx(20 + 41 * log2(N / 8) / log2(N) / 8)
    assert with_coarse.bytes_moved == pytest.approx(72 * (8 * N + 20 * N / 8))


def test_a_method_without_a_count_has_no_floor():
    found = needs(SIZE, [Trace("background", "Lbv", 20), Trace("inversion", "Medi", 4)], {"background": 20})
    assert set(found) == {"checks", "GRE phase", "mask", "field"}


def test_an_entry_holds_median_least_and_ratio():
    assert entry([3.0, 1.0, 2.0], 0.5) == {"median_s": 2.0, "min_s": 1.0, "floor_s": 0.5, "ratio": 4.0}
    assert entry([3.0], None)["ratio"] is None


def test_files_are_compared_stage_by_stage():
    lines = compared(record([2.0], 500), record([1.0], 250))
    words = {line.split()[0]: line.split()[-1] for line in lines[2:]}
    assert lines[0] == "c500 -> c250"
    assert words == {"field": "0.50", "automatic": "1.00", "total": "0.50", "peak": "0.50"}


def test_another_machine_is_pointed_out():
    assert any("different machines" in line for line in compared(record([2.0]), record([2.0], cpu="two")))


def test_a_size_or_stage_that_is_new_is_not_compared():
    old, new = record([2.0]), record([1.0])
    new["sizes"]["64x64x64"] = new["sizes"]["256x256x128"]
    del old["sizes"]["256x256x128"]["stages"]["field"]
    lines = compared(old, new)
    assert not any(line.strip().startswith(("64x64", "field")) for line in lines)


def test_the_table_shows_every_stage_and_the_total():
    text = "\n".join(table(record([2.0])["sizes"]["256x256x128"]))
    assert all(word in text for word in ("field", "total", "+ automatic mask", "peak memory above the input 500 MB"))


def test_the_machine_is_measured():
    machine = measured((16, 12, 10), runs=1)
    assert machine.pair_s > 0
    assert machine.bandwidth > 1e8


def test_every_vendors_files_are_written_once_and_can_be_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "CACHE", tmp_path)
    files = loading.files((12, 10, 16))
    assert {vendor: load(paths).acquisition.magnitude.shape for vendor, paths in files.items()} == dict.fromkeys(
        Vendor, (8, 12, 10, 16)
    )
    monkeypatch.setattr(loading, "write_dicom", None)
    assert loading.files((12, 10, 16)) == files


def test_a_row_shows_rate_and_memory():
    record = {"files": 1152, "load_s": 2.0, "least_s": 1.5, "cold_s": 4.0, "read_s": 0.1, "peak_ratio": 1.2}
    assert loading.line("ge", record).split() == ["ge", "1152", "2.00", "1.50", "4.00", "0.10", "576", "1.20"]
