"""How a phantom is scanned, from a TOML file that a site writes."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from node.errors import PermanentError
from node.tomlfile import read_toml
from phantoms.protocol import Protocol
from recon.types import BadInput


class ProtocolError(PermanentError):
    """The file of a protocol cannot be used."""


def protocol_from(path: Path, base: Protocol) -> Protocol:
    """The protocol of a TOML file; what it does not say is as in ``base``.

    Its keys are the fields of `phantoms.protocol.Protocol`; ``bipolar``, ``flow`` and ``motion`` are tables.

    Raises
    ------
    ProtocolError
        If the file cannot be read, or says what a protocol does not have.
    """
    try:
        values = asdict(base) | read_toml(path, ProtocolError)
        return TypeAdapter(Protocol).validate_python(values, extra="forbid")
    except BadInput as error:
        raise ProtocolError(f"{path}: {error}") from None
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ProtocolError(f"{path}: {problems}") from None
