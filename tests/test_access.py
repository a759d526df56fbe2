"""Who is heard: the decision as a table; over real connections it is tested in test_receive.py and test_tls.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.access import MAXIMUM_ASSOCIATIONS, MAXIMUM_OF_PEER, Line, denial, is_local
from node.config import HEALTH_AE_TITLE, Settings
from node.peers import Peer, Tls

CALLING, CALLED, BUSY = (1, 1, 3), (1, 1, 7), (2, 3, 2)
FILES = Tls(certificate=Path("a"), key=Path("b"), authorities=Path("c"))
PEERS = {
    "anywhere": {"ae_title": "ANYWHERE"},
    "tied": {"ae_title": "TIED", "addresses": ["10.1.0.0/16", "192.168.7.9", "2001:db8::/32"]},
    "tls": {"ae_title": "TLS", "tls": True},
    "certified": {"ae_title": "CERTIFIED", "tls": True, "certified_as": "MR1.example"},
}
SETTINGS = Settings(
    tls=FILES, also_called=("OLDNAME",),
    peers={name: Peer(host="pacs", port=104, **peer) for name, peer in PEERS.items()},  # type: ignore[arg-type]
)  # fmt: skip


def answer(
    calling: str, address: str = "10.1.2.3", called: str = "QSMNODE", names: set[str] | None = None, own: str = ""
) -> tuple[int, int, int] | None:
    line = Line(address, own, None if names is None else frozenset(names))
    refused = denial(calling, called, line, SETTINGS, [])
    return refused.answer if refused else None


def test_without_peers_nobody_is_heard() -> None:
    refused = denial("ANYWHERE", "QSMNODE", Line("127.0.0.1"), Settings(), [])
    assert refused is not None
    assert refused.answer == CALLING


def test_titles() -> None:
    assert answer("ANYWHERE") is None
    assert answer("STRANGER") == CALLING
    assert answer("anywhere") == CALLING
    assert answer("ANYWHERE", called="OTHER") == CALLED
    assert answer("STRANGER", called="OTHER") == CALLED
    assert answer("ANYWHERE", called="OLDNAME") is None


@pytest.mark.parametrize(
    ("address", "heard"),
    [
        ("10.1.255.255", True),
        ("10.2.0.0", False),
        ("192.168.7.9", True),
        ("192.168.7.10", False),
        ("::ffff:10.1.2.3", True),  # IPv4 on a socket that listens on ::
        ("::ffff:10.2.0.0", False),
        ("2001:db8::7", True),
        ("2001:db9::7", False),
        ("fe80::1%2", False),
        ("127.0.0.1", False),
    ],
)
def test_addresses(address: str, heard: bool) -> None:
    assert answer("TIED", address) == (None if heard else CALLING)
    assert answer("ANYWHERE", address) is None


def test_tls_and_certificates() -> None:
    assert answer("TLS") == CALLING
    assert answer("TLS", names=set()) is None
    assert answer("CERTIFIED") == CALLING
    assert answer("CERTIFIED", names={"mr2.example"}) == CALLING
    assert answer("CERTIFIED", names={"mr1.example", "other"}) is None
    assert answer("ANYWHERE", names={"other"}) is None


def test_the_health_check_comes_from_this_machine() -> None:
    assert answer(HEALTH_AE_TITLE, "127.0.0.1") is None
    assert answer(HEALTH_AE_TITLE, "10.0.0.7", own="10.0.0.7") is None
    assert answer(HEALTH_AE_TITLE, "10.0.0.8", own="10.0.0.7") == CALLING
    crowd = ["ANYWHERE"] * (MAXIMUM_ASSOCIATIONS + 1)
    assert denial(HEALTH_AE_TITLE, "QSMNODE", Line("::1"), SETTINGS, crowd) is None


def test_limits() -> None:
    def refused(*open_now: str) -> tuple[int, int, int] | None:
        found = denial("ANYWHERE", "QSMNODE", Line("10.0.0.1"), SETTINGS, open_now)
        return found.answer if found else None

    assert refused(*["ANYWHERE"] * (MAXIMUM_OF_PEER - 1)) is None
    assert refused(*["ANYWHERE"] * MAXIMUM_OF_PEER) == BUSY
    assert refused(*["TLS"] * MAXIMUM_OF_PEER) is None
    assert refused(*[f"PEER{n}" for n in range(MAXIMUM_ASSOCIATIONS)]) == BUSY


def test_reasons_name_what_the_site_configured_and_not_what_a_stranger_says() -> None:
    for calling, called in (("DOE^JANE", "QSMNODE"), ("ANYWHERE", "DOE^JANE")):
        refused = denial(calling, called, Line("10.0.0.1"), SETTINGS, [])
        assert refused is not None
        assert "DOE" not in refused.reason


@pytest.mark.parametrize(
    ("remote", "own", "local"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.8.8.8", "127.0.0.1", True),
        ("::ffff:127.8.8.8", "::1", True),
        ("::1", "::1", True),
        ("10.0.0.7", "10.0.0.7", True),
        ("10.0.0.8", "10.0.0.7", False),
        ("2001:db8::8", "2001:db8::7", False),
    ],
)
def test_who_is_on_this_machine(remote: str, own: str, local: bool) -> None:
    assert is_local(remote, own) is local
