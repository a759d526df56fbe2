"""The command `qsm-node`: reads arguments, calls, prints. Heavy imports wait until a command needs them."""

# ruff: noqa: PLC0415

from __future__ import annotations

import json
import os
import signal
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from phantoms.vendor import Vendor

if TYPE_CHECKING:
    from rich.console import Console

    from node.config import Settings
    from node.journal import Journal
    from recon.recipe import Recipe

DONE, FAILED, WRONG_USE, REFUSED, UNFINISHED = 0, 1, 2, 3, 4
EXIT_CODES = (
    f"Exit codes: {DONE} done; {FAILED} failed, or a promise broken; {WRONG_USE} wrong arguments or settings; "
    f"{REFUSED} nothing to reconstruct: all input was refused; {UNFINISHED} the validation could not be done."
)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="DICOM node that reconstructs QSM and GRE phase from multi-echo gradient-echo MRI. "
    "Research software, not a medical device.",
    epilog=EXIT_CODES,
)
jobs_app = typer.Typer(help="What became of the acquisitions that the node received.", epilog=EXIT_CODES)
app.add_typer(jobs_app, name="jobs")

ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", "-c", envvar="QSM_NODE_CONFIG", help="TOML file; QSM_NODE_* variables override it."),
]
SameConfigFile = Annotated[Path | None, typer.Option("--config", "-c", help="The same, in this place.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder to write to; made if absent.")]
AsJson = Annotated[bool, typer.Option("--json", help="For machines: JSON on standard output.")]


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
    from node.log import configure
    from node.service import Node

    os.umask(0o077)
    settings = _settings(config)
    configure()
    ended, tell = os.pipe()
    os.set_blocking(tell, False)
    signal.set_wakeup_fd(tell)  # the kernel may interrupt any thread; a handler in Python waits for this one
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    with _told(), Node(settings):
        os.read(ended, 1)


@app.command()
def health(config: ConfigFile = None) -> None:
    """C-ECHO the node on this machine: exit code 0 if it answers, 1 if not."""
    from node.service import check

    problem = check(_settings(config))
    if problem:
        _stop(problem)
    print("ok")


@jobs_app.callback(invoke_without_command=True)
def jobs(context: typer.Context, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """List every acquisition, the reasons of those that stopped, and what was not taken."""
    context.obj = config
    if context.invoked_subcommand is None:
        _list(config, as_json)


@jobs_app.command("list")
def jobs_list(context: typer.Context, config: SameConfigFile = None, as_json: AsJson = False) -> None:
    """List every acquisition, the reasons of those that stopped, and what was not taken."""
    _list(config or context.obj, as_json)


@jobs_app.command("show")
def jobs_show(
    context: typer.Context,
    acquisition: Annotated[int, typer.Argument(metavar="ID")],
    config: SameConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Everything about one acquisition, with the report on its reconstruction."""
    from node.overview import deliveries, fetches, report, summaries
    from node.tables import one_as_values, print_one

    with _journal(config or context.obj) as journal:
        found = summaries(journal, acquisition)
        if not found:
            _stop(f"there is no acquisition {acquisition}, or its images were deleted after their time (keep_days)")
        whole = (
            found[0], deliveries(journal, acquisition), report(journal, acquisition), fetches(journal, acquisition),
        )  # fmt: skip
    if as_json:
        print(json.dumps(one_as_values(*whole)))
    else:
        print_one(_console(), *whole)


@jobs_app.command("retry")
def jobs_retry(
    context: typer.Context, acquisition: Annotated[int, typer.Argument(metavar="ID")], config: SameConfigFile = None
) -> None:
    """Set going again what stopped: a judgement, a reconstruction or a delivery."""
    with _told(), _journal(config or context.obj) as journal:
        print(journal.orders.retry(acquisition))


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

    with _told():
        cache = _kernel_cache(config)

    from node.derive import DeriveOptions
    from node.offline import exit_code, reconstruct_folder
    from node.tables import print_report
    from node.warm import is_warm

    options = DeriveOptions(segmentation=segmentation, parametric_map=parametric_map)
    derived_at = datetime.now().astimezone().replace(microsecond=0)
    outcomes = []
    chosen, site = _recipe(recipe), _settings(config).site
    if not is_warm(cache):
        _compile(cache)
    with _told(), _progress(quiet=as_json) as progress:
        for outcome in reconstruct_folder(source, output, derived_at, chosen, mask, options, progress, site):
            outcomes.append(outcome)
            if not as_json:
                print(outcome)
                if outcome.report:
                    print_report(_console(), outcome.report, indent=2)
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
    with _told():
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
        _stop("--vendor chooses among kinds of DICOM: it does not go with --format bids", WRONG_USE)
    with _told():
        _kernel_cache()

    from node.protocols import protocol_from
    from phantoms.anatomy import head
    from phantoms.bids import write_bids
    from phantoms.protocol import REFERENCE_PROTOCOL, SMALL_PROTOCOL
    from phantoms.scanner import write_dicom
    from phantoms.simulate import simulate

    scan = REFERENCE_PROTOCOL if size is Size.REFERENCE else SMALL_PROTOCOL
    with _told():
        made = simulate(head(seed), protocol_from(protocol, scan) if protocol else scan, seed)
    if form is Format.BIDS:
        write_bids(made, output)
    else:
        write_dicom(made, output, vendor or Vendor.SIEMENS)
    print(f"phantom {seed} with {len(made.lesions)} lesions in {output}")


@app.command()
def demo(output: Output = Path("demo-out")) -> None:
    """A phantom patient goes from a scanner through the node into a PACS; pictures and a table of the lesions."""
    with _told():
        _kernel_cache()

    from node.demo import run

    with _told():
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
    with _told():
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
        _stop(f"the validation could not be done: {error or type(error).__name__}", UNFINISHED)
    if as_json:
        print(as_text(results), end="")
    else:
        from node.validate.summary import print_summary

        print_summary(_console(), results, output)
    raise typer.Exit(FAILED if results.broken else DONE)


@app.command()
def warmup(config: ConfigFile = None) -> None:
    """Compile everything that reconstructions need, once for this processor; the first of them does it otherwise."""
    from node.warm import compiled, is_warm

    with _told():
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


def _settings(config: Path | None) -> Settings:
    from node.config import ConfigError, load

    try:
        return load(config)
    except ConfigError as error:
        _stop(str(error), WRONG_USE)


def _recipe(name: str) -> Recipe:
    from node.recipes import RecipeError, recipe_named

    try:
        return recipe_named(name)
    except RecipeError as error:
        _stop(str(error), WRONG_USE)


def _list(config: Path | None, as_json: bool) -> None:
    from node.overview import asides, summaries
    from node.tables import as_values, print_list

    with _journal(config) as journal:
        found, not_taken = summaries(journal), asides(journal)
    if as_json:
        print(json.dumps(as_values(found, not_taken)))
    else:
        print_list(_console(), found, not_taken)


def _kernel_cache(config: Path | None = None) -> Path:
    """Choose the cache of compiled kernels for this process and those that it starts; before numba is imported."""
    from node.warm import kernel_cache, use_cache

    return use_cache(kernel_cache(_settings(config).data_dir))


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
def _journal(config: Path | None) -> Iterator[Journal]:
    from node.journal import Journal
    from node.service import JOURNAL

    path = _settings(config).data_dir / JOURNAL
    with _told():
        try:
            if not path.is_file():
                _stop(f"there is no journal in {path.parent}: no node has run with this data_dir", WRONG_USE)
            journal = Journal(path)
        except (OSError, sqlite3.OperationalError) as error:
            _stop(f"{path}: {getattr(error, 'strerror', None) or error}")
        try:
            yield journal
        finally:
            journal.close()


def _console() -> Console:
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 200)


@contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[str, str, float], None]]:
    """The stage and its bar on a terminal; elsewhere nothing."""
    from rich.progress import Progress

    with Progress(transient=True, disable=quiet or not sys.stdout.isatty()) as bars:
        task = bars.add_task("reading")

        def show(acquisition: str, stage: str, done: float) -> None:
            bars.update(task, completed=100 * done, description=f"{acquisition}: {stage}")

        yield show


@contextmanager
def _told() -> Iterator[None]:
    """Errors of ours as one sentence instead of a traceback."""
    from node.errors import NodeError

    try:
        yield
    except NodeError as error:
        _stop(str(error))


def _stop(message: str, code: int = FAILED) -> NoReturn:
    print(f"qsm-node: {message}", file=sys.stderr)
    raise typer.Exit(code)
