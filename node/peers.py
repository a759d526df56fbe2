"""What a site says of the systems that the node talks to: who they are, where they are, how each side is known.

Values that are checked; part of `node.config.Settings`.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator, SecretStr, model_validator


def _ae_title(value: str) -> str:
    title = value.strip()
    if not 1 <= len(title) <= 16 or not title.isascii() or not title.isprintable() or "\\" in title:
        raise ValueError("an AE title has 1 to 16 printable ASCII characters and no backslash")
    return title


def _network(value: Any) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(value)
    except ValueError as error:
        raise ValueError(f"an address or network like 10.1.0.0/16, no name: {error}") from None


def _has_port(parts: SplitResult) -> bool:
    """Whether a URL's port is one, or the usual."""
    try:
        return parts.port != 0
    except ValueError:
        return False


AETitle = Annotated[str, AfterValidator(_ae_title)]
Network = Annotated[ipaddress.IPv4Network | ipaddress.IPv6Network, PlainValidator(_network)]
Port = Annotated[int, Field(ge=1, le=65535)]


class Tls(BaseModel):
    """The node's certificate and whose certificates it trusts, all PEM; with a port it listens with TLS too."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    certificate: Path = Field(description="of the node, followed by those between it and its root")
    key: Path = Field(description="of the certificate, without passphrase; only its owner may change it")
    authorities: Path = Field(description="who vouches for peers, or certificates of peers; with revocation lists")
    host: str | None = Field(default=None, description="address to listen on; default: as without TLS")
    port: int | None = Field(default=None, ge=0, le=65535, description="2762 by custom; 0 takes any free port")


class Login(BaseModel):
    """How the node shows a DICOMweb server who it is: bearer token, or user and password; or a certificate."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    token: SecretStr = SecretStr("")
    token_file: Path | None = None
    user: str = ""
    password: SecretStr = SecretStr("")
    password_file: Path | None = None
    certificate: Path | None = Field(default=None, description="PEM, for mutual TLS")
    key: Path | None = Field(default=None, description="PEM, of the certificate")

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        tokens = bool(self.token.get_secret_value()) + bool(self.token_file)
        passwords = bool(self.password.get_secret_value()) + bool(self.password_file)
        if tokens + passwords > 1:
            raise ValueError("give one of token, token_file, password and password_file")
        if bool(self.user) != bool(passwords):
            raise ValueError("user and password (or password_file) come together")
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key come together")
        return self

    def read(self) -> tuple[str, str]:
        """Token and password, from their files where these are named.

        Raises
        ------
        OSError
            A file cannot be read.
        """
        token, password = (
            file.read_text("utf-8").strip() if file else value.get_secret_value()
            for value, file in ((self.token, self.token_file), (self.password, self.password_file))
        )
        return token, password


class Peer(BaseModel):
    """A DICOM system that the node knows: heard by its AE title, sent to at host and port or by DICOMweb."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ae_title: AETitle = Field(default="", description="what sends by DICOM, or is sent to, has one")
    host: str | None = Field(default=None, min_length=1)
    port: Port | None = None
    url: str | None = Field(default=None, description="of DICOMweb: what stands before /studies")
    login: Login | None = None
    authorities: Path | None = Field(default=None, description="who vouches for its certificate; default: the usual")
    associations: int = Field(default=4, ge=1, le=32, description="how many are opened to it at a time")
    commitment: bool = Field(default=False, description="ask it to commit what it was sent")
    fetch: bool = Field(default=False, description="ask it for images that lack (C-FIND), and to send them (C-MOVE)")
    addresses: tuple[Network, ...] = Field(default=(), description="where it calls from; empty: from anywhere")
    tls: bool = Field(default=False, description="it is heard and sent to over TLS alone")
    certified_as: str | None = Field(
        default=None, min_length=1, description="name in its certificate; default: any, and host where it is sent to"
    )

    @model_validator(mode="after")
    def _host_and_port(self) -> Self:
        if (self.host is None) != (self.port is None):
            raise ValueError("host and port come together: give both, or neither for a peer that only sends")
        if self.certified_as and not self.tls:
            raise ValueError("certified_as is checked over TLS alone: add tls = true")
        if self.commitment and not self.host:
            raise ValueError("commitment needs host and port: it is asked for by DICOM, not by DICOMweb")
        if self.fetch and not self.host:
            raise ValueError("fetch needs host and port: images are asked for by DICOM, not by DICOMweb")
        return self

    @model_validator(mode="after")
    def _url(self) -> Self:
        if self.url is None:
            if not self.ae_title:
                raise ValueError("has neither ae_title nor url")
            if self.login or self.authorities:
                raise ValueError("login and authorities belong to a url")
            return self
        parts = urlsplit(self.url)
        written = self.url.startswith(("http://", "https://"))  # in small letters: the client takes no others
        if not written or not parts.hostname or not _has_port(parts) or parts.username or parts.query:
            raise ValueError("url is https://host/path, without user, password or query")
        if self.host:
            raise ValueError("give host and port, or url")
        local = parts.hostname in {"localhost", "127.0.0.1", "::1"}
        if self.login and parts.scheme != "https" and not local:
            raise ValueError("login is sent over https alone")
        return self

    def may_call_from(self, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
        """Whether this peer may call from there."""
        return not self.addresses or any(address in network for network in self.addresses)

    @property
    def reachable(self) -> bool:
        """Whether the node can send to this peer."""
        return self.host is not None or self.url is not None
