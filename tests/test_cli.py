"""The command line: what it prints, its exit codes, and a node that is served and stopped as in production."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pydicom
import pytest
from rich.console import Console
from typer.testing import CliRunner

from journals import lease
from node import cli, loopback, offline, warm
from node.config import Settings
from node.database import JournalError
from node.errors import Refusal
from node.fitness import Scan, fitness
from node.journal import Journal
from node.overview import Aside, DeliveryGroup, Summary
from node.records import Attempt, Received, Result
from node.report import Report
from node.service import Node
from node.tables import print_list, print_one

REPORT = Report(
    "siemens; magnitude and phase; stored phase rises with the field",
    ("mask: check it",),
    fitness((0.005, 0.04), 127.7, (1.0, 1.0, 1.0), Scan("3D", 50.0, 20.0)),
)
COMMAND = [sys.executable, "-c", "from node.cli import main; main()"]
TAKES_AND_FREES = """
import os, re, signal, threading
from node import cli, service

class Node:
    def __init__(self, settings): pass

    def __enter__(self):
        all_there = threading.Barrier(9)
        in_turn = threading.Lock()

        def take():
            all_there.wait()
            with in_turn:
                b"x" * taken
            all_there.wait()

        taken = 4 << 20
        b"x" * (2 * taken)
        before = resident()
        for _ in range(8):
            threading.Thread(target=take, daemon=True).start()
        all_there.wait()
        all_there.wait()
        print(resident() - before)
        os.kill(os.getpid(), signal.SIGTERM)

    def __exit__(self, *_): pass

def resident():
    return 1024 * int(re.search(r"VmRSS:\\s+(\\d+)", open("/proc/self/status").read())[1])

service.Node = Node
cli.main()
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str]]:
    """``run("jobs", "list")`` gives exit code and everything that was printed."""
    monkeypatch.setenv("QSM_NODE_DATA_DIR", str(tmp_path))

    def invoke(*arguments: object) -> tuple[int, str]:
        result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.output

    return invoke


Run = Callable[..., tuple[int, str]]


@pytest.fixture(autouse=True)
def kernels_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm, "is_warm", lambda _folder: True)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """A delivered, a failed and an incomplete acquisition, and objects that were not taken."""
    journal = Journal(tmp_path / "journal.sqlite", lambda: 1.7e9)
    for number, sender in enumerate(("PACS", "A_VERY_LONG_NAME", "PACS"), start=1):
        for image in range(2):
            journal.add(Received("2.25.99", f"key{number}", f"{number}.{image}", f"sha{number}{image}", sender, "{}"))
    delivered, failed, lacking = journal.receiving()
    for gathering in (delivered, failed):
        journal.complete(gathering, "default", datetime.now(UTC))
    journal.finish(lease(journal), [Result("qsm", "1.2", "7.7", "p", "s")], ("pacs",), REPORT.to_json())
    journal.deliveries.enter([Attempt(journal.deliveries.due()[0], "delivered")])
    job = lease(journal)
    journal.fail(job, Refusal("no-mask", "no brain was found in the magnitude: a mask has to be supplied"), None)
    sentence = "echo 4: 71 of 72 phase slices; missing position -12.5 mm; " + "and much more " * 10
    journal.settle(lacking, "incomplete", Refusal("incomplete", sentence))
    journal.count("ignored", "CT Image Storage is not an MR image", "PACS")
    journal.count("ignored", "CT Image Storage is not an MR image", "PACS")
    journal.count("rejected", "truncated: 2000 of 2560 bytes of pixels", "PACS")
    journal.tally()
    yield journal
    journal.close()


def test_a_terminal_of_80_columns_cuts_nothing_off() -> None:
    """The widest of everything; sentences break between words."""
    sentence = "PACS does not accept Storage Commitment Push Model SOP Class, and says so at some length, " * 2
    widest = Summary(
        12345,
        "undeliverable",
        "1.2",
        ("SIXTEEN_LETTERS_",),
        12345,
        1.7e9,
        1,
        1440,
        1440,
        "sign-contradiction",
        sentence,
        "",
    )
    group = DeliveryGroup("pacs", "qsm", "stored", 16, 1, sentence)
    aside = Aside("rejected", sentence, "SIXTEEN_LETTERS_", 1, 1.7e9)
    told = io.StringIO()
    console = Console(file=told, width=80, force_terminal=True, color_system=None)
    print_list(console, [widest], [aside])
    print_one(console, widest, [group], None)
    lines = told.getvalue().splitlines()
    assert max(len(line) for line in lines) <= 80
    assert "…" not in told.getvalue()
    assert {"12345", "undeliverable", "1440/1440"} <= set(lines[1].split())
    assert " ".join(told.getvalue().split()).count(sentence.strip()) == 4
    assert "16 stored, 1 attempt (" in told.getvalue()


@pytest.mark.usefixtures("journal")
def test_the_configuration_may_be_named_before_or_after_what_is_asked(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("QSM_NODE_DATA_DIR")
    config, other = tmp_path / "site.toml", tmp_path / "other.toml"
    config.write_text(f'data_dir = "{tmp_path}"')
    other.write_text(f'data_dir = "{tmp_path / "other"}"')
    monkeypatch.setenv("QSM_NODE_CONFIG", str(other))
    for command in (["list"], ["show", "1"], ["retry", "2"]):
        assert run("jobs", *command)[0] == cli.WRONG_USE
        assert run("jobs", "-c", config, *command)[0] == 0
        assert run("jobs", *command, "-c", config)[0] == 0


def test_a_journal_that_cannot_be_read_is_told_in_a_sentence(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "journal.sqlite").write_bytes(b"not what it was " * 500)
    code, shown = run("jobs")
    assert (code, shown) == (1, f"qsm-node: {tmp_path / 'journal.sqlite'}: file is not a database\n")
    with pytest.raises(JournalError, match="file is not a database"):
        Node(Settings(data_dir=tmp_path)).start()

    def deny(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "is_file", deny)
    code, shown = run("jobs")
    assert (code, shown) == (1, f"qsm-node: {tmp_path / 'journal.sqlite'}: Permission denied\n")


def test_health_of_a_node_on_any_port_cannot_be_asked(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QSM_NODE_PORT", "0")
    code, shown = run("health")
    assert code == 1
    assert "port = 0" in shown


def test_version_is_quick_and_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom node.cli import app\ntry: app(['version'])\nexcept SystemExit: pass\n"
        "print(sorted({'pynetdicom', 'pydantic_settings', 'scipy', 'numba', 'highdicom'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert re.fullmatch(r"qsm-node \d+\.\d+\S*\n\[\]\n", shown)


def test_help_documents_the_exit_codes(run: Run) -> None:
    for arguments in (["--help"], ["jobs", "--help"]):
        code, shown = run(*arguments)
        assert code == 0
        assert "Exit codes: 0 done; 1 failed, or a promise broken; 2 wrong" in " ".join(shown.split())


@pytest.mark.usefixtures("journal")
def test_jobs_are_listed_one_a_line_then_the_reasons_then_what_was_not_taken(run: Run) -> None:
    for arguments in (["jobs"], ["jobs", "list"]):
        code, shown = run(*arguments)
        lines = shown.splitlines()
        assert code == 0
        assert max(len(line) for line in lines[:4]) <= 100
        assert [line.split()[0] for line in lines[:4]] == ["ID", "1", "2", "3"]
        assert "delivered" in lines[1]
        assert "1/1" in lines[1]
        assert "A_VERY_LONG_NAME" in lines[2]
        assert "no-mask" in lines[2]
        assert "   2  failed: no brain was found in the magnitude: a mask has to be supplied" in lines
        assert any("incomplete: echo 4: 71 of 72 phase slices; missing position -12.5 mm" in line for line in lines)
        assert "     2  ignored from PACS: CT Image Storage is not an MR image" in lines
        assert "     1  rejected from PACS: truncated: 2000 of 2560 bytes of pixels" in lines


@pytest.mark.usefixtures("journal")
def test_jobs_for_machines(run: Run) -> None:
    code, shown = run("jobs", "list", "--json")
    assert code == 0
    told = json.loads(shown)
    assert [(a["id"], a["state"], a["code"]) for a in told["acquisitions"]] == [
        (1, "delivered", ""),
        (2, "failed", "no-mask"),
        (3, "incomplete", "incomplete"),
    ]
    assert [(a["kind"], a["count"]) for a in told["not_taken"]] == [("ignored", 2), ("rejected", 1)]
    assert run("jobs", "--json")[1] == shown


@pytest.mark.usefixtures("journal")
def test_one_job_is_shown_whole(run: Run) -> None:
    code, shown = run("jobs", "show", 3)
    assert code == 0
    assert "missing position -12.5 mm; and much more and much more" in shown
    assert "2.25.99" in shown
    assert "qsm to pacs: 1 delivered" in run("jobs", "show", 1)[1]
    code, shown = run("jobs", "show", 4)
    assert code == 1
    assert shown.startswith("qsm-node: there is no acquisition 4, or its images were deleted")


@pytest.mark.usefixtures("journal")
def test_one_job_is_shown_with_the_report_on_its_reconstruction(run: Run) -> None:
    shown = run("jobs", "show", 1)[1]
    assert max(map(len, shown.splitlines())) <= 100
    words = {" ".join(line.split()) for line in shown.splitlines()}
    assert {
        "Convention siemens; magnitude and phase; stored phase rises with the field",
        "Sign check no evidence",
        "Warning two echoes instead of 3 or more",
        "Warning mask: check it",
        "Fitness 7 of 8 recommendations for QSM met",
        "echoes 2 3 or more not met",
    } <= words
    assert "Fitness" not in run("jobs", "show", 2)[1]


@pytest.mark.usefixtures("journal")
def test_one_job_for_machines(run: Run) -> None:
    told = json.loads(run("jobs", "show", 1, "--json")[1])
    assert (told["acquisition"]["state"], told["deliveries"][0]["destination"]) == ("delivered", "pacs")
    assert Report.from_json(json.dumps(told["report"])) == REPORT
    assert json.loads(run("jobs", "show", 3, "--json")[1])["report"] is None


@pytest.mark.usefixtures("journal")
def test_what_stopped_is_set_going_again(run: Run) -> None:
    assert run("jobs", "retry", 2) == (0, "the reconstruction is queued again\n")
    assert run("jobs", "retry", 3) == (0, "will be judged again after the quiet time\n")
    code, shown = run("jobs", "retry", 1)
    assert (code, "nothing to try again" in shown) == (1, True)
    states = [a["state"] for a in json.loads(run("jobs", "--json")[1])["acquisitions"]]
    assert states == ["delivered", "queued", "receiving"]


def test_without_a_journal_nothing_is_invented(run: Run, tmp_path: Path) -> None:
    code, shown = run("jobs")
    assert code == 2
    assert "no node has run with this data_dir" in shown
    assert list(tmp_path.iterdir()) == []


def test_wrong_settings_are_exit_code_2(run: Run, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("quiet_s = 0")
    for command in (["serve"], ["health"]):
        assert run(*command, "--config", wrong) == (2, "qsm-node: quiet_s: must be greater than 0 (it is 0)\n")
    assert run("jobs", "--config", wrong)[0] == 2


def test_a_folder_is_reconstructed(run: Run, tiny_study: list[Path], tmp_path: Path) -> None:
    code, shown = run("reconstruct", tiny_study[0].parent.parent, "-o", tmp_path / "out", "--segmentation")
    assert code == 0
    assert shown.startswith("done")
    classes = [pydicom.dcmread(path).SOPClassUID.name for path in sorted((tmp_path / "out").rglob("*.dcm"))]
    assert classes.count("MR Image Storage") == 32
    assert classes.count("Segmentation Storage") == 1
    words = [" ".join(line.split()) for line in shown.splitlines()]
    assert "Convention siemens; magnitude and phase; stored phase rises with the field" in words
    assert "flip angle 20 degrees 14 to 20 degrees (Ernst angle) met" in words
    assert max(map(len, shown.splitlines()[1:])) <= 100
    told = json.loads(run("reconstruct", tiny_study[0].parent.parent, "-o", tmp_path / "out", "--json")[1])
    assert told[0]["report"]["convention"] == "siemens; magnitude and phase; stored phase rises with the field"
    assert len(told[0]["report"]["fitness"]) == 10


def test_a_contradicted_sign_is_refused_or_marked(
    run: Run, tiny_study: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = offline.report_of
    monkeypatch.setattr(offline, "report_of", lambda *of_what: replace(of(*of_what), sign="contradiction"))
    arguments = ("reconstruct", tiny_study[0].parent.parent, "-o", tmp_path / "out")
    code, shown = run(*arguments)
    assert (code, "sign-contradiction: " in shown) == (3, True)
    assert not list(tmp_path.rglob("*.dcm"))
    monkeypatch.setenv("QSM_NODE_WITHHOLD_CONTRADICTIONS", "false")
    code, shown = run(*arguments)
    assert (code, "Sign check contradiction" in " ".join(shown.split())) == (0, True)
    assert {pydicom.dcmread(path).SeriesDescription[:6] for path in tmp_path.rglob("*.dcm")} == {"SIGN? "}


def test_the_first_reconstruction_compiles_and_says_so(
    run: Run, tiny_study: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[Path] = []
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cold"))
    monkeypatch.setattr(warm, "is_warm", lambda folder: folder in compiled)
    monkeypatch.setattr(warm, "warm", lambda folder, _tell: compiled.append(folder) or warm.Warmed(("grow",), 2.0))
    arguments = ("reconstruct", tiny_study[0].parent, "-o", tmp_path / "out")
    lines = run(*arguments)[1].splitlines()
    assert lines[0] == f"compiling kernels (once, about {warm.ABOUT_S} s)"
    assert lines[1] == f"compiled 1 kernels in 2 s into {tmp_path / 'cold'}: grow"
    assert run(*arguments)[1].startswith("refused")
    assert run("warmup")[1] == f"kernels are compiled already: 0 functions in {tmp_path / 'cold'}\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[inversion]\nmethod = 'LinearTv'\niterations = 0", "LinearTv needs positive parameters"),
        ("[inversion]\nmethod = 'Tkd'\nalpha_ppm = 1.0", "inversion: Tkd has no parameter 'alpha_ppm'"),
        ("[inversion]\nalpha_ppm = nan", "inversion.alpha_ppm: must be a finite number, got nan"),
        ("[inversion]\nmerit_at = [8, 41]", "NonlinearTv: merit_at and reweight_at lie beyond"),
        ("[background]\nmethod = 'Medi'", "background: there is no method 'Medi'; methods are Pdf"),
        ("[background]\nmethod = 'VSharp'\nradii_mm = [2, 4]", "VSharp needs falling radii_mm"),
        ("[background]\ntolerance = 1.0", "Pdf needs 0 < tolerance < 1"),
        ("[highpass]\nte_s = 25.8", "Homodyne needs two samples or more and an echo time in s"),
        ("[highpass]\nsamples = 1", "Homodyne needs two samples or more"),
        ("[reference]\nmethod = 'Cerebellum'", "reference: there is no method 'Cerebellum'"),
        ("[unwrap]\nmethod = 'Laplacian'\ntolerance = 0", "Laplacian needs 0 < tolerance < 1"),
        ("[echoes]\nsteps = 2.5", "echoes.steps: must be a whole number"),
        ("[mask]\nradii_mm = []", "AutoMask has no parameter 'radii_mm'"),
        ("[mask]\nedge_level = 0.9", "AutoMask needs"),
        ("[readout]\ncoherence = 1", "0 < coherence < 1"),
        ("[csf]\nr2s_hz = -5", "Ventricles needs positive parameters"),
        ("[denoise]\nmethod = 'x'", "there is no stage 'denoise'"),
        ("[background", "not valid TOML"),
    ],
)
def test_an_impossible_recipe_is_refused_before_any_image_is_read(
    run: Run, tiny_study: list[Path], tmp_path: Path, text: str, words: str
) -> None:
    """Exit code 2, and the sentence names file, stage and parameter."""
    path = tmp_path / "bad.toml"
    path.write_text(text)
    code, shown = run("reconstruct", tiny_study[0].parent.parent, "-o", tmp_path / "out", "--recipe", path)
    assert (code, shown.startswith(f"qsm-node: {path}: ")) == (2, True)
    assert words in shown
    assert not (tmp_path / "out").exists()
    assert run("recipe", path) == (code, shown)


def test_a_recipe_that_does_not_fit_the_images_fails_with_the_reason(
    run: Run, tiny_study: list[Path], tmp_path: Path
) -> None:
    path = tmp_path / "wide.toml"
    path.write_text("[background]\nmethod = 'Resharp'\nradius_mm = 90")
    code, shown = run("reconstruct", tiny_study[0].parent.parent, "-o", tmp_path / "out", "--recipe", path)
    assert code == 1
    assert "background: Resharp needs a ball of 90 mm inside the mask, and none fits" in shown
    path.write_text("[inversion]\nmethod = 'LinearTv'\n[reference]\nmethod = 'Csf'")
    assert run("reconstruct", tiny_study[0].parent.parent, "-o", tmp_path / "out", "--recipe", path)[0] == 0


def test_a_folder_of_refused_input_is_exit_code_3(run: Run, tiny_study: list[Path], tmp_path: Path) -> None:
    code, shown = run("reconstruct", tiny_study[0].parent, "-o", tmp_path / "out")
    assert code == 3
    assert "no-phase" in shown
    code, shown = run("reconstruct", tiny_study[0].parent, "-o", tmp_path / "out", "--json")
    (outcome,) = json.loads(shown)
    assert (code, outcome["state"]) == (3, "refused")
    (tmp_path / "empty").mkdir()
    assert run("reconstruct", tmp_path / "empty", "-o", tmp_path / "out")[0] == 3


@pytest.mark.parametrize(
    ("options", "files", "number"),
    [
        ((), "*/*.dcm", 2 * 2 * 16),
        (("--vendor", "ge"), "*.dcm", 3 * 2 * 16),
        (("--format", "dicom", "--vendor", "philips-enhanced"), "*.dcm", 1),
        (("--format", "bids"), "*part-phase_MEGRE.nii*", 2),
    ],
)
def test_a_phantom_is_written(run: Run, tmp_path: Path, options: tuple[str, ...], files: str, number: int) -> None:
    (tmp_path / "tiny.toml").write_text(
        "shape = [32, 40, 16]\nvoxel_mm = [6, 6, 10]\nte_s = [0.006, 0.014]\ntr_s = 0.05\n"
        "[bipolar]\nconstant_rad = 0.3\n"
    )
    protocol = ("--protocol", tmp_path / "tiny.toml")
    code, shown = run("phantom", "-o", tmp_path / "out", "--seed", 3, *protocol, *options)
    assert code == 0
    assert "phantom 3 with" in shown
    assert len(list((tmp_path / "out").rglob(files))) == number


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("snr = ", "not valid TOML"),
        ("matrix = 7", "matrix: Unexpected"),
        ("snr = -1", "snr must be positive"),
        ("voxel_mm = [1, 1]", "voxel_mm"),
        ("[motion]\nshift_mm = [1, 0, 0]\nat = 0.2", "at of a motion"),
    ],
)
def test_a_protocol_that_cannot_be_is_said(run: Run, tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "scan.toml").write_text(text)
    code, shown = run("phantom", "-o", tmp_path / "out", "--protocol", tmp_path / "scan.toml")
    assert code == 1
    assert said in shown
    assert not (tmp_path / "out").exists()


def test_a_vendor_does_not_go_with_bids(run: Run, tmp_path: Path) -> None:
    code, shown = run("phantom", "-o", tmp_path / "out", "--format", "bids", "--vendor", "siemens")
    assert code == 2
    assert "--vendor chooses among kinds of DICOM" in shown
    assert not (tmp_path / "out").exists()
    assert run("phantom", "-o", tmp_path / "out", "--vendor", "canon")[0] == 2


# ------------------------------------------------------------------------------------------------ in production


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "node.toml"
    path.write_text(
        f'port = 0\nquiet_s = 1\ndata_dir = "{tmp_path / "data"}"\ndeliver_to = ["pacs"]\n'
        '[peers.scanner]\nae_title = "SCANNER"\n[peers.pacs]\nae_title = "PACS"\nhost = "127.0.0.1"\nport = 1\n'
    )
    return path


def test_threads_of_a_served_node_keep_no_memory_that_they_freed(config: Path) -> None:
    served = [sys.executable, "-c", TAKES_AND_FREES, "serve", "--config", config]
    assert int(subprocess.run(served, capture_output=True, check=True).stdout) < 4 << 20


def test_a_served_node_is_healthy_says_what_happens_and_stops_on_sigterm(
    config: Path, tmp_path: Path, tiny_study: list[Path], eventually: Callable[..., None]
) -> None:
    lines = tmp_path / "log.jsonl"
    with lines.open("w") as log:
        node = subprocess.Popen(
            [*COMMAND, "serve", "--config", config], stderr=log, env={**os.environ, "COLUMNS": "80"}
        )
    try:
        eventually(lambda: "node started" in lines.read_text(), "the node starts", 30)
        (started,) = [json.loads(line) for line in lines.read_text().splitlines()]
        port = {**os.environ, "QSM_NODE_PORT": str(started["port"])}
        health = [*COMMAND, "health", "--config", str(config)]
        assert subprocess.run(health, env=port, capture_output=True, text=True, check=False).stdout == "ok\n"
        loopback.send(tiny_study[:48], started["port"], "QSMNODE")
        eventually(lambda: "acquisition refused" in lines.read_text(), "the refusal is told", 30)
    finally:
        node.send_signal(signal.SIGTERM)
        assert node.wait(30) == 0
    told = [json.loads(line) for line in lines.read_text().splitlines()]
    (refused,) = [line for line in told if line["event"] == "acquisition refused"]
    assert refused["code"] == "no-phase"
    assert "48 magnitude images" in refused["reason"]
    assert told[-1]["event"] == "node stopped"
    gone = subprocess.run(health, env=port, capture_output=True, text=True, check=False)
    assert gone.returncode == 1
    assert "nobody answers" in gone.stderr
    jobs = [*COMMAND, "jobs", "--config", str(config)]
    shown = subprocess.run(jobs, capture_output=True, text=True, check=True).stdout
    assert "refused: no phase, and no real and imaginary images: 48 magnitude images" in shown
