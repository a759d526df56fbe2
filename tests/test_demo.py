"""The demo: its peers over real associations, its pictures, and the whole way with a right and a wrong scanner."""

from __future__ import annotations

import io
import re
import socket
from dataclasses import replace
from pathlib import Path

import matplotlib.image
import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from rich.console import Console

from node import demo, loopback, page, pictures, roundtrip
from node.errors import TransientError
from phantoms.anatomy import head
from phantoms.protocol import SMALL_PROTOCOL
from phantoms.scanner import Vendor, write_dicom
from phantoms.simulate import simulate
from recon.types import FloatArray, Geometry

COARSE = replace(SMALL_PROTOCOL, shape=(72, 72, 52), voxel_mm=(2.8, 2.8, 2.8), te_s=SMALL_PROTOCOL.te_s[:4:2])
TINY = replace(SMALL_PROTOCOL, shape=(16, 16, 8), voxel_mm=(13.0, 13.0, 20.0), te_s=(0.005, 0.01))


@pytest.fixture(scope="module")
def scanned(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A few scanner images."""
    return write_dicom(simulate(head(1), TINY, 1), tmp_path_factory.mktemp("scanner"))


# ---------------------------------------------------------------------------------------------------- peers


@pytest.mark.parametrize("vendor", Vendor)
def test_pacs_stores_every_image_as_it_was_sent(tmp_path: Path, vendor: Vendor) -> None:
    scanned = write_dicom(simulate(head(1), TINY, 1), tmp_path / "scanner", vendor)
    heard: list[int] = []
    with loopback.Pacs(tmp_path / "pacs") as pacs:
        loopback.send(scanned, pacs.port, "PACS", sent=heard.append)
        stored = pacs.paths()
    assert heard == list(range(1, len(scanned) + 1))
    sent = {ds.SOPInstanceUID: ds.PixelData for ds in map(pydicom.dcmread, scanned)}
    assert {ds.SOPInstanceUID: ds.PixelData for ds in map(pydicom.dcmread, stored)} == sent


def test_pacs_is_gone_after_its_block(tmp_path: Path) -> None:
    with loopback.Pacs(tmp_path / "pacs") as pacs:
        socket.create_connection((loopback.LOOPBACK, pacs.port), timeout=5).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((loopback.LOOPBACK, pacs.port), timeout=5)


def test_scanner_says_which_image_was_refused(scanned: list[Path], tmp_path: Path) -> None:
    broken = pydicom.dcmread(scanned[1])
    del broken.SeriesNumber
    broken.save_as(tmp_path / "broken.dcm")
    with (
        loopback.Pacs(tmp_path / "pacs") as pacs,
        pytest.raises(TransientError, match="PACS answered 0xC000 to image 2 of 3"),
    ):
        loopback.send([scanned[0], tmp_path / "broken.dcm", scanned[2]], pacs.port, "PACS")


# ------------------------------------------------------------------------------------------------- pictures


def _views(shape: tuple[int, int, int] = (40, 48, 12)) -> pictures.Views:
    geometry = Geometry.of(shape, (2.0, 2.0, 2.0))
    magnitude = np.zeros(shape, dtype=np.float32)
    magnitude[6:-6, 6:-6] = 100
    zeros = np.zeros(shape, dtype=np.float32)
    return pictures.Views(magnitude, zeros, zeros.copy(), geometry)


def _mark(views: pictures.Views, number: int, kind: str, slices: slice) -> pictures.Mark:
    mask = np.zeros(views.geometry.shape, dtype=np.bool_)
    mask[18:22, 22:26, slices] = True
    return pictures.Mark(number, kind, mask)


def _pixels(png: bytes) -> npt.NDArray[np.float32]:
    return np.asarray(matplotlib.image.imread(io.BytesIO(png)))[..., :3]


@pytest.mark.parametrize(("ppb", "grey"), [(-400, 0.0), (-200, 0.0), (-100, 0.25), (0, 0.5), (100, 0.75), (900, 1)])
def test_a_grey_level_means_the_same_ppb_on_every_picture(ppb: float, grey: float) -> None:
    views = _views()
    qsm: FloatArray = np.full(views.geometry.shape, ppb, dtype=np.float32)
    views = replace(views, qsm_ppb=qsm)
    for png in (
        pictures.thumbnails(views, _mark(views, 1, "hemorrhage", slice(4, 8)))[2],
        pictures.level_png(views, 5, []),
    ):
        pixels = _pixels(png)
        rows, columns, _ = pixels.shape
        # The middle of the right third is the middle of the QSM panel; of a thumbnail it is anywhere in it.
        sample = pixels[rows * 2 // 5, columns * 5 // 6 + columns // 40]
        assert sample == pytest.approx(grey, abs=0.01)


def test_axial_pictures_have_the_right_side_on_the_left() -> None:
    views = _views()
    views.qsm_ppb[:20] = 200  # low x: the patient's right
    png = pictures.thumbnails(views, _mark(views, 1, "hemorrhage", slice(4, 8)))[2]
    pixels = _pixels(png)
    assert pixels[:, : pixels.shape[1] // 3].mean() > 0.95
    assert pixels[:, -pixels.shape[1] // 3 :].mean() < 0.55


def test_levels_show_every_lesion_at_half_its_width_or_more() -> None:
    views = _views()
    marks = [
        _mark(views, 1, "hemorrhage", slice(2, 5)),
        _mark(views, 2, "calcification", slice(4, 7)),
        _mark(views, 3, "hemorrhage", slice(9, 11)),
    ]
    levels = pictures.levels(marks)
    assert len(levels) == 2
    assert 4 in levels
    assert all(any(mark.mask[:, :, z].any() for z in levels) for mark in marks)


def test_sign_is_right_only_for_the_right_sign() -> None:
    empty = (b"", b"", b"")
    assert page.LesionRow(1, "calcification", 60, -500, -1, empty).sign_right
    assert not page.LesionRow(1, "calcification", 60, -500, 1, empty).sign_right
    assert not page.LesionRow(1, "hemorrhage", 60, 500, 0, empty).sign_right


# ------------------------------------------------------------------------------------------------ whole way


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scanner closes its association, so a second of quiet is enough."""
    monkeypatch.setattr(roundtrip, "QUIET_S", 1.0)


@pytest.mark.usefixtures("hurried")
def test_demo_shows_every_lesion_with_its_sign(tmp_path: Path) -> None:
    out = io.StringIO()
    assert demo.run(tmp_path, Console(file=out, width=120), COARSE)
    said = out.getvalue()
    assert re.search(r"\b(\d+) of \1 lesions have the right sign", said)
    assert str(tmp_path / "index.html") in said

    html = (tmp_path / "index.html").read_text("utf-8")
    assert re.findall(r'(?:src|href)="(?!data:image/png;base64,)', html) == []
    assert html.count("calcification</td>") + html.count("hemorrhage</td>") == 8
    assert len(list(tmp_path.glob("slice-*.png"))) == html.count("<figure>") - 1
    delivered = [pydicom.dcmread(path) for path in (tmp_path / "pacs").rglob("*.dcm")]
    assert len(delivered) == 2 * COARSE.shape[2]
    assert {ds.StudyInstanceUID for ds in delivered} == {
        pydicom.dcmread(tmp_path / "scanner" / "M" / "00001.dcm").StudyInstanceUID
    }


@pytest.mark.usefixtures("hurried")
def test_inverted_phase_is_found_out_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Phase that falls with the field would make every hemorrhage a calcification: the node withholds the maps."""

    def inverted(phantom: object, folder: Path) -> list[Path]:
        paths = write_dicom(phantom, folder)
        for path in (folder / "P").glob("*.dcm"):
            ds = pydicom.dcmread(path)
            ds.PixelData = ((4096 - ds.pixel_array.astype(np.int32)) % 4096).astype(np.uint16).tobytes()
            ds.save_as(path)
        return paths

    monkeypatch.setattr(demo, "write_dicom", inverted)
    with pytest.raises(roundtrip.NothingCameBack, match="contradicts the sign that the headers imply"):
        demo.run(tmp_path, Console(file=io.StringIO(), width=120), COARSE)
