"""The demo's page: one HTML file with its pictures inside. Knows what it shows and nothing of how it came to be."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from statistics import median

from jinja2 import Environment, PackageLoader, StrictUndefined


@dataclass(frozen=True, slots=True)
class LesionRow:
    """A lesion as it was made and as it was measured; pictures are PNG bytes: magnitude, GRE phase, QSM."""

    number: int
    kind: str
    volume_mm3: float
    true_ppb: float
    measured_ppb: float
    thumbnails: tuple[bytes, bytes, bytes]

    @property
    def sign_right(self) -> bool:
        """Whether a radiologist would call the right kind."""
        return self.true_ppb * self.measured_ppb > 0

    @property
    def error_percent(self) -> float:
        """Absolute error of the mean relative to the truth."""
        return 100 * abs(self.measured_ppb / self.true_ppb - 1)


@dataclass(frozen=True, slots=True)
class Level:
    """One slice, counted from 1, with the lesions that it shows and its PNG."""

    slice: int
    lesions: tuple[LesionRow, ...]
    png: bytes


@dataclass(frozen=True, slots=True)
class SeriesRow:
    """A series as the PACS lists it."""

    number: int
    description: str
    images: int
    window: str


@dataclass(frozen=True, slots=True)
class Page:
    """Everything that the page says."""

    version: str
    protocol: str
    lesions: tuple[LesionRow, ...]
    levels: tuple[Level, ...]
    slices: int
    agreement: bytes
    series: tuple[SeriesRow, ...]
    sent: int
    seconds: float
    pacs_folder: str

    @property
    def right(self) -> int:
        """Number of lesions with the right sign."""
        return sum(lesion.sign_right for lesion in self.lesions)

    @property
    def delivered(self) -> int:
        """Number of images that came back."""
        return sum(series.images for series in self.series)

    @property
    def median_error(self) -> float:
        """Median over the lesions, percent."""
        return median(lesion.error_percent for lesion in self.lesions)

    @property
    def worst_error(self) -> float:
        """Largest error of a lesion, percent."""
        return max(lesion.error_percent for lesion in self.lesions)


def render(page: Page) -> str:
    """The page as HTML."""
    environment = Environment(
        loader=PackageLoader("node"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["png"] = lambda data: "data:image/png;base64," + b64encode(data).decode("ascii")
    environment.filters["signed"] = lambda value: f"{value:+.0f}".replace("-", "\N{MINUS SIGN}")
    return environment.get_template("demo.html").render(page=page)
