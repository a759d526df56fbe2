"""Compiled kernels: made once, found again, brought along by an image, and enough for every job."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from node import service, warm
from node.config import Settings
from node.service import Node
from node.warm import NoCache, Warmed, choose_cache, compiled, every_method, is_warm, use_cache
from node.workers import InlineWorker
from recon.recipe import RECIPES, stages

COMMAND = [sys.executable, "-c", "from node.cli import main; main()"]


def ran(cache: Path, *command: object) -> str:
    """What a process prints, whose kernels are kept in ``cache``."""
    done = subprocess.run(
        [str(part) for part in command],
        env={**os.environ, "NUMBA_CACHE_DIR": str(cache)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def warmed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A cache that `qsm-node warmup` filled, and what it said."""
    cache = tmp_path_factory.mktemp("kernels")
    return cache, ran(cache, *COMMAND, "warmup")


def test_warmup_says_what_it_compiles_and_the_second_time_that_there_is_nothing_to_do(
    warmed: tuple[Path, str],
) -> None:
    cache, told = warmed
    before = compiled(cache)
    assert told.startswith("compiling kernels (once, about")
    assert f"compiled {len({path.name.split('-')[0] for path in before})} kernels in" in told
    assert "fit_echoes" in told
    assert is_warm(cache)
    assert ran(cache, *COMMAND, "warmup") == f"kernels are compiled already: {len(before)} functions in {cache}\n"
    assert compiled(cache) == before


JOBS = """
    import sys
    from datetime import UTC, datetime
    from pathlib import Path
    from node.warm import use_cache
    use_cache(Path("unused"), shipped=Path(sys.argv[3]))
    from node.offline import reconstruct_folder
    from recon.recipe import RECIPES
    for name, recipe in RECIPES.items():
        for outcome in reconstruct_folder(Path(sys.argv[1]), Path(sys.argv[2], name), datetime.now(UTC), recipe):
            print(outcome)
"""


@pytest.fixture(scope="module")
def inputs(tiny_study: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same small head as DICOM and as BIDS, in one folder."""
    from phantoms.anatomy import head  # noqa: PLC0415  numba is imported after the settings of conftest
    from phantoms.bids import write_bids  # noqa: PLC0415
    from phantoms.protocol import Protocol  # noqa: PLC0415
    from phantoms.simulate import simulate  # noqa: PLC0415

    protocol = Protocol((32, 40, 16), (6.0, 6.0, 10.0), te_s=(0.006, 0.014, 0.022), tr_s=0.05, flip_deg=20.0)
    folder = tmp_path_factory.mktemp("inputs")
    write_bids(simulate(head(1), protocol, 1), folder / "raw", "p")
    (folder / "dicom").symlink_to(tiny_study[0].parent.parent)
    return folder


@pytest.mark.parametrize("form", ["raw", "dicom"])
def test_after_warmup_no_job_compiles_anything(
    warmed: tuple[Path, str], inputs: Path, tmp_path: Path, form: str
) -> None:
    cache = warmed[0]
    before = compiled(cache)
    told = ran(
        cache, sys.executable, "-c", textwrap.dedent(JOBS), (inputs / form).resolve(), tmp_path, tmp_path / "none"
    )
    assert told.count("done") == len(RECIPES)
    assert compiled(cache) == before


def test_what_an_image_brings_along_is_copied_and_found(
    warmed: tuple[Path, str], inputs: Path, tmp_path: Path
) -> None:
    """Numba refuses a cache that it cannot write."""
    shipped, cache = warmed[0], tmp_path / "cache"
    told = ran(cache, sys.executable, "-c", textwrap.dedent(JOBS), inputs / "raw", tmp_path / "out", shipped)
    assert told.count("done") == len(RECIPES)
    relative = [path.relative_to(shipped) for path in compiled(shipped)]
    assert [path.relative_to(cache) for path in compiled(cache)] == relative
    assert all((cache / path).stat().st_mtime < (tmp_path / "out").stat().st_mtime for path in relative)


def test_what_was_compiled_for_another_processor_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    shipped, cache = tmp_path / "shipped", tmp_path / "cache"
    shipped.mkdir()
    (shipped / "kernel.nbc").write_text("theirs")
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(warm, "_processor", lambda: "another one")
        (shipped / warm._mark()).touch()
        assert is_warm(shipped)
    assert use_cache(cache, shipped=shipped) == cache
    assert list(cache.iterdir()) == []
    (shipped / warm._mark()).touch()
    use_cache(cache, shipped=shipped)
    assert (cache / "kernel.nbc").read_text() == "theirs"
    (cache / "kernel.nbc").write_text("ours")
    use_cache(cache, shipped=shipped)
    assert (cache / "kernel.nbc").read_text() == "ours"


def test_a_folder_that_can_be_written_is_chosen_or_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "named"))
    assert choose_cache(tmp_path / "other") == tmp_path / "named"
    monkeypatch.setenv("NUMBA_CACHE_DIR", "/proc/no-such-folder")
    assert choose_cache(tmp_path / "other") == tmp_path / "other"
    with pytest.raises(NoCache, match=r"can be written: /proc/no-such-folder, /proc/nor-this; set NUMBA"):
        choose_cache(Path("/proc/nor-this"))


def test_every_method_of_every_stage_is_warmed() -> None:
    recipes = list(every_method())
    for stage, methods in stages().items():
        assert {type(getattr(recipe, stage)) for recipe in recipes} == set(methods.values())


def test_a_node_says_that_it_compiles_and_that_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cold"))
    monkeypatch.setattr(service, "SpawnedWorker", lambda _threads, _cache: InlineWorker())
    monkeypatch.setattr(service, "compile_kernels", lambda: Warmed(("a", "b"), 3.0))
    caplog.set_level("INFO", "node")
    with Node(Settings(port=0, data_dir=tmp_path / "data")) as node:
        node._new_reconstructor()
    assert "compiling kernels (once, about" in caplog.text
    assert "kernels compiled" in caplog.text
    caplog.clear()
    (tmp_path / "cold" / warm._mark()).touch()
    with Node(Settings(port=0, data_dir=tmp_path / "data")) as node:
        node._new_reconstructor()
    assert "compil" not in caplog.text
