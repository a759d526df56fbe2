"""The whole way in one run: a phantom patient leaves a scanner, the node reconstructs, a PACS receives.

Scanner, node and PACS are real DICOM peers on free loopback ports. What is shown and scored is read from the files
in the PACS; of the phantom only its true values, its lesions and one magnitude image are used.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from node import __version__, loopback, page, pictures
from node.roundtrip import peers, read_series, wait
from node.steps import Steps
from phantoms.anatomy import head
from phantoms.protocol import SMALL_PROTOCOL, Protocol
from phantoms.scanner import write_dicom
from phantoms.score import lesion_table
from phantoms.simulate import Phantom, simulate

SEED = 1


def run(output: Path, console: Console | None = None, protocol: Protocol = SMALL_PROTOCOL) -> bool:
    """Run the demo and leave files, pictures and a page in ``output``.

    Returns
    -------
    bool
        Whether every lesion has the right sign.

    Raises
    ------
    NothingCameBack
        When the node gives up, or nothing arrives in time.
    """
    console = console or Console()
    _clear(output)
    with Steps(console) as steps:
        with steps.step("Phantom patient"):
            phantom = simulate(head(SEED), protocol, SEED)
        with steps.step("Scanner writes images"):
            images = write_dicom(phantom, output / "scanner")
        with (
            tempfile.TemporaryDirectory(prefix="qsm-node-demo-") as data,
            peers(output / "pacs", Path(data)) as (node, pacs),
        ):
            with steps.step("Scanner sends to node", len(images)) as advance:
                loopback.send(images, node.port, node.settings.ae_title, sent=advance)
            sent_at = time.monotonic()
            with steps.step("Node reconstructs"):
                wait(node, lambda summary: summary.deliveries > 0)
            with steps.step("Node sends to PACS", 2 * protocol.shape[2]) as advance:
                wait(node, lambda summary: summary.state == "delivered", lambda: advance(len(pacs.paths())))
            seconds = time.monotonic() - sent_at
        with steps.step("Pictures"):
            report = _report(phantom, pacs.paths(), len(images), seconds, output)
    console.print(_table(report))
    console.print(f"\n[bold]{report.right} of {len(report.lesions)}[/] lesions have the right sign.")
    console.print(f"Page      {output / 'index.html'}", highlight=False)
    console.print(f"Pictures  {output / 'slice-*.png'}", highlight=False)
    console.print(f"DICOM     {output / 'pacs'}", highlight=False)
    return report.right == len(report.lesions)


def _clear(output: Path) -> None:
    """Remove what an earlier demo left, and only that."""
    for folder in ("scanner", "pacs"):
        shutil.rmtree(output / folder, ignore_errors=True)
    for picture in output.glob("slice-*.png"):
        picture.unlink()


def _report(phantom: Phantom, arrived: Sequence[Path], sent: int, seconds: float, output: Path) -> page.Page:
    """Score what arrived, draw it, and write pictures and page."""
    acquisition, protocol = phantom.acquisition, phantom.protocol
    qsm = read_series(arrived, "QSM", acquisition.geometry)
    phase = read_series(arrived, "phase", acquisition.geometry)
    echo = int(np.abs(np.array(acquisition.te_s) - float(phase.header.EchoTime) / 1000).argmin())
    views = pictures.Views(acquisition.magnitude[echo], phase.values, qsm.values, acquisition.geometry)

    placed = [lesion for lesion in phantom.lesions if lesion.mask.any()]
    marks = [pictures.Mark(n, lesion.lesion.kind, lesion.mask) for n, lesion in enumerate(placed, start=1)]
    lesions = tuple(
        page.LesionRow(
            mark.number, score.kind, score.volume_mm3, score.true_ppb, score.measured_ppb,
            pictures.thumbnails(views, mark),
        )
        for mark, score in zip(marks, lesion_table(qsm.values / np.float32(1000), phantom), strict=True)
    )  # fmt: skip
    levels = tuple(
        page.Level(
            z + 1,
            tuple(row for row, mark in zip(lesions, marks, strict=True) if mark.mask[:, :, z].any()),
            pictures.level_png(views, z, marks),
        )
        for z in pictures.levels(marks)
    )
    agreement = pictures.agreement_png([(r.number, r.kind, r.true_ppb, r.measured_ppb) for r in lesions])
    report = page.Page(
        version=__version__,
        protocol=_in_words(protocol),
        lesions=lesions,
        levels=levels,
        slices=protocol.shape[2],
        agreement=agreement,
        series=tuple(_series_row(series.header, series.values.shape[2]) for series in (qsm, phase)),
        sent=sent,
        seconds=seconds,
        pacs_folder=str(output / "pacs"),
    )
    for level in levels:
        (output / f"slice-{level.slice:03d}.png").write_bytes(level.png)
    (output / "index.html").write_text(page.render(report), encoding="utf-8")
    return report


def _series_row(header: Dataset, images: int) -> page.SeriesRow:
    window = f"{float(header.WindowCenter):.0f} / {float(header.WindowWidth):.0f}"
    return page.SeriesRow(int(header.SeriesNumber), str(header.SeriesDescription), images, window)


def _in_words(protocol: Protocol) -> str:
    grid, voxel = "x".join(map(str, protocol.shape)), "x".join(f"{edge:.3g}" for edge in protocol.voxel_mm)
    first, last = 1000 * protocol.te_s[0], 1000 * protocol.te_s[-1]
    return (
        f"{grid} voxels of {voxel} mm, {len(protocol.te_s)} echoes from {first:.1f} to {last:.1f} ms, "
        f"{protocol.b0_t:.0f} T, white-matter SNR {protocol.snr:.0f} at the first echo"
    )


def _table(report: page.Page) -> Table:
    title = "\nMean susceptibility of each lesion, from the series in the PACS"
    table = Table(
        title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=0, pad_edge=False
    )
    for name in ("No.", "Kind", "Volume [mm3]", "True [ppb]", "Measured [ppb]", "Error", "Sign"):
        table.add_column(escape(name), justify="left" if name in {"Kind", "Sign"} else "right")
    for row in report.lesions:
        table.add_row(
            str(row.number), row.kind, f"{row.volume_mm3:.0f}", f"{row.true_ppb:+.0f}",
            f"{row.measured_ppb:+.0f}", f"{row.error_percent:.0f} %",
            "[green]right[/]" if row.sign_right else "[bold red]WRONG[/]",
        )  # fmt: skip
    return table
