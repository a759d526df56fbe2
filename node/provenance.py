"""Where a derived object comes from, in DICOM's words: source images, equipment, algorithms, parameters, identifiers.

What the QSM consensus paper (Bilgic et al. 2024, MRM 91:1834, Table 5) asks to be reported is here: software and
version, every algorithm and parameter, unit and reference region. Knows no pixels.
"""

from __future__ import annotations

import hashlib
import json
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from pydicom.charset import default_encoding
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_sequence
from pydicom.tag import Tag
from pydicom.uid import UID

from node import __version__
from node.identity import PROCESSING_EQUIPMENT, PRODUCT, derived_uid
from node.load import Source, SourceImage
from node.report import Report
from recon.pipeline import Result
from recon.recipe import Recipe, as_dict

MANUFACTURER = "qsm-node project"
NOT_FOR_DIAGNOSIS = "Research software, not a medical device: not for diagnosis."
SHORT_TEXT = 1024
"""Longest value of VR ST, PS3.5 table 6.2-1."""


@dataclass(frozen=True, eq=False)
class Provenance:
    """What all objects of one derivation have in common. What costs time is found once."""

    source: Source
    result: Result
    report: Report
    derived_at: datetime
    supplied_mask_sha256: str = ""
    supersedes: datetime | None = None

    def series_uid(self, series: str) -> UID:
        """A function of source images and how they were read, recipe, version, supplied mask and series."""
        return derived_uid(*self._parts, series)

    def instance_uid(self, series: str, slice_: int) -> UID:
        """As `series_uid`, for one slice."""
        return derived_uid(*self._parts, series, str(slice_))

    @cached_property
    def _parts(self) -> tuple[str, ...]:
        uids = sorted({image.sop_instance_uid for images in self.source.images for image in images})
        asked = (self.source.convention, recipe_digest(self.result.recipe), self.supplied_mask_sha256)
        return *uids, __version__, *asked

    def series_number(self, offset: int) -> int:
        """As `derived_series_number`."""
        return derived_series_number(self.source.templates[0][0], offset)

    @cached_property
    def source_images(self) -> list[RawDataElement]:
        """For each slice its images, over echoes and components; PS3.3 C.7.6.1.1.4, purpose from CID 7202."""
        return [encoded_sequence("SourceImageSequence", map(_source_item, images)) for images in self.source.images]

    def series_description(self, name: str) -> str:
        """The name of a series. A doubted sign comes first: lists of series are cut off on the right."""
        return f"SIGN? {name}" if self.report.contradiction else name

    def derivation(self, *meaning: str) -> str:
        """DerivationDescription: a doubted sign, what is superseded, the values' meaning, their limits and origin.

        What does not fit is left out at the end; it stands in ContributingEquipmentSequence and ImageComments too.
        """
        limits = _listed("Limited quality", self.report.limits)
        said = (self.report.contradiction, self._superseded(), *meaning, limits, *self._chain)
        return short_text([*filter(None, said)])

    def _superseded(self) -> str:
        """For who has both results before them."""
        if self.supersedes is None:
            return ""
        local = in_zone(self.supersedes, str(self.source.templates[0][0].get("TimezoneOffsetFromUTC", "")))
        return f"Supersedes the result of {local:%Y-%m-%d %H:%M:%S}: further images came."

    @cached_property
    def _chain(self) -> list[str]:
        """Software, version, algorithms, settings digest and input in sentences."""
        recipe = self.result.recipe
        methods = ", ".join(str(m["method"]) for m in as_dict(recipe).values() if isinstance(m, dict))
        scanner = self.source.templates[0][0]
        maker = f"{_words(scanner, 'Manufacturer')} {_words(scanner, 'ManufacturerModelName')}".strip()
        mask = ["Brain mask supplied by the user."] if self.supplied_mask_sha256 else []
        named = f"recipe {_ascii(recipe.name)} (sha256 {recipe_digest(recipe)[:16]})"
        return [
            f"{PRODUCT} {__version__}, {named}: {methods}.",
            *mask,
            f"Input: {maker}; {self.source.convention}.",
        ]

    def stamp(self, ds: Dataset) -> None:
        """Equipment, times and comments: the same on every object of the derivation."""
        scanner = self.source.templates[0][0]
        stamp_equipment(ds, scanner, self.derived_at, self._contributions)
        report = self.report
        phantom = "Phantom." if "phantom" in str(scanner.get("ImageComments", "")).lower() else ""
        warnings = _listed("Warnings", (*report.limits, *report.warnings))
        said = (report.contradiction, self._superseded(), NOT_FOR_DIAGNOSIS, phantom, warnings)
        ds.ImageComments = " ".join(filter(None, said))

    @cached_property
    def _contributions(self) -> RawDataElement:
        return contributions(parameters(self.result.recipe), self.derived_at)


def derived_series_number(source: Dataset, offset: int) -> int:
    """A hundred times the source's, plus an offset; the offset alone where that is no VR IS (PS3.5 6.2)."""
    number = int(source.get("SeriesNumber") or 0) * 100 + offset
    return number if abs(number) < 2**31 else offset


def contributions(descriptions: Iterable[str], derived_at: datetime) -> RawDataElement:
    """ContributingEquipmentSequence: this product, once for each description."""
    return encoded_sequence("ContributingEquipmentSequence", (_processing(text, derived_at) for text in descriptions))


def stamp_equipment(ds: Dataset, source: Dataset, derived_at: datetime, contributed: RawDataElement) -> None:
    """Name this product as the equipment, what it contributed, and the time in the zone of the source's study."""
    ds.Manufacturer = MANUFACTURER
    ds.ManufacturerModelName = PRODUCT
    ds.SoftwareVersions = __version__
    ds[contributed.tag] = contributed
    local = in_zone(derived_at, str(source.get("TimezoneOffsetFromUTC", "")))
    date, time = local.strftime("%Y%m%d"), local.strftime("%H%M%S")
    for moment in ("Series", "Content", "InstanceCreation"):
        setattr(ds, f"{moment}Date", date)
        setattr(ds, f"{moment}Time", time)


def code(value: str, scheme: str, meaning: str) -> Dataset:
    """One coded concept."""
    item = Dataset()
    item.CodeValue = value
    item.CodingSchemeDesignator = scheme
    item.CodeMeaning = meaning
    return item


def encoded_sequence(keyword: str, items: Iterable[Dataset]) -> RawDataElement:
    """A sequence of plain ASCII as it stands in a file, explicit VR little endian: many objects can have it."""
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_sequence(buffer, DataElement(keyword, "SQ", [*items]), [default_encoding])
    value = buffer.getvalue()
    return RawDataElement(Tag(keyword), "SQ", len(value), value, 0, False, True)


def recipe_digest(recipe: Recipe) -> str:
    """Digest of every method and parameter: equal recipes, and only those, have equal digests."""
    return hashlib.sha256(json.dumps(as_dict(recipe), sort_keys=True).encode()).hexdigest()


def parameters(recipe: Recipe) -> list[str]:
    """Every method and parameter of a recipe, in as many texts as VR ST needs."""
    stages = [f"{stage}: {_call(m)}" for stage, m in as_dict(recipe).items() if isinstance(m, dict)]
    return textwrap.wrap("; ".join((f"recipe {_ascii(recipe.name)}", *stages)), SHORT_TEXT)


def _call(method: dict[str, object]) -> str:
    arguments = ", ".join(f"{name}={value}" for name, value in method.items() if name != "method")
    return f"{method['method']}({arguments})"


def short_text(sentences: Sequence[str]) -> str:
    """The sentences in one text that VR ST can hold, without the last ones where they do not fit."""
    kept = ""
    for sentence in sentences:
        if len(kept) + 1 + len(sentence) > SHORT_TEXT:
            break
        kept = f"{kept} {sentence}".lstrip()
    return kept


def _listed(title: str, items: Sequence[str]) -> str:
    return f"{title}: {'; '.join(items)}." if items else ""


def in_zone(moment: datetime, offset: str) -> datetime:
    """The moment in the time zone that the study states (PS3.3 C.12.1.1.8), or as it is where it states none."""
    try:
        return moment.astimezone(datetime.strptime(offset.strip(), "%z").tzinfo)
    except ValueError:
        return moment


def _source_item(image: SourceImage) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = image.sop_class_uid
    item.ReferencedSOPInstanceUID = image.sop_instance_uid
    if image.frame_number is not None:
        item.ReferencedFrameNumber = image.frame_number
    item.PurposeOfReferenceCodeSequence = [code("121322", "DCM", "Source image for image processing operation")]
    return item


def _words(ds: Dataset, keyword: str) -> str:
    return _ascii(str(ds.get(keyword) or ""))


def _ascii(text: str) -> str:
    """As plain ASCII, which every character set can hold."""
    return text.encode("ascii", "replace").decode()


def _processing(description: str, derived_at: datetime) -> Dataset:
    """This product with its parameters; PS3.3 C.12.1, purpose from CID 7005.

    The scanner is no item here: readers that look for Manufacturer at any depth would apply its conventions.
    """
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = [code(PROCESSING_EQUIPMENT, "DCM", "Processing Equipment")]
    item.Manufacturer = MANUFACTURER
    item.ManufacturerModelName = PRODUCT
    item.SoftwareVersions = __version__
    item.ContributionDateTime = derived_at.strftime("%Y%m%d%H%M%S.%f%z")
    item.ContributionDescription = description
    return item
