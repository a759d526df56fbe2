"""Asking a PACS what it has of a study, and having it send images: C-FIND and C-MOVE over one association.

Only UIDs, counts and what wrote a series are asked for and looked at. Knows no journal and decides nothing about what
is worth asking.

References: PS3.4 Annex C (Query/Retrieve): C.4.1 (C-FIND), C.4.2 (C-MOVE), C.6.2 (Study Root model).
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import UID

from node.association import cut
from node.deliver import associate
from node.errors import TransientError
from node.identity import PRODUCT, is_uid
from node.peers import Peer
from node.vendors.convention import number, text

FIND, MOVE = UID("1.2.840.10008.5.1.4.1.2.2.1"), UID("1.2.840.10008.5.1.4.1.2.2.2")
"""Study Root Query/Retrieve Information Model."""

AT_ONCE = 100
"""Images that are named in one C-MOVE: their UIDs are at most 6.5 kB."""
MOST_ANSWERS = 20_000
"""More than any series has images: a peer that goes on answering is not listened to."""
_TIMEOUT_S = 60.0

_SUCCESS, _PENDING, _SOME_FAILED = 0x0000, {0xFF00, 0xFF01}, 0xB000
_MEANING = {
    0xA701: "it cannot count what matches",
    0xA702: "it cannot send",
    0xA801: "it does not know the node's AE title as a destination",
    0xA900: "it does not support what was asked",
    0x0122: "it does not support this",
}


class Unanswered(TransientError):
    """The peer did not answer what was asked; the message says how."""


@dataclass(frozen=True, slots=True)
class Moved:
    """How many images a peer says that it sent, and could not send; and what it answered, empty after Success."""

    sent: int
    failed: int
    problem: str = ""


class Query:
    """An association for C-FIND and C-MOVE, open from the start.

    Parameters
    ----------
    peer
        Has host and port.
    calling
        Our AE title: who asks, and where images are to go.
    tls
        The node's credentials, for a peer that is sent to over TLS.

    Raises
    ------
    Unreachable
        There is no association; the message says why.
    """

    def __init__(self, peer: Peer, calling: str, tls: ssl.SSLContext | None = None) -> None:
        self._title, self._calling = peer.ae_title, calling
        self._assoc = associate(peer, calling, [FIND, MOVE], _TIMEOUT_S, tls=tls)

    def series(self, study_uid: str) -> dict[str, int]:
        """The MR series of a study, without the node's own: UID, and number of images, 0 where the peer does not say.

        Its own are seen where the peer tells ManufacturerModelName, as it may (PS3.4 C.6.1.1.4, optional keys).

        Raises
        ------
        Unanswered
            The peer gives no list.
        """
        wanted = _identifier("SERIES", study_uid)
        wanted.Modality = wanted.SeriesInstanceUID = wanted.ManufacturerModelName = ""
        wanted.NumberOfSeriesRelatedInstances = None
        found = {}
        for one in self._find(wanted):
            uid = text(one, "SeriesInstanceUID")
            if is_uid(uid) and text(one, "Modality") in {"MR", ""} and text(one, "ManufacturerModelName") != PRODUCT:
                found[uid] = int(number(one, "NumberOfSeriesRelatedInstances") or 0)
        return found

    def images(self, study_uid: str, series_uid: str) -> set[str]:
        """SOP instance UIDs of a series.

        Raises
        ------
        Unanswered
            The peer gives no list.
        """
        wanted = _identifier("IMAGE", study_uid, series_uid)
        wanted.SOPInstanceUID = ""
        return {uid for one in self._find(wanted) if is_uid(uid := text(one, "SOPInstanceUID"))}

    def move(self, study_uid: str, series_uid: str, sop_instance_uids: Sequence[str] = ()) -> Moved:
        """Have the peer send images of a series to the node, or all of them.

        Raises
        ------
        Unanswered
            The peer did not answer.
        """
        if not sop_instance_uids:
            return self._move(_identifier("SERIES", study_uid, series_uid))
        moved = []
        for start in range(0, len(sop_instance_uids), AT_ONCE):
            wanted = _identifier("IMAGE", study_uid, series_uid)
            wanted.SOPInstanceUID = list(sop_instance_uids[start : start + AT_ONCE])
            moved.append(self._move(wanted))
        problem = next((m.problem for m in moved if m.problem), "")
        return Moved(sum(m.sent for m in moved), sum(m.failed for m in moved), problem)

    def close(self) -> None:
        """Release the association."""
        if self._assoc.is_established:
            self._assoc.release()

    def abort(self) -> None:
        """End the association as it is."""
        if self._assoc.is_established:
            self._assoc.abort()

    def cut(self) -> None:
        """Close the connection under the association, from any thread: what waits for an answer gets none."""
        cut(self._assoc)

    def _find(self, wanted: Dataset) -> Iterator[Dataset]:
        for status, found in self._answers("find", wanted):
            if status.Status not in _PENDING:
                if status.Status != _SUCCESS:
                    raise Unanswered(self._said(status.Status, "C-FIND", wanted))
            elif found is not None:
                yield found

    def _move(self, wanted: Dataset) -> Moved:
        *_, (last, _) = self._answers("move", wanted)
        sent, failed, warned = (
            int(number(last, f"NumberOf{kind}Suboperations") or 0) for kind in ("Completed", "Failed", "Warning")
        )
        problem = "" if last.Status in {_SUCCESS, _SOME_FAILED} else self._said(last.Status, "C-MOVE", wanted)
        return Moved(sent + warned, failed, problem)

    def _answers(self, what: str, wanted: Dataset) -> Iterator[tuple[Dataset, Dataset | None]]:
        """Statuses and identifiers, the last one final."""
        verb = f"C-{what.upper()}"
        try:
            more: Any = (
                self._assoc.send_c_find(wanted, FIND)
                if what == "find"
                else self._assoc.send_c_move(wanted, self._calling, MOVE)
            )
            for count, (status, found) in enumerate(more):
                if "Status" not in status:
                    raise Unanswered(f"{self._title} ended the association or did not answer {verb} in time")
                if count > MOST_ANSWERS:
                    self.cut()
                    raise Unanswered(f"{self._title} gave more than {MOST_ANSWERS} answers to {verb}")
                yield status, found
        except ValueError as error:
            raise Unanswered(f"{self._title} does not accept {verb}") from error
        except RuntimeError as error:
            raise Unanswered(f"{self._title} ended the association") from error

    def _said(self, status: int, verb: str, wanted: Dataset) -> str:
        meaning = f" ({_MEANING[status]})" if status in _MEANING else ""
        return f"{self._title} answered 0x{status:04X}{meaning} to {verb} of level {wanted.QueryRetrieveLevel}"


def _identifier(level: str, study_uid: str, series_uid: str = "") -> Dataset:
    wanted = Dataset()
    wanted.QueryRetrieveLevel, wanted.StudyInstanceUID = level, study_uid
    if series_uid:
        wanted.SeriesInstanceUID = series_uid
    return wanted
