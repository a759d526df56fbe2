"""Settings of the node: a TOML file, overridden by environment variables ``QSM_NODE_*``.

A nested value is reached with two underscores: ``QSM_NODE_PEERS__PACS__PORT=104``. Knows no DICOM and opens
nothing but the file that it is given.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from node.errors import PermanentError
from node.peers import AETitle, Peer, Tls
from node.site import Site
from node.vendors.stated import Stated

RECIPE_NAMES = ("default", "fast", "medi")
"""The keys of `recon.recipe.RECIPES`, which brings numba along."""

HEALTH_AE_TITLE = "QSMHEALTH"
"""Calling AE title of the health check: heard from this machine alone, and only for C-ECHO."""

_PREFIX = "QSM_NODE_"
_OTHER_VARIABLES = {
    f"{_PREFIX}{name}" for name in ("CONFIG", "DATA", "FUZZ", "FUZZ_PDUS", "KILLS", "SOAK", "WORKER_KILLS")
}
"""Of the command line and of the tests."""


class ConfigError(PermanentError):
    """A setting is wrong; the message says which, what it was and what it may be."""


class Scanner(BaseModel):
    """Sign and scale of the phase images of one manufacturer, see `node.vendors.stated`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    manufacturer: str = Field(min_length=2)
    phase_sign: Annotated[Literal[1, -1], BeforeValidator(int)]
    phase_turn: float = Field(gt=0, allow_inf_nan=False)
    chopper: bool | None = None


def _default_data_dir() -> Path:
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "qsm-node"


class Settings(BaseSettings):
    """Everything that a site decides."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True)

    ae_title: AETitle = "QSMNODE"
    host: str = Field(default="127.0.0.1", description="address to listen on; 0.0.0.0 for every interface")
    port: int = Field(default=11112, ge=0, le=65535, description="0 takes any free port")
    tls: Tls | None = None
    also_called: tuple[AETitle, ...] = Field(default=(), description="other AE titles that the node answers to")
    data_dir: Path = Field(default_factory=_default_data_dir, description="spool, journal, results, caches")
    peers: dict[str, Peer] = Field(default={}, description="who may send; other AE titles are refused")
    ignored: Literal["accept", "reject-context", "refuse"] = Field(
        default="accept",
        description="objects that are of no use here: answered Success, not negotiated, or answered 0x0122",
    )
    deliver_to: tuple[str, ...] = Field(
        default=(), description="names of peers that get every result; empty: back to the sender"
    )
    scanners: dict[str, Scanner] = Field(
        default={}, description="sign and scale of phase images where they are not known, or differ here"
    )
    min_echoes: int = Field(default=1, ge=1, description="acquisitions of fewer echoes are refused")
    quiet_s: float = Field(
        default=60.0, gt=0, le=86400, description="an acquisition is judged after so long without a new image"
    )
    recipe: str = Field(default="default", description="default, fast, medi, or a TOML file that says more")
    segmentation: bool = Field(default=False, description="deliver the brain mask too, as DICOM Segmentation")
    parametric_map: bool = Field(
        default=False, description="deliver QSM too as float Parametric Map, an archival copy"
    )
    notice_after_min: float = Field(
        default=0.0, ge=0, le=720,
        description="a study without QSM gets one page that says why, so long after its last image; 0: never",
    )  # fmt: skip
    withhold_contradictions: bool = Field(
        default=True, description="a map that the sign check contradicts is not delivered; false: it is, marked"
    )
    threads: int = Field(default=0, ge=0, le=1024, description="of the reconstruction; 0: all cores")
    min_free_gb: float = Field(default=1.0, ge=0, description="less free disk than this: images are refused")
    keep_days: float = Field(
        default=7.0, ge=0, description="images and results are deleted so long after all was delivered or refused"
    )
    keep_gb: float | None = Field(
        default=None, gt=0, description="above this the oldest go before; default: half of the disk"
    )
    give_up_hours: float = Field(default=72.0, gt=0, description="a delivery that failed for so long is given up")

    @model_validator(mode="after")
    def _peers_fit_together(self) -> Self:
        titles = [peer.ae_title for peer in self.peers.values()]
        for name, peer in self.peers.items():
            if peer.ae_title and titles.count(peer.ae_title) > 1:
                raise ValueError(f"peers.{name}: AE title {peer.ae_title} is used by more than one peer")
            if peer.ae_title == HEALTH_AE_TITLE:
                raise ValueError(f"peers.{name}: AE title {HEALTH_AE_TITLE} belongs to the health check")
            if peer.tls and self.tls is None:
                raise ValueError(f"peers.{name}: tls = true needs [tls] with certificate, key and authorities")
            if not self.deliver_to and not peer.reachable:
                raise ValueError(
                    f"peers.{name}: has no host and port, so its results have nowhere to go: "
                    "add both (or url), or name a destination in deliver_to"
                )
        for name in self.deliver_to:
            if name not in self.peers:
                known = ", ".join(self.peers) or "none"
                raise ValueError(f"deliver_to: there is no peer {name!r} (known peers: {known})")
            if not self.peers[name].reachable:
                raise ValueError(f"deliver_to: peer {name!r} has no host and port, and no url")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then the environment, then the TOML file."""
        del dotenv_settings, file_secret_settings
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

    @property
    def called_titles(self) -> tuple[str, ...]:
        """AE titles that the node answers to."""
        return (self.ae_title, *self.also_called)

    @property
    def site(self) -> Site:
        """What a reconstruction needs to know."""
        stated = (Stated(s.manufacturer, s.phase_sign, s.phase_turn, s.chopper) for s in self.scanners.values())
        return Site(tuple(stated), self.min_echoes, self.withhold_contradictions)

    @property
    def asked(self) -> tuple[str, ...]:
        """Names of the peers that are asked for commitment."""
        return tuple(name for name, peer in self.peers.items() if peer.commitment)

    @property
    def fetched_from(self) -> tuple[str, ...]:
        """Names of the peers that are asked for images that lack."""
        return tuple(name for name, peer in self.peers.items() if peer.fetch)

    def peer_named_by_title(self, ae_title: str) -> str | None:
        """Name of the peer with this AE title."""
        return next((name for name, p in self.peers.items() if ae_title and p.ae_title == ae_title), None)

    def destinations(self, senders: frozenset[str]) -> tuple[str, ...]:
        """Names of the peers that get what was derived from images of these AE titles."""
        if self.deliver_to:
            return self.deliver_to
        names = (self.peer_named_by_title(title) for title in sorted(senders))
        return tuple(name for name in names if name is not None and self.peers[name].reachable)


def load(path: Path | None = None) -> Settings:
    """Settings from a TOML file (or from defaults) and the environment.

    Raises
    ------
    ConfigError
        The file cannot be read, or a setting is unknown or wrong.
    """

    class FromFile(Settings):
        model_config = SettingsConfigDict(toml_file=path)

    if path is not None and not path.is_file():
        raise ConfigError(f"{path}: there is no such file")
    _check_environment()
    try:
        return FromFile()
    except ValidationError as error:
        raise ConfigError("\n".join(_in_words(item) for item in error.errors())) from None
    except SettingsError as error:  # says 'error parsing value for field "peers"'; its cause would quote the value
        field = str(error).partition('"')[2].partition('"')[0].upper()
        raise ConfigError(f'{_PREFIX}{field}: a list in a variable is JSON, such as ["pacs"]') from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None


def _check_environment() -> None:
    """A variable of ours that no setting reads is a slip of the pen: what it should change would stay as it was."""
    known = {f"{_PREFIX}{name.upper()}" for name in Settings.model_fields} | _OTHER_VARIABLES
    for variable in sorted(os.environ):
        if variable.startswith(_PREFIX) and variable.split("__")[0] not in known:
            raise ConfigError(f"{variable}: there is no such setting")


def _in_words(item: Any) -> str:
    place = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        return f"{place}: there is no such setting"
    if item["type"] == "missing":
        return f"{place}: is missing"
    message = item["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    if not place or isinstance(item["input"], dict) or "login" in item["loc"]:  # may hold a secret
        return f"{place}: {message}" if place else str(message)
    return f"{place}: {message} (it is {item['input']!r})"
