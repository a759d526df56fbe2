"""What `qsm-node jobs` prints: tables for people, plain values for machines. Decides nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from node.overview import Aside, DeliveryGroup, Fetch, Summary
from node.report import Report

_STYLES = {
    "delivered": "green",
    "committed": "green",
    "incomplete": "yellow",
    "refused": "yellow",
    "rejected": "yellow",
    "failed": "bold red",
    "undeliverable": "bold red",
    "forgotten": "yellow",
    "conflict": "bold red",
    "contradiction": "bold red",
    "met": "green",
    "not met": "yellow",
}
WIDTH = 100
"""Columns that a report fills at most."""


def print_list(console: Console, acquisitions: Sequence[Summary], asides: Sequence[Aside]) -> None:
    """Every acquisition in one line of at most 100 characters, then the reasons, then what was not taken.

    Where a terminal is narrower, sender and code take several lines, so that nothing is cut off.
    """
    if not acquisitions:
        console.print("No acquisition has been received.")
    else:
        table = _table("ID", "Received", "From", "Images", "State", "Sent", "Reason")
        for a in acquisitions:
            sent = f"{a.delivered}/{a.deliveries}" if a.deliveries else ""
            table.add_row(
                str(a.id), _time(a.received_at), _short(a.senders), str(a.images), _state(a.state), sent, a.code
            )
        console.print(table)
    for a in acquisitions:
        if a.sentence:
            _line(console, f"{a.id:>4} ", Text.assemble(_state(a.state), f": {a.sentence}"))
    if asides:
        console.print("\nObjects that were not taken:")
        for aside in asides:
            _line(
                console,
                f"{aside.count:>6} ",
                Text.assemble(_state(aside.kind), f" from {aside.sender}: {aside.reason}"),
            )


def print_one(
    console: Console,
    a: Summary,
    deliveries: Sequence[DeliveryGroup],
    report: Report | None,
    fetches: Sequence[Fetch] = (),
) -> None:
    """Everything about one acquisition."""
    lines = {
        "Acquisition": str(a.id),
        "State": f"{a.state}: {a.sentence}" if a.sentence else a.state,
        "Reason": a.code,
        "Study": a.study_uid,
        "From": ", ".join(a.senders),
        "Images": f"{a.images}, the last {_time(a.received_at)}",
        "Attempts": str(a.attempts),
        "Notice": a.notice,
    }
    for name, value in lines.items():
        if value:
            _line(console, f"{name:<12}", Text(value))
    for f in fetches:
        text = f"{f.peer} was asked, {_attempts(f.attempts)}: {f.sentence or 'no answer yet'}"
        _line(console, f"{'Fetch':<12}", Text(text))
    for d in deliveries:
        note = f" ({d.sentence})" if d.sentence else ""
        text = f"{d.series} to {d.destination}: {d.objects} {d.state}, {_attempts(d.attempts)}{note}"
        _line(console, f"{'Delivery':<12}", Text(text))

    if report:
        print_report(console, report)


def print_report(console: Console, report: Report, indent: int = 0) -> None:
    """A report in lines of at most `WIDTH` characters; 80 do where no sentence is long."""
    about = Table.grid(padding=(0, 1, 0, 0))
    about.add_column(width=12)
    about.add_column()
    about.add_row("Convention", Text(report.convention))
    about.add_row("Sign check", Text.assemble(_state(report.sign), *_said(report.sign_evidence)))
    for caution in (*report.limits, *report.warnings):
        about.add_row("Warning", Text(caution))
    judged = [finding.met for finding in report.fitness if finding.met is not None]
    about.add_row("Fitness", f"{sum(judged)} of {len(judged)} recommendations for QSM met")
    findings = Table.grid(padding=(0, 1, 0, 0))
    for finding in report.fitness:
        met = _state({True: "met", False: "not met", None: ""}[finding.met])
        findings.add_row(f"  {finding.rule}", Text(finding.measured), Text(finding.recommended), met)
    for table in (about, findings):
        console.print(Padding.indent(table, indent), width=min(console.width, WIDTH))


def _line(console: Console, label: str, text: Text) -> None:
    """One line, for programs that look for words in it; on a terminal as many as it takes, broken between words."""
    if not console.is_terminal:
        console.print(Text.assemble(label, " ", text), soft_wrap=True)
        return
    line = Table.grid(padding=(0, 1, 0, 0))
    line.add_column(no_wrap=True)
    line.add_column(overflow="fold")
    line.add_row(Text(label), text)
    console.print(line, width=min(console.width, WIDTH))


def _attempts(count: int) -> str:
    return f"{count} attempt{'' if count == 1 else 's'}"


def _said(sentence: str) -> list[str]:
    return [f": {sentence}"] if sentence else []


def as_values(acquisitions: Sequence[Summary], asides: Sequence[Aside]) -> dict[str, Any]:
    """The same for machines."""
    return {"acquisitions": [asdict(a) for a in acquisitions], "not_taken": [asdict(a) for a in asides]}


def one_as_values(
    a: Summary, deliveries: Sequence[DeliveryGroup], report: Report | None, fetches: Sequence[Fetch] = ()
) -> dict[str, Any]:
    """The same as `print_one` for machines."""
    return {
        "acquisition": asdict(a),
        "fetches": [asdict(f) for f in fetches],
        "deliveries": [asdict(d) for d in deliveries],
        "report": asdict(report) if report else None,
    }


def _table(*names: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in names:
        folds = name in {"From", "Reason"}
        right = name in {"ID", "Images", "Sent"}
        table.add_column(name, no_wrap=not folds, overflow="fold", justify="right" if right else "left")
    return table


def _state(name: str) -> Text:
    return Text(name, _STYLES.get(name, ""))


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M")


def _short(senders: Sequence[str]) -> str:
    return senders[0] if len(senders) == 1 else f"{senders[0][:13]} +{len(senders) - 1}"
