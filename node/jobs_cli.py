"""The command `qsm-node jobs`: what became of the acquisitions, and what to do with them."""

# ruff: noqa: PLC0415

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from node.terminal import EXIT_CODES, WRONG_USE, AsJson, ConfigFile, console, settings_of, stop, told

if TYPE_CHECKING:
    from node.journal import Journal

jobs_app = typer.Typer(help="What became of the acquisitions that the node received.", epilog=EXIT_CODES)

SameConfigFile = Annotated[Path | None, typer.Option("--config", "-c", help="The same, in this place.")]
Number = Annotated[int, typer.Argument(metavar="ID")]


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
    acquisition: Number,
    config: SameConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Everything about one acquisition, with the report on its reconstruction."""
    from node.overview import deliveries, fetches, report, summaries
    from node.tables import one_as_values, print_one

    with _journal(config or context.obj) as journal:
        found = summaries(journal, acquisition)
        if not found:
            stop(f"there is no acquisition {acquisition}, or its images were deleted after their time (keep_days)")
        whole = (
            found[0], deliveries(journal, acquisition), report(journal, acquisition), fetches(journal, acquisition),
        )  # fmt: skip
    if as_json:
        print(json.dumps(one_as_values(*whole)))
    else:
        print_one(console(), *whole)


@jobs_app.command("retry")
def jobs_retry(context: typer.Context, acquisition: Number, config: SameConfigFile = None) -> None:
    """Set going again what stopped: a judgement, a reconstruction or a delivery; make again what is damaged."""
    from node.orders import spoilt

    with told(), _journal(config or context.obj) as journal:
        folder = settings_of(config or context.obj).data_dir
        print(journal.orders.retry(acquisition, spoilt(journal.orders.unsent(acquisition), folder)))


@jobs_app.command("forget")
def jobs_forget(context: typer.Context, acquisition: Number, config: SameConfigFile = None) -> None:
    """What was not delivered of an acquisition need not be: it may be deleted after its time."""
    with told(), _journal(config or context.obj) as journal:
        print(journal.orders.forget(acquisition))


def _list(config: Path | None, as_json: bool) -> None:
    from node.overview import asides, summaries
    from node.tables import as_values, print_list

    with _journal(config) as journal:
        found, not_taken = summaries(journal), asides(journal)
    if as_json:
        print(json.dumps(as_values(found, not_taken)))
    else:
        print_list(console(), found, not_taken)


@contextmanager
def _journal(config: Path | None) -> Iterator[Journal]:
    from node.journal import Journal
    from node.service import JOURNAL

    path = settings_of(config).data_dir / JOURNAL
    with told():
        try:
            if not path.is_file():
                stop(f"there is no journal in {path.parent}: no node has run with this data_dir", WRONG_USE)
            journal = Journal(path)
        except (OSError, sqlite3.OperationalError) as error:
            stop(f"{path}: {getattr(error, 'strerror', None) or error}")
        try:
            yield journal
        finally:
            journal.close()
