"""What the commands have in common: exit codes, options, and how an end is told. Heavy imports wait."""

# ruff: noqa: PLC0415

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from node.config import Settings

DONE, FAILED, WRONG_USE, REFUSED, UNFINISHED = 0, 1, 2, 3, 4
EXIT_CODES = (
    f"Exit codes: {DONE} done; {FAILED} failed, or a promise broken; {WRONG_USE} wrong arguments or settings; "
    f"{REFUSED} nothing to reconstruct: all input was refused; {UNFINISHED} the validation could not be done."
)

ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", "-c", envvar="QSM_NODE_CONFIG", help="TOML file; QSM_NODE_* variables override it."),
]
AsJson = Annotated[bool, typer.Option("--json", help="For machines: JSON on standard output.")]


def settings_of(config: Path | None) -> Settings:
    """The settings of a file and the environment; the command ends where they cannot be used."""
    from node.config import ConfigError, load

    try:
        return load(config)
    except ConfigError as error:
        stop(str(error), WRONG_USE)


def console() -> Console:
    """Standard output; where it is no terminal, wide enough for programs that look for words in it."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 200)


@contextmanager
def told() -> Iterator[None]:
    """Errors of ours as one sentence instead of a traceback."""
    from node.errors import NodeError

    try:
        yield
    except NodeError as error:
        stop(str(error))


def stop(message: str, code: int = FAILED) -> NoReturn:
    """Say why, and end the command."""
    print(f"qsm-node: {message}", file=sys.stderr)
    raise typer.Exit(code)
