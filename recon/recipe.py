"""A recipe: one method and its parameters for every stage."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

from recon.background import Background, Pdf
from recon.bipolar import Readout
from recon.echoes import ComplexFit
from recon.highpass import Homodyne
from recon.inversion import Inversion, NonlinearTv
from recon.mask import AutoMask
from recon.reference import Reference, Ventricles, WholeBrain
from recon.unwrap import RegionGrowing, Unwrap


@dataclass(frozen=True, slots=True)
class Recipe:
    """The methods of a reconstruction, in the order in which they run."""

    name: str = "default"
    mask: AutoMask = AutoMask()
    readout: Readout = Readout()
    unwrap: Unwrap = RegionGrowing()
    echoes: ComplexFit = ComplexFit()
    background: Background = Pdf()
    inversion: Inversion = NonlinearTv()
    csf: Ventricles = Ventricles()
    reference: Reference = WholeBrain()
    highpass: Homodyne = Homodyne()


RECIPES = {"default": Recipe()}


def as_dict(recipe: Recipe) -> dict[str, object]:
    """The recipe as plain values: ``{"name": ..., "<stage>": {"method": ..., parameter: value, ...}, ...}``.

    Equal recipes give equal dictionaries, in the same order: provenance and identifiers rest on it.
    """
    stages = ((f.name, getattr(recipe, f.name)) for f in fields(recipe) if f.name != "name")
    return {"name": recipe.name} | {
        name: {"method": type(method).__name__} | asdict(method) for name, method in stages
    }
