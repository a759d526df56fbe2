"""The page "QSM not produced" as Secondary Capture: text in, one DICOM image out.

The text in the pixels holds no patient data; the header takes patient and study from an image of the study. The
font comes with matplotlib, so that the pixels do not depend on what a machine has installed; it shows a box for a
letter that it lacks. Knows not when a page is due.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from node import __version__
from node.derive import Derived, encoded
from node.files import make_folder, read_dataset, sync_folder, write_whole
from node.identity import PRODUCT, derived_uid
from node.inherit import inherited_study
from node.provenance import NOT_FOR_DIAGNOSIS, contributions, derived_series_number, in_zone, stamp_equipment
from node.records import Notice, Reason

SIZE = 1024
_MARGIN, _GAP, _INDENT = 64, 28, 176
_BACKGROUND, _LINE, _FAINT, _TEXT, _WHITE = 16, 70, 160, 215, 255
_OFFSET = 5
"""Of the series number; 1 to 4 are the derived series."""
_MOST_LINES = 5
"""A longer text is cut, so that one reason always has room; ImageComments has it whole."""
_LONG_TEXT = 10240
"""Longest value of VR LT, PS3.5 table 6.2-1."""


def write_notice(notice: Notice, source: Path, folder: Path, derived_at: datetime, sha256: str = "") -> Derived:
    """Write the page of a study into ``folder`` (made if absent) as ``notice-0001.dcm``.

    ``source`` is an image of the study. The UIDs are a function of study, text and version; equal arguments give
    equal bytes.

    Raises
    ------
    NotReproduced
        The file has another digest than it was said to have.
    """
    ds = _object(notice, read_dataset(source), derived_at)
    make_folder(folder)
    path = folder / "notice-0001.dcm"
    digest = write_whole(path, encoded(ds), sha256)
    sync_folder(folder)
    return Derived(path, ds.SOPClassUID, ds.SOPInstanceUID, "notice", digest)


def _object(notice: Notice, source: Dataset, derived_at: datetime) -> Dataset:
    """PS3.3 A.8.1. The modality is OT: no scanner made what the page shows."""
    ds = inherited_study(source)
    words = [line for reason in notice.reasons for line in _words(reason)]
    identity = (str(source.StudyInstanceUID), __version__, notice.node, *words)
    ds.SOPClassUID = SecondaryCaptureImageStorage
    ds.SOPInstanceUID = derived_uid(*identity, "notice", "0")
    ds.SeriesInstanceUID = derived_uid(*identity, "notice")
    ds.Modality = "OT"
    ds.ConversionType = "WSD"
    ds.SeriesNumber = derived_series_number(source, _OFFSET)
    ds.SeriesDescription = "QSM not produced"
    ds.InstanceNumber = 1
    ds.ImageType = ["DERIVED", "SECONDARY"]
    ds.PatientOrientation = None
    codes = {reason.refusal.code for reason in notice.reasons}
    contributed = contributions([f"QSM not produced: {', '.join(sorted(codes))}"], derived_at)
    stamp_equipment(ds, source, derived_at, contributed)
    comment = " ".join([NOT_FOR_DIAGNOSIS, "QSM not produced.", *words])
    ds.ImageComments = comment.encode("ascii", "replace").decode()[:_LONG_TEXT]
    ds.BurnedInAnnotation = "NO"
    ds.LossyImageCompression = "00"
    ds.WindowCenter, ds.WindowWidth = "128", "256"
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows, ds.Columns = SIZE, SIZE
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    zone = str(source.get("TimezoneOffsetFromUTC", ""))
    ds.PixelData = draw(notice, in_zone(derived_at, zone)).tobytes()
    return ds


def _words(reason: Reason) -> tuple[str, str, str]:
    """Which scan, why, what to do; as sentences."""
    scan, why = reason.scan, reason.refusal.sentence
    return _capital(scan), f"{_capital(why)} ({reason.refusal.code}).", reason.advice


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


@dataclass(frozen=True, slots=True)
class _Style:
    font: ImageFont.FreeTypeFont
    grey: int
    leading: int
    """From line to line, in pixels."""


@dataclass(frozen=True, slots=True)
class _Lines:
    """A text as it is written: lines of one style, with a label before the first."""

    lines: tuple[str, ...]
    style: _Style
    label: str

    @property
    def height(self) -> int:
        return len(self.lines) * self.style.leading


def draw(notice: Notice, moment: datetime) -> npt.NDArray[np.uint8]:
    """The page, uint8 (1024, 1024): light on dark, legible at half the size."""
    title, strong = _style("DejaVuSans-Bold", 54, _WHITE), _style("DejaVuSans-Bold", 28, _WHITE)
    plain, faint = _style("DejaVuSans", 26, _TEXT), _style("DejaVuSans", 22, _FAINT)
    image = Image.new("L", (SIZE, SIZE), _BACKGROUND)
    pen = ImageDraw.Draw(image)
    foot = [
        _lines(f"As of {moment.isoformat(' ', 'minutes')}. A map may still follow later images.", faint),
        _lines(f"{PRODUCT} {__version__}, node {notice.node}", faint),
        _lines(NOT_FOR_DIAGNOSIS, faint),
    ]
    bottom = SIZE - _MARGIN - sum(part.height for part in foot)
    head = [
        _lines("QSM not produced", title),
        _lines("Scans that look meant for QSM, and why they gave no map:", plain),
    ]
    y = _write(pen, _MARGIN - 12, head) + _GAP
    for done, reason in enumerate(notice.reasons):
        scan, why, advice = _words(reason)
        block = [_lines(scan, strong), _lines(why, plain, "Reason"), _lines(advice, plain, "What to do")]
        left = len(notice.reasons) - done
        needed = sum(part.height for part in block) + (left > 1) * (_GAP + faint.leading)
        if done and y + needed > bottom - _GAP:
            _write(pen, y, [_lines(f"And {left} more: see qsm-node jobs.", faint)])
            break
        _rule(pen, y)
        y = _write(pen, y, block) + _GAP
    _rule(pen, bottom)
    _write(pen, bottom, foot)
    return np.asarray(image)


def _style(name: str, size: int, grey: int) -> _Style:
    path = Path(mpl.get_data_path(), "fonts", "ttf", f"{name}.ttf")
    return _Style(ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC), grey, round(1.34 * size))


def _lines(text: str, style: _Style, label: str = "") -> _Lines:
    width = SIZE - 2 * _MARGIN - bool(label) * _INDENT
    return _Lines(tuple(islice(_wrapped(text, style.font, width), _MOST_LINES)), style, label)


def _write(pen: ImageDraw.ImageDraw, y: int, parts: Sequence[_Lines]) -> int:
    """The parts from ``y`` on, one below the other; where the next one begins."""
    for part in parts:
        x = _MARGIN + bool(part.label) * _INDENT
        pen.text((_MARGIN, y), part.label, fill=_FAINT, font=part.style.font)
        for line in part.lines:
            pen.text((x, y), line, fill=part.style.grey, font=part.style.font)
            y += part.style.leading
    return y


def _rule(pen: ImageDraw.ImageDraw, y: int) -> None:
    pen.line([(_MARGIN, y - _GAP // 2), (SIZE - _MARGIN, y - _GAP // 2)], fill=_LINE)


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> Iterator[str]:
    """Lines that are not wider, broken at spaces, or inside a word that is wider than a line."""
    line = ""
    for word in text.split():
        if line and font.getlength(f"{line} {word}") > width:
            yield line
            line = ""
        line = f"{line} {word}".lstrip()
        while font.getlength(line) > width:
            fits = next(n for n in range(len(line) - 1, 0, -1) if font.getlength(line[:n]) <= width)
            yield line[:fits]
            line = line[fits:]
    yield line
