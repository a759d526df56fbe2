"""C-STORE messages as bytes: pynetdicom reads what is written here, and writes what is read here."""

from __future__ import annotations

import struct
from io import BytesIO

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage
from pynetdicom.dimse_messages import C_STORE_RQ, C_STORE_RSP, DIMSEMessage
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu import P_DATA_TF

from node.dimse import COMMAND, LAST, Malformed, Request, file_head, fragments, store_request, store_response

uids = st.from_regex(r"[1-9][0-9]{0,8}(\.[1-9][0-9]{0,8}){1,5}", fullmatch=True)
context_ids, message_ids = st.integers(0, 127).map(lambda n: 2 * n + 1), st.integers(0, 65535)
requests = st.builds(Request, context_ids, message_ids, uids, uids, st.just(True))
comments = st.text(st.characters(codec="ascii", exclude_categories=["Cc"], exclude_characters="\\"), max_size=90)


def sent(request: Request, data: bytes, pdu_length: int) -> list[bytes]:
    """A C-STORE request as pynetdicom sends it."""
    primitive = C_STORE()
    primitive.MessageID, primitive.Priority = request.message_id, 0
    primitive.AffectedSOPClassUID, primitive.AffectedSOPInstanceUID = request.sop_class_uid, request.sop_instance_uid
    primitive.DataSet = BytesIO(data)
    message = C_STORE_RQ()
    message.primitive_to_message(primitive)
    return [P_DATA_TF(part).encode() for part in message.encode_msg(request.context_id, pdu_length)]


@given(requests, st.binary(min_size=1, max_size=500), st.sampled_from([50, 117, 4096, 0]))
def test_a_request_is_read_as_it_was_sent_in_however_many_pieces(request: Request, data: bytes, pdu: int) -> None:
    command, data_set = bytearray(), bytearray()
    for part in sent(request, data, pdu):
        for fragment in fragments(memoryview(part)[6:]):
            assert fragment.context_id == request.context_id
            piece = command if fragment.control & COMMAND else data_set
            piece += fragment.data
    assert fragment.control == LAST
    assert store_request(request.context_id, bytes(command)) == request
    assert data_set == data


@given(requests, st.sampled_from([0x0000, 0xA700, 0x0122]), comments)
def test_a_response_is_understood(request: Request, status: int, comment: str) -> None:
    pdu = P_DATA_TF()
    pdu.decode(store_response(request, status, comment))
    message = DIMSEMessage()
    assert message.decode_msg(pdu.to_primitive())
    assert isinstance(message, C_STORE_RSP)
    assert message.command_set.CommandGroupLength == len(store_response(request, status, comment)) - 12 - 12
    response = message.message_to_primitive()
    assert (response.Status, response.MessageIDBeingRespondedTo) == (status, request.message_id)
    assert response.AffectedSOPInstanceUID == request.sop_instance_uid
    assert response.AffectedSOPClassUID == request.sop_class_uid
    assert (message.command_set.get("ErrorComment") or "").strip() == comment[:64].strip()


@given(st.binary(max_size=300))
def test_nonsense_is_malformed_or_no_c_store(data: bytes) -> None:
    for read in (lambda: fragments(memoryview(data)), lambda: store_request(1, data)):
        try:
            found = read()
        except Malformed:
            continue
        assert found is None or isinstance(found, list)


@pytest.mark.parametrize("uid", ["", "../../etc/passwd", "1.2.3/4", "1." * 40, "1.2\n"])
def test_a_request_that_names_no_uid_is_malformed(uid: str) -> None:
    value = uid.encode() + b"\0" * (len(uid) % 2)
    elements = {
        0x0002: MRImageStorage.encode() + b"\0", 0x0100: b"\1\0", 0x0110: b"\1\0", 0x0800: b"\1\0", 0x1000: value,
    }  # fmt: skip
    command = b"".join(struct.pack("<HHL", 0, tag, len(value)) + value for tag, value in elements.items())
    with pytest.raises(Malformed, match="names no UID"):
        store_request(1, command)


def test_the_head_of_a_file_is_file_meta_information() -> None:
    request = Request(1, 1, MRImageStorage, "1.2.3.45", has_data_set=True)
    head = file_head(request, ExplicitVRLittleEndian)
    meta = pydicom.dcmread(BytesIO(bytes(128) + head)).file_meta
    assert meta.MediaStorageSOPClassUID == MRImageStorage
    assert meta.MediaStorageSOPInstanceUID == "1.2.3.45"
    assert meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert meta.FileMetaInformationGroupLength == len(head) - 16
    assert meta.FileMetaInformationVersion == b"\0\1"
