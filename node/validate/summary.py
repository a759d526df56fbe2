"""What a validation run tells on the terminal: each promise, and the numbers beside the paper's."""

from __future__ import annotations

from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from node.validate.promises import COMPARISONS, PromiseRow
from node.validate.results import Results


def print_summary(console: Console, results: Results, output: Path) -> None:
    """The promises with what was measured, the broken ones by name, and where the report lies."""
    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    for name in ("Promise", "Measured", "Limit", ""):
        table.add_column(name, justify="left" if name in {"Promise", ""} else "right")
    for row in results.promises:
        verdict = "[green]held[/]" if row.held else "[bold red]BROKEN[/]"
        table.add_row(
            row.id, _value(row, row.measured), f"{COMPARISONS[row.compare]} {_value(row, row.limit)}", verdict
        )
    console.print(table)
    held = len(results.promises) - len(results.broken)
    console.print(f"[bold]{held} of {len(results.promises)}[/] promises are held.")
    for row in results.broken:
        console.print(f"[bold red]Broken[/] {row.id}: {row.sentence}")
    console.print(f"Report   {output / 'index.html'}", highlight=False)
    console.print(f"Numbers  {output / 'results.json'}", highlight=False)


def _value(row: PromiseRow, value: float) -> str:
    return f"{value:.3f}" if row.unit == "" else f"{100 * value:.1f} {row.unit}"
