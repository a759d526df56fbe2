"""Reading a TOML file that a site wrote."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from node.errors import PermanentError


def read_toml(path: Path, wrong: type[PermanentError]) -> dict[str, Any]:
    """The values of a TOML file.

    Raises
    ------
    PermanentError
        ``wrong``, if the file cannot be read or is no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise wrong(f"{path}: not valid TOML: {error}") from None
    except OSError as error:
        raise wrong(f"{path}: {error.strerror}") from None
