"""What is installed: the wheel's content, the locks, and what the repository must not contain."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from node.codecs import IMAGE_TRANSFER_SYNTAXES
from node.config import load
from node.intake import IMAGE_CLASSES

ROOT = Path(__file__).parent.parent
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
PIN = re.compile(r"^([A-Za-z0-9_.-]+)==(\S+)(?: ; (.+?))? \\$", re.MULTILINE)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob("qsm_node-*.whl")
    return zipfile.ZipFile(path)


def test_wheel_holds_the_three_packages_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"node", "recon", "phantoms"}
    for source in (path for package in ("node", "recon", "phantoms") for path in (ROOT / package).rglob("*.py")):
        assert source.relative_to(ROOT).as_posix() in names
    assert {"node/templates/demo.html", "node/templates/validate.html", "node/validate/promises.toml"} <= set(names)
    assert {"node/py.typed", "recon/py.typed", "phantoms/py.typed"} <= set(names)
    assert not [name for name in names if name.endswith((".pyc", ".nbi", ".nbc"))]


def test_wheel_brings_the_licence_and_one_command(wheel: zipfile.ZipFile) -> None:
    (licence,) = (name for name in wheel.namelist() if name.endswith("/LICENSE"))
    assert b"Apache License" in wheel.read(licence)
    (entry_points,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert wheel.read(entry_points).decode().split() == ["[console_scripts]", "qsm-node", "=", "node.cli:main"]


def pins(lock: Path) -> dict[tuple[str, str], str]:
    """``{(name, environment marker): version}`` of a lock file."""
    return {(name, marker or ""): version for name, version, marker in PIN.findall(lock.read_text("utf-8"))}


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_lock_has_hashes_and_no_address(lock: Path) -> None:
    text = lock.read_text("utf-8")
    assert "://" not in text
    assert "index" not in text.lower()
    requirements = re.findall(r"^[A-Za-z0-9].*(?:\n    --hash=sha256:[0-9a-f]{64}.*)+", text, re.MULTILINE)
    assert len(requirements) == len(re.findall(r"^[A-Za-z0-9]", text, re.MULTILINE)) == len(pins(lock)) > 0


def test_locks_agree() -> None:
    everything = pins(ROOT / "requirements" / "test.txt")
    for lock in LOCKS:
        for (name, _), version in pins(lock).items():
            assert version in {v for (n, _), v in everything.items() if n == name}, f"{lock.name}: {name}"


def test_locks_cover_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    for lock, wanted in (
        ("run.txt", project["project"]["dependencies"]),
        ("build.txt", project["dependency-groups"]["build"]),
        ("test.txt", project["dependency-groups"]["test"]),
    ):
        locked = {name for name, _ in pins(ROOT / "requirements" / lock)}
        assert {re.split(r"[<>=!~ ;\[]", line)[0] for line in wanted} <= locked, lock


def test_no_decoder_under_the_gpl() -> None:
    """pylibjpeg-libjpeg is; the others come without the extras that would bring it."""
    assert not list(metadata.distributions(name="pylibjpeg-libjpeg"))
    for lock in LOCKS:
        assert "libjpeg" not in {re.sub("^pylibjpeg-", "", name) for name, _ in pins(lock)}, lock.name
    assert "pylibjpeg[" not in (ROOT / "pyproject.toml").read_text("utf-8")


def test_repository_has_no_large_file() -> None:
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if tracked.returncode != 0:
        pytest.skip("not a git checkout")
    sizes = {name: (ROOT / name).stat().st_size for name in tracked.stdout.decode().split("\0") if name}
    assert {name: size for name, size in sizes.items() if size > 400_000} == {}


@pytest.mark.parametrize("script", sorted((ROOT / "scripts").glob("*.sh")), ids=lambda path: path.name)
def test_script_parses(script: Path) -> None:
    assert script.stat().st_mode & 0o111, "is not executable"
    subprocess.run(["sh", "-n", str(script)], check=True)


def test_readme_configuration_is_valid(tmp_path: Path) -> None:
    """The indented block after the line that names the file is loaded as a user would."""
    text = (ROOT / "README.md").read_text("utf-8").split("\n`qsm-node.toml`:\n")[1]
    block = text[: re.search(r"^\S", text, re.MULTILINE).start()]
    file = tmp_path / "qsm-node.toml"
    file.write_text(textwrap.dedent(block), "utf-8")
    settings = load(file)
    assert settings.destinations(frozenset({"MR1"})) == ("pacs",)
    assert settings.peers["pacs"].port == 104


def test_readme_names_what_is_accepted() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert all(uid.name in text for uid in IMAGE_CLASSES)
    (cell,) = re.findall(r"^\| Transfer syntaxes \| (.*) \|$", text, re.MULTILINE)
    accepted = {uid.name.replace(" Image Compression", "").replace(" Only", "") for uid in IMAGE_TRANSFER_SYNTAXES}
    assert set(cell.split("; ")) == accepted
