"""Sending derived objects by STOW-RS, and what the answer means for each of them.

One POST holds a few objects; the response lists which of them were stored, with a warning or not, and which failed.
The library's own repetitions are switched off: the outbox repeats. Secrets are read when a link is opened and appear
in no sentence and no log. A request that waits for its answer cannot be cut short: it ends by its time limit.

References: PS3.18 section 10.5 (Store Transaction), Tables 10.5.3-1 (status codes) and I.1-1 (response).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import requests
from dicomweb_client.api import DICOMwebClient
from pydicom.dataset import Dataset

from node.deliver import Item, Outcome, Sent, Unreachable, judged, read
from node.peers import Login, Peer

CONNECT_S, ANSWER_S = 10.0, 60.0
AT_ONCE = 8
_ALL_STORED, _SOME_STORED, _NONE_STORED = 200, 202, 409
_CONTENT = {400, 413, 415, 422}
"""The objects are at fault, not server or credentials."""
_MEANING = {401: " (credentials refused)", 403: " (not authorised)", 202: " without naming this object"}
_NO_CHUNKS = 1 << 62
"""With a length: not every server takes chunks."""


class StowLink:
    """A session with a DICOMweb server: a `Link`.

    Parameters
    ----------
    peer
        Has a URL.

    Raises
    ------
    Unreachable
        A secret cannot be read.
    """

    at_once = AT_ONCE

    def __init__(self, peer: Peer) -> None:
        self.alive = True
        url = str(peer.url).rstrip("/")
        self._name = urlsplit(url).netloc
        try:
            self._session = _Session(peer)
        except (OSError, ValueError) as error:
            raise Unreachable(f"{self._name}: token or password cannot be read ({type(error).__name__})") from error
        limits = (CONNECT_S, ANSWER_S)
        self._client = DICOMwebClient(url, session=self._session, timeout=limits, chunk_size=_NO_CHUNKS)
        self._client.set_http_retry_params(retry=False)

    def send(self, items: Sequence[Item]) -> list[Sent]:
        """STOW objects in one request; an answer for each."""
        found = [read(item) for item in items]
        datasets = {
            item.sop_instance_uid: ds for item, ds in zip(items, found, strict=True) if isinstance(ds, Dataset)
        }
        answers = self._store(datasets) if datasets else {}
        return [
            ds if isinstance(ds, Sent) else answers[item.sop_instance_uid]
            for item, ds in zip(items, found, strict=True)
        ]

    def close(self) -> None:
        """Close the connections that wait for more."""
        self._session.close()

    cut = close

    def _store(self, datasets: Mapping[str, Dataset]) -> dict[str, Sent]:
        if not self.alive:
            return dict.fromkeys(datasets, Sent("lost", f"{self._name}: the connection ended"))
        try:
            response = self._post(list(datasets.values()))
        except Exception as error:
            self.alive = False
            return dict.fromkeys(datasets, Sent("lost", f"{self._name}: {_in_words(error)}"))
        status = response.status_code
        if status in {_ALL_STORED, _SOME_STORED, _NONE_STORED}:
            told = _told(response, self._name)
            default = Sent("stored") if status == _ALL_STORED else self._answer("later", status)
            return {uid: told.get(uid, default) for uid in datasets}
        if status in _CONTENT and len(datasets) > 1:  # one of them: Orthanc answers 400 for all
            return {uid: self._store({uid: ds})[uid] for uid, ds in datasets.items()}
        if status in _CONTENT:
            return dict.fromkeys(datasets, self._answer("refused", status))
        self.alive = False
        return dict.fromkeys(datasets, self._answer("lost", status))

    def _post(self, datasets: Sequence[Dataset]) -> requests.Response:
        """The response, whatever its status; the library reads it too, and may fail at it."""
        self._session.response = None
        try:
            self._client.store_instances(datasets)
        except Exception:
            if self._session.response is None:
                raise
        assert self._session.response is not None
        return self._session.response

    def _answer(self, outcome: Outcome, status: int) -> Sent:
        return Sent(outcome, f"{self._name} answered {status}{_MEANING.get(status, '')}")


class _Session(requests.Session):
    """Knows credentials and keeps the last response."""

    response: requests.Response | None

    def __init__(self, peer: Peer) -> None:
        super().__init__()
        self.headers["Accept"] = "application/dicom+json"
        self._authorities = str(peer.authorities) if peer.authorities else None
        login = peer.login or Login()
        if login.certificate and login.key:
            self.cert = (str(login.certificate), str(login.key))
        token, password = login.read()
        if token:
            self.auth = _Bearer(token)
        elif login.user:
            self.auth = (login.user, password)

    def post(self, url: str | bytes, data: Any = None, json: Any = None, **options: Any) -> requests.Response:
        """POST to there alone, without the Host header of dicomweb-client, which lacks the port.

        Authorities are named here: those of a session give way to what REQUESTS_CA_BUNDLE says.
        """
        options["headers"].pop("Host", None)
        options |= {"allow_redirects": False, "verify": self._authorities}
        self.response = super().post(url, data=data, json=json, **options)
        return self.response


class _Bearer(requests.auth.AuthBase):
    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def _told(response: requests.Response, who: str) -> dict[str, Sent]:
    """What the response says about single objects; nothing if it is not DICOM JSON."""
    try:
        ds = Dataset.from_json(response.json())
        stored = {
            str(i.ReferencedSOPInstanceUID): _reason(i, "WarningReason", 0)
            for i in ds.get("ReferencedSOPSequence", ())
        }
        failed = {
            str(i.ReferencedSOPInstanceUID): _reason(i, "FailureReason", 0x0110)
            for i in ds.get("FailedSOPSequence", ())
        }
    except Exception:  # pydicom raises nearly anything on nonsense
        return {}
    return {uid: judged(reason, who) for uid, reason in (stored | failed).items()}


def _reason(item: Dataset, keyword: str, default: int) -> int:
    """The status that is said of an object; the default where there is none, or what is no status."""
    reason = item.get(keyword)
    return reason if isinstance(reason, int) and 0 <= reason <= 0xFFFF else default


def _in_words(error: Exception) -> str:
    """Without the library's text, which quotes the request."""
    match error:
        case requests.exceptions.SSLError():
            return "TLS failed: certificate or protocol not accepted"
        case requests.exceptions.ConnectTimeout() | requests.exceptions.ConnectionError():
            return "no connection: nobody answers there, or it was closed"
        case requests.exceptions.Timeout():
            return "did not answer in time"
        case _:
            return f"the request failed ({type(error).__name__})"
