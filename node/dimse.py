"""C-STORE messages as bytes: the request's command, the response, and the head of the file that the object becomes.

Pure functions; knows no network and no disk.

References: PS3.7 sections 6.3 (command sets), 9.3.1 (C-STORE), annex E (elements); PS3.8 section 9.3.5 (P-DATA-TF),
annex E.2 (message control header); PS3.10 section 7.1 (file meta information).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from pydicom.uid import PYDICOM_IMPLEMENTATION_UID

COMMAND, LAST = 0x01, 0x02
"""Bits of a message control header: a fragment of the command set, the last fragment of its kind."""
P_DATA_TF = 0x04

_SOP_CLASS_UID, _COMMAND_FIELD, _MESSAGE_ID, _ANSWERED_ID = 0x0002, 0x0100, 0x0110, 0x0120
_DATA_SET_TYPE, _STATUS, _COMMENT, _SOP_INSTANCE_UID = 0x0800, 0x0900, 0x0902, 0x1000
_C_STORE_RQ, _C_STORE_RSP = 0x0001, 0x8001
_NO_DATA_SET = 0x0101
_UID = re.compile(r"[0-9.]{1,64}")


class Malformed(ValueError):
    """Not what the standard says that it looks like."""


@dataclass(frozen=True, slots=True)
class Request:
    """A C-STORE request, as far as it must be known to answer it."""

    context_id: int
    message_id: int
    sop_class_uid: str
    sop_instance_uid: str
    has_data_set: bool


@dataclass(frozen=True, slots=True)
class Fragment:
    """A presentation data value: a piece of a command set or of a data set."""

    context_id: int
    control: int
    data: memoryview


def fragments(body: memoryview) -> list[Fragment]:
    """The presentation data values of a P-DATA-TF PDU, without its header.

    Raises
    ------
    Malformed
        Their lengths do not add up.
    """
    found, at = [], 0
    while at < len(body):
        if len(body) - at < 6:
            raise Malformed("a presentation data value without header")
        length, context_id, control = struct.unpack_from(">LBB", body, at)
        if length < 2 or at + 4 + length > len(body):
            raise Malformed(f"a presentation data value of {length} bytes in a PDU of {len(body)}")
        found.append(Fragment(context_id, control, body[at + 6 : at + 4 + length]))
        at += 4 + length
    return found


def store_request(context_id: int, command: bytes) -> Request | None:
    """What a command set (implicit VR little endian) asks to store; None if it asks for something else.

    Raises
    ------
    Malformed
        No command set, or a C-STORE request without what it needs.
    """
    elements = _elements(command)
    if elements.get(_COMMAND_FIELD) != struct.pack("<H", _C_STORE_RQ):
        return None
    try:
        (message_id,) = struct.unpack("<H", elements[_MESSAGE_ID])
        (data_set,) = struct.unpack("<H", elements[_DATA_SET_TYPE])
        sop_class, sop_instance = (
            elements[tag].decode("ascii").rstrip("\0 ") for tag in (_SOP_CLASS_UID, _SOP_INSTANCE_UID)
        )
    except (KeyError, struct.error, UnicodeDecodeError) as error:
        raise Malformed("a C-STORE request lacks what it needs") from error
    if not _UID.fullmatch(sop_class) or not _UID.fullmatch(sop_instance):
        raise Malformed("a C-STORE request names no UID")
    return Request(context_id, message_id, sop_class, sop_instance, data_set != _NO_DATA_SET)


def _elements(command: bytes) -> dict[int, bytes]:
    found, at = {}, 0
    while at < len(command):
        if len(command) - at < 8:
            raise Malformed("a command set ends in the middle of an element")
        group, element, length = struct.unpack_from("<HHL", command, at)
        if group or at + 8 + length > len(command):
            raise Malformed("what should be a command set is none")
        found[element] = bytes(command[at + 8 : at + 8 + length])
        at += 8 + length
    return found


def store_response(request: Request, status: int, comment: str = "") -> bytes:
    """The answer, as a P-DATA-TF PDU; of the comment, as much as fits."""
    elements = [
        (_SOP_CLASS_UID, _padded(request.sop_class_uid, b"\0")),
        (_COMMAND_FIELD, struct.pack("<H", _C_STORE_RSP)),
        (_ANSWERED_ID, struct.pack("<H", request.message_id)),
        (_DATA_SET_TYPE, struct.pack("<H", _NO_DATA_SET)),
        (_STATUS, struct.pack("<H", status)),
        *([(_COMMENT, _padded(comment[:64], b" "))] if comment else []),
        (_SOP_INSTANCE_UID, _padded(request.sop_instance_uid, b"\0")),
    ]
    command = b"".join(struct.pack("<HHL", 0, tag, len(value)) + value for tag, value in elements)
    command = struct.pack("<HHLL", 0, 0, 4, len(command)) + command
    value = struct.pack(">LBB", len(command) + 2, request.context_id, COMMAND | LAST) + command
    return struct.pack(">BxL", P_DATA_TF, len(value)) + value


def file_head(request: Request, transfer_syntax: str) -> bytes:
    """What stands between the preamble and the data set of a file: ``DICM`` and the file meta information."""
    short = [
        (0x0002, b"UI", _padded(request.sop_class_uid, b"\0")),
        (0x0003, b"UI", _padded(request.sop_instance_uid, b"\0")),
        (0x0010, b"UI", _padded(transfer_syntax, b"\0")),
        (0x0012, b"UI", _padded(PYDICOM_IMPLEMENTATION_UID, b"\0")),
    ]
    version = struct.pack("<HH2sxxL", 2, 1, b"OB", 2) + b"\0\1"
    meta = version + b"".join(_explicit(short))
    return b"DICM" + b"".join(_explicit([(0x0000, b"UL", struct.pack("<L", len(meta)))])) + meta


def _explicit(elements: Iterable[tuple[int, bytes, bytes]]) -> Iterable[bytes]:
    return (struct.pack("<HH2sH", 2, tag, vr, len(value)) + value for tag, vr, value in elements)


def _padded(text: str, pad: bytes) -> bytes:
    value = text.encode("ascii", "replace")
    return value + pad * (len(value) % 2)
