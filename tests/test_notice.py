"""The page "QSM not produced": which study gets one, when, what it says, and that it is the same every time."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage
from rich.console import Console

from associations import store
from journals import arrive, lease
from node import loopback
from node.advice import ADVICE, advice_on
from node.assemble import acquisition_key
from node.capture import SIZE, draw, write_notice
from node.config import Settings
from node.errors import Refusal
from node.headers import Header, read_header, scan_name
from node.identity import is_own
from node.jobs import run_job
from node.journal import Journal
from node.loops import Gatherer
from node.notices import FORGOTTEN_S, OTHER_PURPOSE, Notifier, meant_for_qsm
from node.overview import asides, deliveries, summaries
from node.peers import Peer
from node.records import Attempt, Done, JobSpec, Notice, Reason, Received, Result
from node.service import Node
from node.tables import print_one
from node.workers import InlineWorker

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
QUIET_S, NOTICE_S = 60.0, 900.0
NO_PHASE = Refusal("no-phase", "no phase, and no real and imaginary images: 432 magnitude images")
PAGE = Notice("QSMNODE", (Reason("series 5 (qsm_gre)", NO_PHASE, advice_on("no-phase")),))
ROOT = Path(__file__).parents[1]


def magnitudes(study: Sequence[Path]) -> list[Path]:
    return [path for path in study if pydicom.dcmread(path, stop_before_pixels=True).ImageType[2] == "M"]


def t1_like(study: Sequence[Path]) -> list[Dataset]:
    """A T1 of the same study: magnitude of one echo under another protocol."""
    images = [pydicom.dcmread(path) for path in magnitudes(study)]
    first_te = min(ds.EchoTime for ds in images)
    t1 = [ds for ds in images if ds.EchoTime == first_te]
    for ds in t1:
        ds.ProtocolName, ds.RepetitionTime, ds.SeriesNumber = "t1_mprage", "2300", 77
        ds.SeriesInstanceUID = f"{ds.SeriesInstanceUID}.77"
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"{ds.SOPInstanceUID}.77"
    return t1


def headers_of(images: Sequence[Dataset | Path]) -> list[Header]:
    return [read_header(pydicom.dcmread(i, stop_before_pixels=True) if isinstance(i, Path) else i) for i in images]


# -------------------------------------------------------------------------------------- what is meant for QSM


def kept(headers: list[Header], **frame: Any) -> list[Header]:
    """The headers with other values in every frame."""
    return [replace(h, frames=tuple(replace(f, **frame) for f in h.frames)) for h in headers]


def test_magnitude_of_several_echoes_without_phase_is(tiny_study: list[Path]) -> None:
    assert meant_for_qsm("no-phase", headers_of(magnitudes(tiny_study)))


def test_one_echo_is_not_whatever_it_was_refused_for(tiny_study: list[Path]) -> None:
    headers = headers_of(tiny_study)
    one = [h for h in headers if h.frames[0].te_s == headers[0].frames[0].te_s]
    assert {h.frames[0].component for h in one} == {"M", "P"}
    for code in ("too-few-echoes", "suspect-phase", "duplicate-images", "incomplete", "no-phase"):
        assert not meant_for_qsm(code, one)


def test_dixon_and_a_few_slices_of_t2_star_are_not(tiny_study: list[Path]) -> None:
    headers = headers_of(magnitudes(tiny_study))
    early = [kept([h], te_s=h.frames[0].te_s * 0.009 / 0.022)[0] for h in headers]
    assert not meant_for_qsm("no-phase", early)
    assert not meant_for_qsm(
        "no-phase", [h for h in headers if h.frames[0].position_mm > headers[0].frames[0].position_mm]
    )


def test_several_echoes_with_phase_are_whatever_they_were_refused_for(tiny_study: list[Path]) -> None:
    headers = headers_of(tiny_study)
    few = [h for h in headers if h.frames[0].position_mm == headers[0].frames[0].position_mm]
    assert meant_for_qsm("too-few-slices", few)
    for code in set(ADVICE) - OTHER_PURPOSE | {"a-code-of-tomorrow"}:
        assert meant_for_qsm(code, headers)
    for code in OTHER_PURPOSE:
        assert not meant_for_qsm(code, headers)


def test_nothing_real_that_has_another_purpose_is(vendor_data: Path, dicom_sets: ModuleType) -> None:
    folders = {path.relative_to(vendor_data).parts[0] for path in dicom_sets.dicom_files(vendor_data)}
    meant = set()
    for folder in sorted(folders):
        groups: dict[str, list[Header]] = {}
        for path in dicom_sets.dicom_files(vendor_data / folder):
            header = read_header(dicom_sets.header_only(path))
            groups.setdefault(acquisition_key(header), []).append(header)
        for headers in groups.values():
            refused = next((h.refusal.code for h in headers if h.refusal), "")
            without_phase = not {f.component for h in headers for f in h.frames} & {"P", "R", "I"}
            code = refused or ("no-phase" if without_phase else "phase-difference" if "phasediff" in folder else "x")
            if meant_for_qsm(code, headers):
                meant.add(folder)
    assert meant == {"ge-3d-2echo-mag-real-imag", "philips-classic-2echo-head", "siemens-megre-3echo-oneslice"}


# ---------------------------------------------------------------------------------------------- what to do


def test_the_page_and_the_documentation_give_the_same_advice() -> None:
    told: dict[str, str] = {}
    text = re.sub(r"\[([^]]+)\]\([^)]+\)", r"\1", (ROOT / "docs/refusals.md").read_text())
    for row in re.findall(r"^\| (`[^|]+) \| [^|]+ \| ([^|]+) \|$", text, re.MULTILINE):
        told |= dict.fromkeys(re.findall(r"`([a-z-]+)`", row[0]), row[1])
    assert told == ADVICE
    assert set(ADVICE) >= OTHER_PURPOSE


def test_a_code_without_advice_is_looked_up_in_the_log() -> None:
    assert advice_on("a-code-of-tomorrow") == "See the node's log."
    assert advice_on("no-mask").endswith("qsm-node reconstruct --mask FILE.")


# ------------------------------------------------------------------------------------------------- when it comes


class Study:
    """A journal, a gatherer and a notifier whose time passes when told."""

    def __init__(self, path: Path | None = None) -> None:
        self.now_s = 1_000_000.0
        self.path = path
        self.queued = 0
        self.open()

    def open(self) -> None:
        settings = Settings(quiet_s=QUIET_S, notice_after_min=NOTICE_S / 60)
        self.journal = Journal(self.path, lambda: self.now_s)
        self.gatherer = Gatherer(
            self.journal, settings, frozenset, lambda: None,
            monotonic=lambda: self.now_s, now=lambda: datetime.fromtimestamp(self.now_s, UTC),
        )  # fmt: skip

        def clock() -> float:
            return self.now_s

        self.notifier = Notifier(self.journal, settings, self._count, clock, clock)

    def _count(self) -> None:
        self.queued += 1

    def arrive(self, headers: Sequence[Header]) -> None:
        arrive(self.journal, headers)

    def after(self, seconds: float) -> None:
        """So many seconds later, with the steps that a running node takes meanwhile."""
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            self.now_s = min(end_s, self.now_s + 30.0)
            self.gatherer.step()
            self.notifier.step()

    def reconstruct(self) -> None:
        """Every queued job gives a result."""
        while job := self.journal.lease():
            assert self.journal.finish(
                job, [Result("notice" if job.notice else "qsm", "c", f"{job.id}", "p", "s")], ()
            )


SETTLED_S = QUIET_S + NOTICE_S + 60.0


@pytest.fixture
def study() -> Iterator[Study]:
    study = Study()
    yield study
    study.journal.close()


@pytest.fixture(scope="module")
def whole(tiny_study: list[Path]) -> list[Header]:
    return headers_of(tiny_study)


@pytest.fixture(scope="module")
def magnitude(tiny_study: list[Path]) -> list[Header]:
    return headers_of(magnitudes(tiny_study))


@pytest.fixture(scope="module")
def t1(tiny_study: list[Path]) -> list[Header]:
    return headers_of(t1_like(tiny_study))


def test_one_page_names_every_attempt_and_nothing_else(
    study: Study, magnitude: list[Header], whole: list[Header], t1: list[Header]
) -> None:
    other = [replace(h, protocol="qsm_again", sop_instance_uid=f"{h.sop_instance_uid}.9") for h in whole[:-1]]
    study.arrive([*t1, *magnitude, *other])
    study.after(QUIET_S + NOTICE_S - 60)
    assert study.queued == 0
    study.after(120)
    assert study.queued == 1
    job = lease(study.journal)
    assert job.notice is not None
    assert [(r.refusal.code, r.scan) for r in job.notice.reasons] == [
        ("no-phase", scan_name(magnitude)),
        ("incomplete", scan_name(other)),
    ]
    assert len(job.sha256s) == len(magnitude)
    assert [s.state for s in summaries(study.journal)] == ["refused", "refused", "incomplete"]


def test_it_comes_once_in_a_study_whatever_comes_later(
    study: Study, magnitude: list[Header], t1: list[Header]
) -> None:
    study.arrive(magnitude)
    study.after(SETTLED_S)
    study.reconstruct()
    study.arrive(t1)
    study.arrive([replace(h, protocol="again", sop_instance_uid=f"{h.sop_instance_uid}.9") for h in magnitude])
    study.after(5 * SETTLED_S)
    assert "judged again" in study.journal.orders.retry(1)
    study.after(SETTLED_S)
    assert study.queued == 1
    assert study.journal.lease() is None


def test_none_where_something_was_reconstructed(study: Study, magnitude: list[Header], whole: list[Header]) -> None:
    study.arrive(whole)
    study.arrive([replace(h, protocol="again", sop_instance_uid=f"{h.sop_instance_uid}.9") for h in magnitude])
    study.after(QUIET_S + 60)
    study.after(SETTLED_S)
    assert study.queued == 0  # the reconstruction waits
    study.reconstruct()
    study.after(SETTLED_S)
    assert [s.state for s in summaries(study.journal)] == ["done", "refused"]
    assert study.queued == 0


def test_none_where_nothing_was_meant_for_qsm(study: Study, t1: list[Header]) -> None:
    study.arrive(t1)
    study.after(SETTLED_S)
    assert [s.code for s in summaries(study.journal)] == ["no-phase"]
    assert study.queued == 0


def test_a_failed_reconstruction_gets_one(study: Study, whole: list[Header]) -> None:
    study.arrive(whole)
    study.after(QUIET_S + 60)
    study.journal.fail(lease(study.journal), Refusal("no-mask", "no brain was found"), None)
    study.after(SETTLED_S)
    job = lease(study.journal)
    assert job.notice is not None
    assert [r.refusal.code for r in job.notice.reasons] == ["no-mask"]
    (summary,) = summaries(study.journal)
    assert (summary.state, summary.code, summary.notice) == ("failed", "no-mask", "running")
    assert study.journal.finish(job, [], ())
    assert "queued again" in study.journal.orders.retry(1)
    study.reconstruct()
    (summary,) = summaries(study.journal)
    assert (summary.state, summary.notice) == ("done", "done")


def test_a_late_image_takes_a_waiting_page_back_and_gives_the_map(
    study: Study, magnitude: list[Header], whole: list[Header], t1: list[Header]
) -> None:
    study.arrive([*t1, *magnitude])
    study.after(SETTLED_S)
    assert study.queued == 1
    rest = [h for h in whole if h not in magnitude]
    study.arrive(rest)
    assert study.journal.lease() is None
    study.after(QUIET_S + 60)
    assert lease(study.journal).notice is None
    assert [s.notice for s in summaries(study.journal)] == ["", ""]


def test_a_late_image_of_another_acquisition_cuts_off_a_page_that_is_being_made(
    study: Study, magnitude: list[Header], t1: list[Header]
) -> None:
    study.arrive(magnitude)
    study.after(SETTLED_S)
    job = lease(study.journal)
    study.arrive(t1)
    assert not study.journal.finish(job, [Result("notice", "c", "1", "p", "s")], ("pacs",))
    study.after(SETTLED_S)
    again = lease(study.journal)
    assert again.notice == job.notice
    assert study.queued == 2


def test_a_page_that_waits_is_made_after_a_restart_and_not_queued_again(
    tmp_path: Path, magnitude: list[Header]
) -> None:
    study = Study(tmp_path / "journal.sqlite")
    study.arrive(magnitude)
    study.after(SETTLED_S)
    job = lease(study.journal)
    study.journal.close()
    study.open()
    assert study.journal.recover() == 1
    study.after(SETTLED_S)
    again = lease(study.journal)
    assert replace(again, attempts=1) == job
    assert study.journal.lease() is None
    study.journal.close()


def test_a_study_of_the_past_gets_none(study: Study, magnitude: list[Header]) -> None:
    study.arrive(magnitude)
    study.gatherer.step()
    study.now_s += QUIET_S + 1
    study.gatherer.step()
    study.now_s += FORGOTTEN_S + 1
    study.after(SETTLED_S)
    assert study.queued == 0


def test_what_changes_between_look_and_decision_is_seen(study: Study, magnitude: list[Header]) -> None:
    study.arrive(magnitude)
    study.after(QUIET_S + 60)
    (settled,) = study.journal.studies.settled(0.0)
    study.arrive([replace(magnitude[0], sop_instance_uid="1.9")])
    assert study.journal.studies.notify(settled, 1, PAGE, AT) is None
    assert study.journal.lease() is None


def test_retry_sends_a_page_again_that_could_not_be_delivered(study: Study, magnitude: list[Header]) -> None:
    study.arrive(magnitude)
    study.after(SETTLED_S)
    assert study.journal.finish(lease(study.journal), [Result("notice", "c", "1", "p", "s")], ("pacs",))
    (delivery,) = study.journal.deliveries.due()
    study.journal.deliveries.enter([Attempt(delivery, "undeliverable", "nobody answers")])
    assert study.journal.deliveries.due() == []
    study.journal.orders.retry(1)
    assert [d.sop_instance_uid for d in study.journal.deliveries.due()] == ["1"]


def test_retry_has_a_page_made_that_failed(study: Study, magnitude: list[Header]) -> None:
    study.arrive(magnitude)
    study.after(SETTLED_S)
    study.journal.fail(lease(study.journal), Refusal("disk", "no space"), None)
    study.after(SETTLED_S)
    assert study.queued == 1
    assert summaries(study.journal)[0].notice == "failed"
    study.journal.orders.retry(1)
    study.after(SETTLED_S)
    assert study.queued == 2


def test_headers_that_cannot_be_read_do_not_hold_up_other_studies(study: Study, magnitude: list[Header]) -> None:
    study.journal.add(Received("1.2", "odd", "1.2.3", "sha", "PACS", "{}"))
    study.arrive(magnitude)
    study.after(SETTLED_S)
    assert study.queued == 1


def test_a_journal_of_the_first_version_is_taken_over(tmp_path: Path, magnitude: list[Header]) -> None:
    path = tmp_path / "journal.sqlite"
    Journal(path).close()
    with sqlite3.connect(path) as db:
        db.execute("ALTER TABLE job DROP COLUMN notice")
        db.execute("ALTER TABLE job DROP COLUMN report")
        db.execute("DROP INDEX acquisition_of_study")
        db.execute("DROP INDEX acquisition_changed")
        db.execute("DROP INDEX delivery_stored")
        db.execute("DROP TABLE fetch")
        db.execute("ALTER TABLE delivery DROP COLUMN transaction_uid")
        db.execute("ALTER TABLE delivery DROP COLUMN asked")
        db.execute("PRAGMA user_version = 1")
    db.close()
    for _ in range(2):
        study = Study(path)
        study.arrive(magnitude)
        study.after(SETTLED_S)
        study.journal.close()
    assert study.queued == 0  # of the second; the first has queued it


# ------------------------------------------------------------------------------------------------ what is written


@pytest.fixture(scope="module")
def page(tiny_study: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return pydicom.dcmread(write_notice(PAGE, tiny_study[0], tmp_path_factory.mktemp("page"), AT).path)


def said(tool: str, *arguments: Any) -> list[str]:
    program = Path(sys.executable).parent / tool
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).splitlines()


def test_the_page_conforms_and_agrees_with_the_study(page: Dataset, tiny_study: list[Path]) -> None:
    assert page.SOPClassUID == SecondaryCaptureImageStorage
    found = said("dciodvfy", "-new", page.filename)
    assert [line for line in found if line.startswith(("Error", "Warning"))] == []
    assert said("dcentvfy", page.filename, *tiny_study) == []


def test_the_page_belongs_to_patient_and_study_and_to_no_image(page: Dataset, tiny_study: list[Path]) -> None:
    source = pydicom.dcmread(tiny_study[0])
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "StudyInstanceUID", "StudyDate", "StudyTime"):
        assert page[keyword].value == source[keyword].value
    assert not {"ImagePositionPatient", "FrameOfReferenceUID", "EchoTime", "ProtocolName"} & set(page.dir())
    assert page.SeriesInstanceUID != source.SeriesInstanceUID
    assert (page.Modality, page.SeriesDescription, page.BurnedInAnnotation) == ("OT", "QSM not produced", "NO")
    assert (page.ContentDate, page.ContentTime) == ("20260102", "030405")


def test_the_header_says_in_words_what_the_pixels_show(page: Dataset) -> None:
    for words in ("Series 5 (qsm_gre)", "432 magnitude images (no-phase).", "Store phase (Siemens, Philips)"):
        assert words in page.ImageComments
    assert "not a medical device" in page.ImageComments


def test_it_is_our_own_when_it_comes_back(page: Dataset) -> None:
    assert is_own(page)
    assert read_header(page).own


def test_the_same_page_is_the_same_bytes_and_another_one_has_other_uids(
    tiny_study: list[Path], tmp_path: Path
) -> None:
    first = write_notice(PAGE, tiny_study[0], tmp_path / "a", AT)
    again = write_notice(PAGE, tiny_study[0], tmp_path / "b", AT)
    later = write_notice(PAGE, tiny_study[-1], tmp_path / "c", AT + timedelta(hours=1))
    other = write_notice(replace(PAGE, node="QSM2"), tiny_study[0], tmp_path / "d", AT)
    assert (again.sha256, again.sop_instance_uid) == (first.sha256, first.sop_instance_uid)
    assert later.sop_instance_uid == first.sop_instance_uid
    assert later.sha256 != first.sha256
    assert other.sop_instance_uid != first.sop_instance_uid


def test_a_job_makes_it_without_reading_more_than_one_image(tiny_study: list[Path], tmp_path: Path) -> None:
    spec = JobSpec((tiny_study[0], tmp_path / "missing.dcm"), "", AT, tmp_path / "results", notice=PAGE)
    outcome = run_job(spec)
    assert isinstance(outcome, Done)
    assert [(r.series, r.path) for r in outcome.results] == [("notice", "notice-0001.dcm")]
    assert run_job(replace(spec, folder=tmp_path / "again")) == outcome


@pytest.mark.parametrize(
    ("charset", "patient", "protocol"),
    [
        ("ISO_IR 100", "Müller^Ångström", "t2s_Schädel_groß"),
        ("GB18030", "Wang^XiaoDong=王^小东", "磁敏感加权成像_QSM"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎", "脳_QSM"),
        ("ISO_IR 192", "Ελένη^Ω", "QSM_μ$x^2$"),
    ],
)
def test_any_character_set(dicom_sets: ModuleType, tmp_path: Path, charset: Any, patient: str, protocol: str) -> None:
    (ds, *_) = dicom_sets.siemens(dicom_sets.scan())
    ds.SpecificCharacterSet, ds.PatientName, ds.ProtocolName = charset, patient, protocol
    (path,) = dicom_sets.write([ds], tmp_path)
    name = read_header(pydicom.dcmread(path)).protocol
    assert name == protocol
    notice = Notice("QSMNODE", (replace(PAGE.reasons[0], scan=name),))
    written = pydicom.dcmread(write_notice(notice, path, tmp_path / "out", AT).path)
    assert written.get_item("PatientName").value == pydicom.dcmread(path).get_item("PatientName").value
    assert written.PatientName == patient
    assert written.ImageComments.isascii()


# ------------------------------------------------------------------------------------------------- how it looks


def reason(number: int, words: int = 10) -> Reason:
    return Reason(f"series {number} (qsm)", Refusal("incomplete", "echo 3 " * words), advice_on("incomplete"))


def margins_are_empty(pixels: np.ndarray[Any, Any]) -> bool:
    edge = 40
    inner = pixels[edge:-edge, edge:-edge]
    return int(np.sum(pixels != pixels[0, 0])) == int(np.sum(inner != pixels[0, 0]))


@pytest.mark.parametrize(("reasons", "words"), [(1, 5), (3, 10), (30, 10), (1, 5000), (3, 5000)])
def test_nothing_runs_over_the_edge_however_much_there_is_to_say(reasons: int, words: int) -> None:
    many = tuple(replace(reason(n, words), scan=f"series {'12345, ' * words}") for n in range(reasons))
    pixels = draw(Notice("A" * 16, many), AT)
    assert (pixels.shape, pixels.dtype) == ((SIZE, SIZE), np.uint8)
    assert margins_are_empty(pixels)


def test_the_footer_stays_free_whatever_is_said_above() -> None:
    least, most = (draw(Notice("QSMNODE", (reason(1, words),)), AT) for words in (1, 5000))
    assert (least[-160:] == most[-160:]).all()
    assert (least[:-160] != most[:-160]).any()


def test_a_word_that_is_wider_than_the_page_is_broken() -> None:
    pixels = draw(Notice("QSMNODE", (replace(reason(1), scan="series 1 (" + "W" * 64 + ")"),)), AT)
    assert margins_are_empty(pixels)


def test_what_has_no_room_is_counted() -> None:
    """The page of 30 reasons differs from the page of 29 in the number that is told alone."""
    pages = [draw(Notice("QSMNODE", tuple(reason(k) for k in range(n))), AT) for n in (29, 30)]
    rows = np.flatnonzero((pages[0] != pages[1]).any(axis=1))
    assert 0 < np.ptp(rows) < 30


def test_the_text_stands_out_of_its_background() -> None:
    pixels = draw(PAGE, AT)
    assert np.median(pixels) < 32
    assert pixels.max() == 255
    assert 0.01 < np.mean(pixels > 128) < 0.2


# ---------------------------------------------------------------------------------------------- over the network


def settings_for(folder: Path, pacs: loopback.Pacs, notice_after_s: float = 1.2) -> Settings:
    peers = {
        "scanner": Peer(ae_title="SCANNER"),
        "pacs": Peer(ae_title="PACS", host="127.0.0.1", port=pacs.port),
    }
    return Settings(
        port=0, data_dir=folder, quiet_s=1.0, peers=peers, deliver_to=("pacs",), notice_after_min=notice_after_s / 60
    )


def send(images: Sequence[Dataset | Path], port: int) -> None:
    datasets = [pydicom.dcmread(image) if isinstance(image, Path) else image for image in images]
    assert set(store(port, *datasets)) == {0x0000}


def states(node: Node) -> list[str]:
    return [summary.state for summary in summaries(node.journal)]


def test_magnitude_beside_a_t1_brings_one_page_and_the_phase_that_follows_the_map(
    tmp_path: Path, tiny_study: list[Path], eventually: Callable[..., None]
) -> None:
    first = magnitudes(tiny_study)
    with (
        loopback.Pacs(tmp_path / "pacs") as pacs,
        Node(settings_for(tmp_path / "data", pacs), InlineWorker) as node,
    ):
        send([*first, *t1_like(tiny_study)], node.port)
        eventually(pacs.paths, "the page arrives")
        eventually(lambda: [d.state for d in deliveries(node.journal, 1)] == ["delivered"], "it is entered")
        assert states(node) == ["refused", "refused"]
        (path,) = pacs.paths()
        arrived = pydicom.dcmread(path)
        assert arrived.SeriesDescription == "QSM not produced"
        assert arrived.StudyInstanceUID == pydicom.dcmread(first[0]).StudyInstanceUID
        assert "t1_mprage" not in arrived.ImageComments

        told = Console(width=120, file=StringIO())
        print_one(told, summaries(node.journal, 2)[0], deliveries(node.journal, 2), None)
        assert "refused: no phase, and no real and imaginary images: 16 magnitude images" in told.file.getvalue()
        assert "notice to pacs: 1 delivered, 1 attempt" in told.file.getvalue()

        send([path], node.port)
        eventually(lambda: asides(node.journal), "it is counted")
        (aside,) = asides(node.journal)
        assert (aside.kind, aside.count) == ("ignored", 1)

        send([path for path in tiny_study if path not in first], node.port)
        eventually(lambda: "delivered" in states(node), "the map is delivered")
        assert sorted(states(node)) == ["delivered", "refused"]
        assert len(pacs.paths()) == 33
        assert [d.series for d in deliveries(node.journal, 1)] == ["notice", "qsm", "phase"]


def test_without_the_option_nothing_is_sent(
    tmp_path: Path, tiny_study: list[Path], eventually: Callable[..., None]
) -> None:
    with (
        loopback.Pacs(tmp_path / "pacs") as pacs,
        Node(settings_for(tmp_path / "data", pacs, 0.0), InlineWorker) as node,
    ):
        send(magnitudes(tiny_study), node.port)
        eventually(lambda: states(node) == ["refused"], "it is refused")
        assert "notify" not in {loop.name for loop in node._loops}
        assert pacs.paths() == []
