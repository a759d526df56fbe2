"""The command `qsm-node`: reads arguments, calls, prints. Heavy imports wait until a command needs them."""

# ruff: noqa: PLC0415

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from node.jobs_cli import jobs_app
from node.terminal import (
    DONE,
    EXIT_CODES,
    FAILED,
    UNFINISHED,
    WRONG_USE,
    AsJson,
    ConfigFile,
    console,
    settings_of,
    stop,
    told,
)
from phantoms.vendor import Vendor

if TYPE_CHECKING:
    from recon.recipe import Recipe

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="DICOM node that reconstructs QSM and GRE phase from multi-echo gradient-echo MRI. "
    "Research software, not a medical device.",
    epilog=EXIT_CODES,
)
app.add_typer(jobs_app, name="jobs")

Output = Annotated[Path, typer.Option("--output", "-o", help="Folder to write to; made if absent.")]


class Format(StrEnum):
    """How the phantom is written."""

    DICOM = "dicom"
    BIDS = "bids"


class Size(StrEnum):
    """Which grid the phantom is scanned on."""

    SMALL = "small"
    REFERENCE = "reference"


class Depth(StrEnum):
    """How much a validation run does."""

    QUICK = "quick"
    FULL = "full"


@app.command()
def serve(config: ConfigFile = None) -> None:
    """Run the node until SIGTERM or Ctrl-C."""
    from node.heap import give_large_back
    from node.log import configure
    from node.service import Node

    os.umask(0o077)
    give_large_back()
    settings = settings_of(config)
    configure()
    ended, tell = os.pipe()
    os.set_blocking(tell, False)
    signal.set_wakeup_fd(tell)  # the kernel may interrupt any thread; a handler in Python waits for this one
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    with told(), Node(settings):
        os.read(ended, 1)


@app.command()
def health(config: ConfigFile = None) -> None:
    """C-ECHO the node on this machine: exit code 0 if it answers, 1 if not."""
    from node.service import check

    problem = check(settings_of(config))
    if problem:
        stop(problem)
    print("ok")


@app.command()
def reconstruct(
    source: Annotated[Path, typer.Argument(metavar="IN", exists=True, file_okay=False, help="DICOM or BIDS folder.")],
    output: Output,
    mask: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Brain mask, NIfTI or DICOM SEG.")
    ] = None,
    recipe: Annotated[str, typer.Option(help="default, fast, medi, or a TOML file.")] = "default",
    segmentation: Annotated[bool, typer.Option("--segmentation", help="Write the mask as DICOM SEG too.")] = False,
    parametric_map: Annotated[bool, typer.Option("--parametric-map", help="Write QSM as float map too.")] = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Reconstruct every acquisition in a folder, without network: DICOM to DICOM, BIDS to BIDS derivatives."""
    from dataclasses import asdict
    from datetime import datetime

    with told():
        cache = _kernel_cache(config)

    from node.derive import DeriveOptions
    from node.offline import exit_code, reconstruct_folder
    from node.tables import print_report
    from node.warm import is_warm

    options = DeriveOptions(segmentation=segmentation, parametric_map=parametric_map)
    derived_at = datetime.now().astimezone().replace(microsecond=0)
    outcomes = []
    chosen, site = _recipe(recipe), settings_of(config).site
    if not is_warm(cache):
        _compile(cache)
    with told(), _progress(quiet=as_json) as progress:
        for outcome in reconstruct_folder(source, output, derived_at, chosen, mask, options, progress, site):
            outcomes.append(outcome)
            if not as_json:
                print(outcome)
                if outcome.report:
                    print_report(console(), outcome.report, indent=2)
    if as_json:
        print(json.dumps([asdict(outcome) for outcome in outcomes], default=str))
    elif not outcomes:
        print(f"no DICOM or BIDS multi-echo gradient-echo images in {source}", file=sys.stderr)
    raise typer.Exit(exit_code(outcomes))


@app.command()
def recipe(
    name: Annotated[str, typer.Argument(metavar="NAME", help="default, fast, medi, or a TOML file.")] = "default",
) -> None:
    """Print a recipe as TOML: every stage with its method and parameters, to be edited and used as a file."""
    with told():
        _kernel_cache()

    from node.recipes import as_toml

    print(as_toml(_recipe(name)), end="")


@app.command()
def phantom(
    output: Output,
    seed: Annotated[int, typer.Option(min=0, help="Draws anatomy, lesions and noise.")] = 1,
    form: Annotated[
        Format, typer.Option("--format", help="Scanner-like DICOM, or BIDS with the truth.")
    ] = Format.DICOM,
    size: Annotated[Size, typer.Option(help="128x128x72 or 416x320x72 voxels.")] = Size.SMALL,
    protocol: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="TOML: how to scan, where it differs from --size."),
    ] = None,
    vendor: Annotated[
        Vendor | None, typer.Option(help="Whose DICOM: series, scaling, sign and tags.", show_default="siemens")
    ] = None,
) -> None:
    """Write a numerical head phantom with hemorrhages and calcifications whose susceptibility is known."""
    if vendor and form is Format.BIDS:
        stop("--vendor chooses among kinds of DICOM: it does not go with --format bids", WRONG_USE)
    with told():
        _kernel_cache()

    from node.protocols import protocol_from
    from phantoms.anatomy import head
    from phantoms.bids import write_bids
    from phantoms.protocol import REFERENCE_PROTOCOL, SMALL_PROTOCOL
    from phantoms.scanner import write_dicom
    from phantoms.simulate import simulate

    scan = REFERENCE_PROTOCOL if size is Size.REFERENCE else SMALL_PROTOCOL
    with told():
        made = simulate(head(seed), protocol_from(protocol, scan) if protocol else scan, seed)
    if form is Format.BIDS:
        write_bids(made, output)
    else:
        write_dicom(made, output, vendor or Vendor.SIEMENS)
    print(f"phantom {seed} with {len(made.lesions)} lesions in {output}")


@app.command()
def demo(output: Output = Path("demo-out")) -> None:
    """A phantom patient goes from a scanner through the node into a PACS; pictures and a table of the lesions."""
    with told():
        _kernel_cache()

    from node.demo import run

    with told():
        right = run(output)
    raise typer.Exit(DONE if right else FAILED)


@app.command()
def validate(
    output: Output = Path("validation"),
    level: Annotated[Depth, typer.Option(help="4 patients in 2 minutes, or all 38 in 5 to 20.")] = Depth.QUICK,
    through_dicom: Annotated[
        bool, typer.Option("--through-dicom", help="Every patient goes through C-STORE, a node and back.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Prove on this machine that QSM tells hemorrhage from calcification: virtual patients, a report, promises.

    Exit code 1 when a promise is broken, 4 when it could not be done. A run that was cut off goes on where it was.
    """
    with told():
        cache = _kernel_cache()

    from concurrent.futures.process import BrokenProcessPool

    from rich.console import Console

    from node.errors import NodeError
    from node.validate.levels import LEVELS
    from node.validate.results import as_json as as_text
    from node.validate.run import validate as run
    from node.warm import is_warm
    from recon.types import ReconError

    if not is_warm(cache):
        _compile(cache)
    try:
        results = run(LEVELS[level.value], output, cache, Console(stderr=as_json), through_dicom)
    except (OSError, NodeError, ReconError, BrokenProcessPool) as error:
        stop(f"the validation could not be done: {error or type(error).__name__}", UNFINISHED)
    if as_json:
        print(as_text(results), end="")
    else:
        from node.validate.summary import print_summary

        print_summary(console(), results, output)
    raise typer.Exit(FAILED if results.broken else DONE)


@app.command()
def warmup(config: ConfigFile = None) -> None:
    """Compile everything that reconstructions need, once for this processor; the first of them does it otherwise."""
    from node.warm import compiled, is_warm

    with told():
        folder = _kernel_cache(config)
        if is_warm(folder):
            print(f"kernels are compiled already: {len(compiled(folder))} functions in {folder}")
        else:
            _compile(folder)


@app.command()
def version() -> None:
    """The version of this program."""
    from node import __version__

    print(f"qsm-node {__version__}")


def main() -> None:
    """Entry point of the command."""
    app()


def _recipe(name: str) -> Recipe:
    from node.recipes import RecipeError, recipe_named

    try:
        return recipe_named(name)
    except RecipeError as error:
        stop(str(error), WRONG_USE)


def _kernel_cache(config: Path | None = None) -> Path:
    """Choose the cache of compiled kernels for this process and those that it starts; before numba is imported."""
    from node.warm import kernel_cache, use_cache

    return use_cache(kernel_cache(settings_of(config).data_dir))


def _compile(folder: Path) -> None:
    """Compile all kernels; say so on standard error, and what came of it."""
    from collections import Counter

    from rich.progress import Progress

    from node.warm import ABOUT_S, warm

    print(f"compiling kernels (once, about {ABOUT_S} s)", file=sys.stderr, flush=True)
    with Progress(transient=True, disable=not sys.stdout.isatty()) as bars:
        task = bars.add_task("compiling kernels", total=1)
        done = warm(folder, lambda _, part: bars.update(task, completed=part))
    names = [f"{name} ({count})" if count > 1 else name for name, count in sorted(Counter(done.functions).items())]
    told = f"compiled {len(names)} kernels in {done.seconds:.0f} s into {folder}" + (": " if names else "")
    told += ", ".join(names)
    print(told, file=sys.stderr, flush=True)


@contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[str, str, float], None]]:
    """The stage and its bar on a terminal; elsewhere nothing."""
    from rich.progress import Progress

    with Progress(transient=True, disable=quiet or not sys.stdout.isatty()) as bars:
        task = bars.add_task("reading")

        def show(acquisition: str, stage: str, done: float) -> None:
            bars.update(task, completed=100 * done, description=f"{acquisition}: {stage}")

        yield show
