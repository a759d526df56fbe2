"""Settings: sources in their order, and mistakes told in the words of the person who made them."""

from __future__ import annotations

import typing
from ipaddress import ip_address
from pathlib import Path

import pytest

from node.config import RECIPE_NAMES, ConfigError, load
from node.site import Site
from node.vendors.stated import Stated

GOOD = """
ae_title = "QSM1"
port = 4242
quiet_s = 30

[peers.pacs]
ae_title = "PACS"
host = "10.0.0.1"
port = 104

[peers.archive]
ae_title = "ARCHIVE"
host = "10.0.0.2"
port = 104
"""


@pytest.fixture
def toml(tmp_path: Path) -> typing.Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "node.toml"
        path.write_text(text)
        return path

    return write


Toml = typing.Callable[[str], Path]


def test_defaults_are_safe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "/data-home")
    settings = load()
    assert (settings.ae_title, settings.host, settings.port) == ("QSMNODE", "127.0.0.1", 11112)
    assert (settings.quiet_s, settings.peers, settings.data_dir) == (60.0, {}, Path("/data-home/qsm-node"))


def test_file_then_environment(toml: Toml, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QSM_NODE_PORT", "11113")
    monkeypatch.setenv("QSM_NODE_PEERS__PACS__HOST", "10.9.9.9")
    settings = load(toml(GOOD))
    assert (settings.ae_title, settings.port, settings.quiet_s) == ("QSM1", 11113, 30.0)
    assert (settings.peers["pacs"].host, settings.peers["pacs"].port) == ("10.9.9.9", 104)


def test_a_site_states_the_sign_of_a_scanner(toml: Toml, monkeypatch: pytest.MonkeyPatch) -> None:
    uih = '[scanners.uih]\nmanufacturer = "UIH"\nphase_sign = -1\nphase_turn = 8192\n'
    monkeypatch.setenv("QSM_NODE_SCANNERS__UIH__CHOPPER", "true")
    monkeypatch.setenv("QSM_NODE_MIN_ECHOES", "3")
    site = load(toml(GOOD + uih)).site
    assert site == Site((Stated("UIH", -1, 8192.0, chopper=True),), min_echoes=3)
    convention = site.convention_of("uih healthcare")
    assert convention is not None
    assert (convention.phase_sign, convention.stated) == (-1, True)
    monkeypatch.setenv("QSM_NODE_SCANNERS__UIH__PHASE_SIGN", "2")
    with pytest.raises(ConfigError, match=r"scanners.uih.phase_sign: must be 1 or -1"):
        load(toml(GOOD + uih))


def test_a_variable_that_no_setting_reads_is_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QSM_NODE_QUIET", "30")
    with pytest.raises(ConfigError, match="QSM_NODE_QUIET: there is no such setting"):
        load()


def test_a_list_in_a_variable_is_json(toml: Toml, monkeypatch: pytest.MonkeyPatch) -> None:
    path = toml('[peers.pacs]\nae_title = "PACS"\nhost = "h"\nport = 104')
    monkeypatch.setenv("QSM_NODE_DELIVER_TO", '["pacs"]')
    assert load(path).deliver_to == ("pacs",)
    for variable, field in (("DELIVER_TO", "DELIVER_TO"), ("PEERS__PACS__ADDRESSES", "PEERS")):
        monkeypatch.setenv(f"QSM_NODE_{variable}", "pacs, archive")
        with pytest.raises(
            ConfigError, match=rf'^QSM_NODE_{field}: a list in a variable is JSON, such as \["pacs"\]$'
        ):
            load(path)
        monkeypatch.delenv(f"QSM_NODE_{variable}")


def test_results_go_back_to_the_sender_or_where_the_site_says(toml: Toml) -> None:
    settings = load(toml(GOOD))
    assert settings.destinations(frozenset({"PACS"})) == ("pacs",)
    assert settings.destinations(frozenset({"PACS", "ARCHIVE"})) == ("archive", "pacs")
    assert settings.destinations(frozenset({"GONE"})) == ()
    told = load(toml('deliver_to = ["archive"]\n' + GOOD))
    assert told.destinations(frozenset({"PACS"})) == ("archive",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("quiet_s = -1", "quiet_s: must be greater than 0 (it is -1)"),
        ("quiet = 60", "quiet: there is no such setting"),
        ("port = 70000", "port: must be less than or equal to 65535 (it is 70000)"),
        ('ae_title = "A TITLE THAT IS TOO LONG"', "ae_title: an AE title has 1 to 16 printable ASCII characters"),
        ("[peers.x]\nhost = 'h'\nport = 1", "peers.x: has neither ae_title nor url"),
        ("[peers.x]\nae_title = 'X'\nhost = 'h'", "peers.x: host and port come together"),
        ("[peers.x]\nae_title = 'X'", "peers.x: has no host and port, so its results have nowhere to go"),
        ("[peers.x]\nae_title = 'X'\ncommitment = true", "peers.x: commitment needs host and port"),
        ("[peers.x]\nurl = 'ftp://h'", "peers.x: url is https://host/path, without user, password or query"),
        ("[peers.x]\nurl = 'HTTPS://h'", "peers.x: url is https://host/path, without user, password or query"),
        ("[peers.x]\nurl = 'https://h:99999'", "peers.x: url is https://host/path, without user, password or query"),
        ("[peers.x]\nurl = 'https://u:secret@h'", "peers.x: url is https://host/path, without user"),
        ("[peers.x]\nurl = 'https://h?token=secret'", "peers.x: url is https://host/path, without user"),
        ("[peers.x]\nurl = 'https://h'\nhost = 'h'\nport = 1", "peers.x: give host and port, or url"),
        ("[peers.x]\nurl = 'http://h'\nlogin.token = 'secret'", "peers.x: login is sent over https alone"),
        ("[peers.x]\nurl = 'https://h'\nlogin.token = ['secret']", "peers.x.login.token: must be"),
        ("[peers.x]\nurl = 'https://h'\nlogin = {token='secret', password='secret'}", "peers.x.login: give one of"),
        ("[peers.x]\nurl = 'https://h'\nlogin = {user='u'}", "peers.x.login: user and password"),
        ("[peers.x]\nurl = 'https://h'\nlogin = {certificate='c'}", "peers.x.login: certificate and key"),
        ("[peers.x]\nae_title = 'X'\nlogin = {token='secret'}", "peers.x: login and authorities belong to a url"),
        ("[peers.x]\nae_title = 'X'\nhost = 'h'\nport = 1\nprot = 2", "peers.x.prot: there is no such setting"),
        ("[peers.x]\nae_title = 'QSMHEALTH'\nhost = 'h'\nport = 1", "QSMHEALTH belongs to the health check"),
        ('deliver_to = ["pax"]\n' + GOOD, "deliver_to: there is no peer 'pax' (known peers: pacs, archive)"),
        (GOOD.replace("ARCHIVE", "PACS"), "AE title PACS is used by more than one peer"),
        ('ae_title = "A', "not valid TOML"),
    ],
)
def test_a_mistake_is_named(toml: Toml, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(toml(text))
    assert message in str(error.value)
    assert "secret" not in str(error.value)


def test_every_mistake_is_told_at_once(toml: Toml) -> None:
    with pytest.raises(ConfigError) as error:
        load(toml("quiet_s = 0\nthreads = -1\nnonsense = 1"))
    assert len(str(error.value).splitlines()) == 3


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such file"):
        load(tmp_path / "none.toml")


def test_the_names_of_recipes_are_those_that_exist() -> None:
    from recon.recipe import RECIPES  # noqa: PLC0415  brings numba along

    assert set(RECIPE_NAMES) == set(RECIPES)


def test_a_secret_comes_from_the_environment_or_a_file_and_is_not_shown(
    toml: Toml, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QSM_NODE_PEERS__WEB__LOGIN__TOKEN", "s3cret")
    web = load(toml("[peers.web]\nurl = 'https://h/dicom-web'")).peers["web"]
    assert web.login is not None
    assert web.login.read() == ("s3cret", "")
    assert "s3cret" not in repr(web)
    monkeypatch.delenv("QSM_NODE_PEERS__WEB__LOGIN__TOKEN")
    (tmp_path / "password").write_text("from-file\n")
    login = f"login = {{user = 'u', password_file = '{tmp_path / 'password'}'}}"
    web = load(toml(f"[peers.web]\nurl = 'https://h/dicom-web'\n{login}")).peers["web"]
    assert web.login is not None
    assert web.login.read() == ("", "from-file")
    assert load(toml("[peers.web]\nurl = 'https://h'")).peer_named_by_title("") is None


TLS = """
[tls]
certificate = "node.pem"
key = "node.key"
authorities = "hospital.pem"
port = 2762
"""


def test_tls_and_addresses(toml: Toml, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QSM_NODE_TLS__KEY", "/run/secrets/key")
    peer = '[peers.mr]\nae_title = "MR1"\nhost = "mr1"\nport = 104\ntls = true\ncertified_as = "mr1.example"\n'
    settings = load(toml(peer + 'addresses = ["10.1.0.0/16", "2001:db8::7"]\n' + TLS))
    assert settings.tls is not None
    assert (settings.tls.key, settings.tls.port, settings.tls.host) == (Path("/run/secrets/key"), 2762, None)
    assert settings.peers["mr"].may_call_from(ip_address("10.1.9.9"))
    assert settings.peers["mr"].may_call_from(ip_address("2001:db8::7"))
    assert not settings.peers["mr"].may_call_from(ip_address("10.2.9.9"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + "tls = true\n", r"peers.archive: tls = true needs \[tls\] with certificate, key and authorities"),
        (GOOD + 'certified_as = "mr1"\n', "peers.archive: certified_as is checked over TLS alone"),
        (
            GOOD + 'addresses = ["10.0.0.1/8"]\n',
            "peers.archive.addresses.0: .*has host bits set",
        ),
        (
            GOOD + 'addresses = ["mr1.example"]\n',
            "peers.archive.addresses.0: an address or network like 10.1.0.0/16, no name",
        ),
        (TLS.replace('key = "node.key"', ""), "tls.key: is missing"),
        (TLS + "versions = 3\n", "tls.versions: there is no such setting"),
        ('ignored = "drop"', "ignored: must be 'accept', 'reject-context' or 'refuse'"),
    ],
)
def test_mistakes_about_access(toml: Toml, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(toml(text))
