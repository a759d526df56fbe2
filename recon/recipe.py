"""A recipe: one method and its parameters for every stage."""

from __future__ import annotations

import math
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from recon.background import Background, Lbv, Pdf
from recon.bipolar import Readout
from recon.echoes import ComplexFit
from recon.highpass import Homodyne
from recon.inversion import Inversion, Medi, NonlinearTv
from recon.mask import AutoMask
from recon.reference import Csf, Reference, Ventricles, WholeBrain
from recon.types import BadRecipe
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


FAST = Recipe(
    name="fast",
    background=Lbv(),
    inversion=NonlinearTv(iterations=16, merit_at=(4, 8, 12), reweight_at=(9, 13)),
)
MEDI = Recipe(name="medi", background=Pdf(), inversion=Medi(), reference=Csf())
RECIPES = {recipe.name: recipe for recipe in (Recipe(), FAST, MEDI)}
"""``default`` is the most accurate, ``fast`` needs about half its time, ``medi`` is as in Chen et al. 2014."""


def as_dict(recipe: Recipe) -> dict[str, object]:
    """The recipe as plain values: ``{"name": ..., "<stage>": {"method": ..., parameter: value, ...}, ...}``.

    Equal recipes give equal dictionaries, in the same order: provenance and identifiers rest on it.
    """
    stages = ((f.name, getattr(recipe, f.name)) for f in fields(recipe) if f.name != "name")
    return {"name": recipe.name} | {
        name: {"method": type(method).__name__} | asdict(method) for name, method in stages
    }


def from_dict(values: Mapping[str, object]) -> Recipe:
    """The recipe that :func:`as_dict` describes; what is not said keeps its default.

    A stage without ``method`` keeps the default's method.

    Raises
    ------
    BadRecipe
        If a stage, method or parameter does not exist, or a value has the wrong type or range.
    """
    known = stages()
    name = values.get("name", "custom")
    if not isinstance(name, str) or not name:
        raise BadRecipe(f"name must be a text, got {name!r}")
    chosen: dict[str, Any] = {}
    for stage, value in values.items():
        if stage == "name":
            continue
        if stage not in known:
            raise BadRecipe(f"there is no stage {stage!r}; stages are {', '.join(known)}")
        if not isinstance(value, Mapping):
            raise BadRecipe(f"{stage}: must be a table of parameters, got {value!r}")
        chosen[stage] = _method(stage, known[stage], value)
    return Recipe(name=name, **chosen)


def stages() -> dict[str, dict[str, type]]:
    """Every stage with its possible methods by name, the default first."""
    hints = typing.get_type_hints(Recipe)
    default = Recipe()
    found = {}
    for stage in (f.name for f in fields(Recipe) if f.name != "name"):
        options = typing.get_args(hints[stage]) or (hints[stage],)
        first = type(getattr(default, stage))
        found[stage] = {option.__name__: option for option in (first, *(o for o in options if o is not first))}
    return found


def _method(stage: str, options: dict[str, type], values: Mapping[str, object]) -> object:
    name = values.get("method", next(iter(options)))
    if name not in options:
        raise BadRecipe(f"{stage}: there is no method {name!r}; methods are {', '.join(options)}")
    method = options[str(name)]
    hints = typing.get_type_hints(method)
    parameters = {}
    for parameter, value in values.items():
        if parameter == "method":
            continue
        if parameter not in hints:
            known = ", ".join(hints) or "none"
            raise BadRecipe(f"{stage}: {name} has no parameter {parameter!r}; parameters are {known}")
        parameters[parameter] = _value(f"{stage}.{parameter}", hints[parameter], value)
    return method(**parameters)


def _value(place: str, wanted: Any, value: object) -> object:
    """The value as the parameter's type: an int will do for a float, a list for a tuple."""
    if typing.get_origin(wanted) is tuple and isinstance(value, list | tuple):
        return tuple(_value(place, typing.get_args(wanted)[0], item) for item in value)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and wanted is float and math.isfinite(value):  # type: ignore[arg-type]
        return float(value)  # type: ignore[arg-type]
    if number and wanted is int and isinstance(value, int):
        return value
    words = {float: "a finite number", int: "a whole number"}.get(wanted, "a list of numbers")
    raise BadRecipe(f"{place}: must be {words}, got {value!r}")
