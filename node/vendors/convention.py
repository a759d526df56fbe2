"""What a vendor's convention consists of, and the reading of tags that all vendors share.

A `Convention` says how one manufacturer marks, scales and signs complex gradient-echo images. Everything here
works on one classic image (an enhanced frame is flattened to one first, see `node.multiframe`); nothing here
knows of series, files or other images.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, NamedTuple

from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag
from pydicom.valuerep import VR

from node.errors import Refusal, Refused

Component = Literal["M", "P", "R", "I", "?"]
"""Magnitude, phase, real, imaginary; `?` where the image does not say."""

COMPONENTS: dict[str, Component] = {"M": "M", "P": "P", "R": "R", "I": "I"}
_ASCII = {VR.CS, VR.DA, VR.DS, VR.DT, VR.IS, VR.TM, VR.UI}
"""Read as they stand in the file: a scan has thousands of them."""

_COMPLEX_IMAGE_COMPONENT: dict[str, Component] = {
    "MAGNITUDE": "M",
    "PHASE": "P",
    "REAL": "R",
    "IMAGINARY": "I",
}


class Rescale(NamedTuple):
    """Stored value to value: ``slope * stored + intercept``. Values of different units cannot be compared."""

    slope: float
    intercept: float
    unit: str = ""


class Announced(NamedTuple):
    """How many echoes and slices an image says that its acquisition has; None where it does not say."""

    echoes: int | None
    slices: int | None


@dataclass(frozen=True, slots=True)
class Convention:
    """How one manufacturer marks, scales and signs complex gradient-echo images.

    Parameters
    ----------
    name
        Short name, as the modules in `node.vendors`.
    manufacturers
        Lower-case beginnings of Manufacturer (0008,0070).
    phase_sign
        +1 where stored phase rises with the field, -1 where it falls.
    chopper
        Whether complex images may change sign from slice to slice.
    component
        Which component an image holds.
    refusal
        Why an image is, on its own, not raw complex gradient echo; None where nothing speaks against it.
    announced
        Counts of echoes and slices that the image announces.
    scan
        What separates two scans of one protocol, where an image says it; the empty string where only its
        companions can tell.
    rescale
        Stored value to the value in the unit of `radians_per_unit` (phase) or in a unit that is the same for
        all images of an acquisition (other components).
    radians_per_unit
        Factor from rescaled phase to radians, given the lowest and highest rescaled value over all phase
        images of the acquisition.
    stated
        Whether sign and scale are what the site states, not what was verified.
    """

    name: str
    manufacturers: tuple[str, ...]
    phase_sign: Literal[1, -1]
    chopper: bool
    component: Callable[[Dataset], Component]
    refusal: Callable[[Dataset], Refusal | None]
    announced: Callable[[Dataset], Announced]
    scan: Callable[[Dataset], str]
    rescale: Callable[[Dataset, Component], Rescale]
    radians_per_unit: Callable[[float, float], float]
    stated: bool = False


def text(ds: Dataset, tag: str | tuple[int, int]) -> str:
    """The element as text without padding, several values joined by a backslash; empty where absent."""
    known, vr = _known(tag)
    item = ds.get_item(known)
    if isinstance(item, RawDataElement) and (item.VR or vr) in _ASCII and item.value is not None:
        return _joined(item.value.decode("ascii", "replace").split("\\"))
    value = None if item is None else decoded(ds, known)
    if value is None:
        return ""
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    return _joined([value] if isinstance(value, str) or not hasattr(value, "__iter__") else value)


def word(ds: Dataset, tag: str | tuple[int, int]) -> str:
    """The element as text that may be repeated to people; empty where a value is longer than any name or no text.

    An element of wrong length swallows those that follow, a patient's name among them, with the zeros of their tags.
    """
    value = text(ds, tag)
    return value if value.isprintable() and all(len(part) <= 64 for part in value.split("\\")) else ""


@cache
def _known(tag: str | tuple[int, int]) -> tuple[BaseTag, str]:
    """The tag, and its VR where the dictionary has one: what implicit VR leaves to the reader."""
    known = Tag(tag)
    return known, dictionary_VR(known) if dictionary_has_tag(known) else ""


def decoded(ds: Dataset, tag: BaseTag) -> Any:
    """The element's value; None where its bytes do not make one."""
    try:
        return ds[tag].value
    except Exception:  # pydicom decodes on access, and raises nearly anything on nonsense
        return None


def _joined(parts: Iterable[object]) -> str:
    return "\\".join(str(part).strip(" \0") for part in parts)


def number(ds: Dataset, tag: str | tuple[int, int]) -> float | None:
    """The first value as a number; None where absent, empty or not a number.

    Implicit VR leaves unknown private elements as bytes: two bytes are read as SS, four as SL, little endian, unless
    they are digits, which spaces may pad.
    """
    known, _ = _known(tag)
    raw = decoded(ds, known) if known.is_private and known in ds else None
    if isinstance(raw, bytes) and len(raw) in {2, 4} and not raw.strip(b" ").isdigit():
        return float(int.from_bytes(raw, "little", signed=True))
    try:
        value = float(text(ds, tag).split("\\")[0])
    except ValueError:
        return None
    return value if abs(value) < 1e30 else None


def count(ds: Dataset, tag: str | tuple[int, int]) -> int | None:
    """The first value as a positive whole number; None where there is none."""
    value = number(ds, tag)
    return int(value) if value is not None and value >= 1 else None


def image_type(ds: Dataset) -> tuple[str, ...]:
    """The values of ImageType."""
    return tuple(part.strip() for part in word(ds, "ImageType").split("\\"))


def complex_image_component(ds: Dataset) -> Component:
    """What ComplexImageComponent (0008,9208) says."""
    return _COMPLEX_IMAGE_COMPONENT.get(text(ds, "ComplexImageComponent"), "?")


def standard_component(ds: Dataset) -> Component:
    """What ImageType value 3 says, or else ComplexImageComponent."""
    kinds = image_type(ds)
    return COMPONENTS.get(kinds[2] if len(kinds) > 2 else "", complex_image_component(ds))


def stored_rescale(ds: Dataset) -> Rescale | None:
    """RescaleSlope and RescaleIntercept; None where either is absent or the slope is 0."""
    slope, intercept = number(ds, "RescaleSlope"), number(ds, "RescaleIntercept")
    return Rescale(slope, intercept) if slope and intercept is not None else None


def as_stored(ds: Dataset, component: Component) -> Rescale:
    """Stored values as they are; refused where these cannot be real or imaginary, which have two signs."""
    if component in {"R", "I"} and number(ds, "PixelRepresentation") != 1:
        raise Refused(Refusal("no-scaling", "real and imaginary images without RescaleSlope and RescaleIntercept"))
    return Rescale(1.0, 0.0)


_SWI = {"SWI", "MNIP", "MINIP", "MIN IP", "MIP"}
_EPI_NAME = re.compile(r"^\*?ep[a-z]*2d|^\*?ep_|epi", re.IGNORECASE)


def common_refusal(ds: Dataset) -> Refusal | None:
    """Why an image of any vendor is not raw complex gradient echo; None where nothing speaks against it."""
    kinds = image_type(ds)
    shown = "\\".join(kinds)
    sequence = word(ds, "SequenceName")
    named = sequence or "without a name"
    scanning = text(ds, "ScanningSequence").split("\\")
    planar = "EP" in scanning or text(ds, "EchoPlanarPulseSequence") == "YES" or _EPI_NAME.search(sequence)
    spin = text(ds, "EchoPulseSequence") == "SPIN" or ("SE" in scanning and "GR" not in scanning)
    swi = any(kind.startswith("SW_") or kind in _SWI for kind in kinds)
    lossy = text(ds, "LossyImageCompression") == "01"
    reasons = (
        ({"MOSAIC", "VFRAME"} & set(kinds), "epi-or-mosaic", f"mosaic image (ImageType {shown})"),
        (planar, "epi-or-mosaic", f"echo-planar image (sequence {named})"),
        (swi, "processed-swi", f"post-processed SWI with filtered phase (ImageType {shown})"),
        (
            "FIELD_MAP" in kinds,
            "field-map-hz",
            f"field map in Hz, not complex gradient echo (ImageType {shown})",
        ),
        (kinds[0] == "DERIVED", "derived-image", f"derived image, not raw gradient echo (ImageType {shown})"),
        (spin, "not-mr-gre", f"spin echo (sequence {named})"),
        (lossy, "lossy-compression", "lossy compressed image, whose phase cannot be trusted"),
    )
    return next((Refusal(code, sentence) for found, code, sentence in reasons if found), None)
