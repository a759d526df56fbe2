"""Mutated headers and files: every one ends as arrays or with a code, in bounded memory, and nothing crashes.

A mutation is a function of its number: `QSM_NODE_FUZZ=10000 pytest tests/test_fuzz.py` does the nightly set, and the
number in a failure's name repeats it alone.
"""

from __future__ import annotations

import os
import random
import re
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

from node.advice import ADVICE
from node.assemble import acquisition_key, judge
from node.errors import Refused, Unreadable
from node.headers import Header, read_header
from node.intake import NotForUs, examine
from node.load import load
from node.site import Site

COUNT = int(os.environ.get("QSM_NODE_FUZZ", "300"))
BATCH = 25
LIMIT_BYTES = 64 << 20
"""The scans are below 1 MB."""

WRITERS = ("siemens", "siemens_xa", "ge", "philips", "philips_enhanced")
CODES = set(ADVICE) - {
    "internal-error",
    "bad-input",
    "node-crash",
    "worker-lost",
    "out-of-memory",
    "time-limit",
    "disk",
}
"""Reasons that lie in the images; the others would be defects."""

TEXTS = (
    b"", b" ", b"***", b"0", b"-1", b"1", b"NaN", b"inf", b"-inf", b"1e400", b"-1e30", b"1e-320", b"65535",
    b"4294967295", b"2147483647", b"99999999999999999999", b"0\\0\\0", b"1\\2", b"1\\0\\0\\1\\0\\0",
    b"NaN\\NaN\\NaN", b"1\\1\\1\\1\\1\\1", b"\\\\\\", b"\xff\xfe\x00\x01", b"M", b"P", b"ORIGINAL\\PRIMARY\\P",
    b"NaN\\NaN", b"0\\0", b"-1\\1", b"2\\0\\0\\0\\2\\0", b"DERIVED", b"20200230",
    b"1.2.3", b"../../etc", b"x" * 5000, b"A\x00B", b"1,5", b"+-3", b"0x10",
)  # fmt: skip
VRS = ("DS", "IS", "US", "SS", "UL", "SL", "FL", "FD", "LO", "CS", "UN", "SQ", "OB", "OW", "UI", "PN", "AT", "ZZ")


@dataclass(frozen=True)
class Image:
    """An image that is not mutated: its dataset, its file and its header."""

    ds: Dataset
    content: bytes
    header: Header


@pytest.fixture(scope="module")
def scans(dicom_sets):
    """The images of a small scan of each flavour."""
    scan = dicom_sets.scan(shape=(5, 4, 16), echoes=2)
    made = {writer: getattr(dicom_sets, writer)(scan) for writer in WRITERS}
    listed = {writer: images if isinstance(images, list) else [images] for writer, images in made.items()}
    return {writer: [Image(ds, as_bytes(ds), read_header(ds)) for ds in images] for writer, images in listed.items()}


def mutate_element(ds: Dataset, tag: BaseTag, rng: random.Random) -> str:
    kind = rng.choice(("delete", "text", "text", "text", "vr", "bytes", "nested"))
    if kind == "delete":
        del ds[tag]
    elif kind == "text":
        value, vr = rng.choice(TEXTS), vr_of(ds, tag)
        put_raw(ds, tag, vr, value)
        return f"{tag} {vr} = {value[:40]!r}"
    elif kind == "vr":
        vr, value = rng.choice(VRS), rng.choice(TEXTS)
        put_raw(ds, tag, vr, value)
        return f"{tag} as {vr} = {value[:40]!r}"
    elif kind == "bytes":
        value = rng.randbytes(rng.choice((0, 1, 2, 3, 4, 7, 8, 64)))
        put_raw(ds, tag, vr_of(ds, tag), value)
        return f"{tag} = {value!r}"
    elif isinstance(ds.get_item(tag), DataElement) and ds[tag].VR == "SQ" and ds[tag].value:
        item = rng.choice(list(ds[tag].value))
        if len(item):
            inner = rng.choice(list(item.keys()))
            return f"{tag} > {mutate_element(item, inner, rng)}"
    else:
        ds[tag] = DataElement(tag, "SQ", [])
    return f"{tag} {kind}"


def vr_of(ds: Dataset, tag: BaseTag) -> str:
    """The element's VR, without decoding what an earlier mutation may have put there; UN for sequences."""
    vr = ds.get_item(tag).VR or "UN"
    return "UN" if vr == "SQ" else str(vr)


def put_raw(ds: Dataset, tag: BaseTag, vr: str, value: bytes) -> None:
    """The element as bytes, as a file would hold it; the public way would decode it."""
    ds._dict[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True)


def mutate_counts(ds: Dataset, rng: random.Random) -> str:
    keyword = rng.choice(("Rows", "Columns", "NumberOfFrames", "BitsAllocated", "BitsStored", "SamplesPerPixel",
                          "PixelRepresentation", "EchoTrainLength", "HighBit"))  # fmt: skip
    value = rng.choice((0, 1, 2, 3, 7, 8, 12, 16, 32, 64, 255, 32767, 65535))
    ds.add_new(keyword, {"NumberOfFrames": "IS", "EchoTrainLength": "IS"}.get(keyword, "US"), value)
    return f"{keyword} = {value}"


def mutate_pixels(ds: Dataset, rng: random.Random) -> str:
    pixels = ds.PixelData or b""
    change = rng.choice(("short", "long", "none", "empty", "noise", "zero"))
    if change == "none":
        del ds.PixelData
    else:
        ds.PixelData = {
            "short": pixels[: rng.randrange(len(pixels) + 1)],
            "long": pixels + b"\x01\x00" * rng.randrange(5000),
            "empty": b"",
            "noise": rng.randbytes(len(pixels)),
            "zero": bytes(len(pixels)),
        }[change]
    return f"pixels {change}"


def as_bytes(ds: Dataset) -> bytes:
    buffer = BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def mutate_file(content: bytes, rng: random.Random) -> tuple[bytes, str]:
    """A file as bytes, damaged past its preamble."""
    change = rng.choice(("flip", "cut", "splice"))
    at = rng.randrange(132, len(content))
    if change == "cut":
        return content[:at], f"cut at {at}"
    if change == "splice":
        return content[:at] + rng.randbytes(rng.randrange(1, 40)) + content[at:], f"spliced at {at}"
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 4, 30))):
        data[rng.randrange(132, len(data))] ^= 1 << rng.randrange(8)
    return bytes(data), "flipped bits"


def mutated(images: list[Image], rng: random.Random) -> tuple[dict[int, bytes], str]:
    """The same few mutations in one image, in some, or in all: their files, and what was done."""
    some = rng.sample(range(len(images)), rng.choice((1, 1, 1, len(images) // 4 + 1, len(images))))
    seed, files, told = rng.random(), {}, []
    for at in some:
        same, told, ds = random.Random(seed), [f"{len(some)} of {len(images)}"], deepcopy(images[at].ds)
        for _ in range(same.choice((1, 1, 2, 4))):
            change = same.choice(("element",) * 6 + ("counts", "pixels"))
            with suppress(Exception):  # pydicom does not set an element beside some that are nonsense already
                if change == "counts":
                    told.append(mutate_counts(ds, same))
                elif change == "pixels" and isinstance(ds.get("PixelData"), bytes):
                    told.append(mutate_pixels(ds, same))
                else:
                    told.append(mutate_element(ds, same.choice(sorted(ds.keys())), same))
        try:
            files[at] = as_bytes(ds)
        except Exception:  # what cannot be written at all is not received either
            files[at] = images[at].content
        if same.random() < 0.15:
            files[at], how = mutate_file(files[at], same)
            told.append(how)
    return files, "; ".join(told)


def received(content: bytes, image: Image) -> Header | str:
    """What the node makes of a file that is sent instead of an image: a header, or a reason."""
    start = 144 + int.from_bytes(image.content[140:144], "little")  # after the file meta information
    try:
        return Header.from_json(examine(image.content[:start] + content[start:], start, Site()).header)
    except (NotForUs, Unreadable) as why:
        return str(why)


def judged(headers: list[Header]) -> None:
    """Headers survive the journal, and each of their groups is whole or has a reason."""
    groups: dict[str, list[Header]] = {}
    for header in headers:
        assert Header.from_json(header.to_json()) == header
        groups.setdefault(acquisition_key(header), []).append(header)
    for group in groups.values():
        verdict = judge(group)
        assert verdict.arrangement or verdict.refusal.code in CODES


def loaded(paths: list[Path]) -> None:
    """The files as one acquisition are arrays, or refused by name."""
    try:
        source = load(paths)
    except Refused as why:
        code, sentence = why.refusal.code, why.refusal.sentence
    except Unreadable as why:
        code, sentence = "unreadable", str(why)
    else:
        assert np.isfinite(source.acquisition.phase).all()
        assert source.acquisition.magnitude.shape[1:] == source.acquisition.geometry.shape
        return
    assert code in CODES
    assert len(sentence) > 10


def peak_bytes() -> int:
    """Largest resident memory since `reset_peak`."""
    return 1024 * int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def reset_peak() -> int:
    """Forget the largest resident memory; what it is now."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_bytes()


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("batch", range(0, COUNT, BATCH))
def test_mutations_end_with_a_code(scans, tmp_path, batch):
    for number in range(batch, min(batch + BATCH, COUNT)):
        rng = random.Random(number)
        images = scans[rng.choice(WRITERS)]
        files, told = mutated(images, rng)
        paths = [tmp_path / f"{at:05d}.dcm" for at in range(len(images))]
        for at, path in enumerate(paths):
            path.write_bytes(files.get(at, images[at].content))
        before = reset_peak()
        try:
            answers = [received(content, images[at]) for at, content in files.items()]
            others = [image.header for at, image in enumerate(images) if at not in files]
            judged([a for a in answers if isinstance(a, Header)] + others)
            loaded(paths)
        except Exception as error:
            raise AssertionError(f"mutation {number}: {told}") from error
        grown = peak_bytes() - before
        assert grown < LIMIT_BYTES, f"mutation {number}: {grown >> 20} MB; {told}"
        for path in paths:
            path.unlink()
