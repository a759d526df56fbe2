"""How a phantom is scanned, from a TOML file that a site writes."""

from __future__ import annotations

import tomllib
from dataclasses import asdict
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from node.errors import PermanentError
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
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        return TypeAdapter(Protocol).validate_python(asdict(base) | values, extra="forbid")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ProtocolError(f"{path}: not valid TOML: {error}") from None
    except OSError as error:
        raise ProtocolError(f"{path}: {error.strerror}") from None
    except BadInput as error:
        raise ProtocolError(f"{path}: {error}") from None
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ProtocolError(f"{path}: {problems}") from None
