"""Compiled kernels: where they are kept, whether they are there, and how to make them before they are needed.

Numba compiles for one processor and keeps the result under the path of the source. Imports neither numba nor what
brings it along until it compiles: the cache must be chosen before.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from node.errors import PermanentError

if TYPE_CHECKING:
    from recon.recipe import Recipe

SHIPPED = Path(sys.prefix) / "share" / "qsm-node" / "kernels"
"""What an image brings along, read-only; numba refuses a cache that it cannot write, so it is copied."""
ABOUT_S = 30
"""What compiling takes on two cores, roughly: what to tell somebody who waits."""

_VARIABLE = "NUMBA_CACHE_DIR"


def kernel_cache(data_dir: Path) -> Path:
    """Where compiled kernels are kept unless ``NUMBA_CACHE_DIR`` says otherwise."""
    return data_dir / "cache" / "numba"


class NoCache(PermanentError):
    """There is no folder in which compiled kernels could be kept."""


@dataclass(frozen=True, slots=True)
class Warmed:
    """What was compiled: names of functions (one for every signature), and how long all of it took in seconds."""

    functions: tuple[str, ...]
    seconds: float


def choose_cache(*folders: Path) -> Path:
    """What ``NUMBA_CACHE_DIR`` names, or else the first of these folders that can be written.

    Raises
    ------
    NoCache
        If none can be written.
    """
    named = os.environ.get(_VARIABLE)
    candidates: tuple[Path, ...] = (*((Path(named),) if named else ()), *folders)
    for folder in candidates:
        if _can_be_written(folder):
            return folder
    tried = ", ".join(map(str, candidates))
    raise NoCache(
        f"none of the folders for compiled kernels can be written: {tried}; set {_VARIABLE} to one that can"
    )


def use_cache(*folders: Path, shipped: Path = SHIPPED) -> Path:
    """Make what `choose_cache` chooses the cache of this process and of those that it starts.

    To be called before numba is imported. What the image brings along for this processor is copied into it; on
    another processor nothing of that fits, and the first use compiles into the cache.
    """
    folder = choose_cache(*folders)
    os.environ[_VARIABLE] = str(folder)
    if is_warm(shipped) and not is_warm(folder):
        for path in sorted((p for p in shipped.rglob("*") if p.is_file()), key=lambda p: p.name == _mark()):
            _copy(path, folder / path.relative_to(shipped))
    return folder


def is_warm(folder: Path) -> bool:
    """Whether everything was compiled into this folder, from these sources and for this processor."""
    return (folder / _mark()).is_file()


def warm(folder: Path, tell: Callable[[str, float], None] = lambda _what, _done: None) -> Warmed:
    """Compile all kernels into ``folder``, which `use_cache` gave: every recipe and every method reconstructs once.

    Parameters
    ----------
    tell
        Told which method runs, and how much is done, 0 to 1.
    """
    from phantoms.anatomy import head  # noqa: PLC0415  brings numba along
    from phantoms.protocol import Protocol  # noqa: PLC0415
    from phantoms.simulate import simulate  # noqa: PLC0415
    from recon.pipeline import reconstruct  # noqa: PLC0415

    start_s, before = time.monotonic(), set(compiled(folder))
    tiny = Protocol((32, 40, 16), (6.0, 6.0, 10.0), te_s=(0.006, 0.014, 0.022), tr_s=0.05, flip_deg=20.0)
    phantom = simulate(head(1), tiny, 1)
    scan = phantom.acquisition
    one_echo = replace(scan, magnitude=scan.magnitude[:1], phase=scan.phase[:1], te_s=scan.te_s[:1])
    recipes = list(every_method())
    for index, recipe in enumerate(recipes):
        tell(recipe.name, index / len(recipes))
        reconstruct(scan, recipe, phantom.brain)
    reconstruct(one_echo, mask=phantom.brain)
    reconstruct(scan)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _mark()).touch()
    new = sorted(path.name.split("-")[0].split(".")[-1] for path in set(compiled(folder)) - before)
    return Warmed(tuple(new), time.monotonic() - start_s)


def every_method() -> Iterator[Recipe]:
    """The recipes by name, then the default with each method of each stage that none of them has."""
    from recon.recipe import RECIPES, Recipe, stages  # noqa: PLC0415  brings numba along

    yield from RECIPES.values()
    used = {(f.name, type(getattr(recipe, f.name))) for recipe in RECIPES.values() for f in fields(recipe)}
    for stage, methods in stages().items():
        for name, method in methods.items():
            if (stage, method) not in used:
                yield replace(Recipe(), name=f"{stage} {name}", **{stage: method()})


def compiled(folder: Path) -> list[Path]:
    """The files of compiled functions, one for every signature."""
    return sorted(folder.rglob("*.nbc"))


def package_folders(package: str) -> list[Path]:
    """Where the sources of a package lie; asked without importing it."""
    spec = find_spec(package)
    return [Path(place) for place in spec.submodule_search_locations or []] if spec else []


def _mark() -> str:
    """Name of the file that says that everything is compiled: a digest of what numba's own keys rest on."""
    digest = hashlib.sha256(f"{platform.python_version()} {version('numba')} {version('llvmlite')}".encode())
    for root in package_folders("recon"):
        digest.update(str(root.resolve()).encode())
        for path in sorted(root.rglob("*.py")):
            digest.update(path.read_bytes())
    digest.update(_processor().encode())
    return f"warm-{digest.hexdigest()[:16]}"


def _processor() -> str:
    """Model and features of the processor, or what numba was told to compile for."""
    told = [os.environ.get(f"NUMBA_CPU_{name}", "") for name in ("NAME", "FEATURES")]
    lines: list[str] = []
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    kinds = {line for line in lines if line.startswith(("model name", "flags", "CPU part", "Features"))}
    return "\n".join((platform.machine(), *told, *sorted(kinds)))


def _can_be_written(folder: Path) -> bool:
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    return os.access(folder, os.W_OK)


def _copy(path: Path, target: Path) -> None:
    """Copy a file so that a reader sees it whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.{os.getpid()}")
    part.write_bytes(path.read_bytes())
    part.replace(target)
