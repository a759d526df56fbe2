"""Recipes by name, and from TOML files that a site writes."""

from __future__ import annotations

import json
from pathlib import Path

from node.errors import PermanentError
from node.tomlfile import read_toml
from recon.recipe import RECIPES, Recipe, as_dict, from_dict
from recon.types import BadRecipe


class RecipeError(PermanentError):
    """There is no such recipe, or its file cannot be used."""


def recipe_named(text: str) -> Recipe:
    """The recipe of this name, or of this TOML file.

    Raises
    ------
    RecipeError
        If there is neither, or the file names what does not exist.
    """
    if text in RECIPES:
        return RECIPES[text]
    path = Path(text)
    if not path.is_file():
        raise RecipeError(f"there is no recipe {text!r} (recipes are {', '.join(RECIPES)}) and no such file")
    try:
        return from_dict({"name": path.stem} | read_toml(path, RecipeError))
    except BadRecipe as error:
        raise RecipeError(f"{path}: {error}") from None


def as_text(recipe: Recipe) -> str:
    """The recipe in one line, for the journal: a job keeps its recipe when the file changes."""
    return json.dumps(as_dict(recipe))


def from_text(text: str) -> Recipe:
    """The recipe of :func:`as_text`; a bare name too, as older journals have it."""
    return RECIPES[text] if text in RECIPES else from_dict(json.loads(text))


def as_toml(recipe: Recipe) -> str:
    """The recipe as a TOML file with all its parameters, to be edited."""
    lines = [f"name = {json.dumps(recipe.name)}"]
    for stage, method in as_dict(recipe).items():
        if isinstance(method, dict):
            lines += ["", f"[{stage}]", *(f"{name} = {_toml(value)}" for name, value in method.items())]
    return "\n".join(lines) + "\n"


def _toml(value: object) -> str:
    return json.dumps(list(value) if isinstance(value, tuple) else value)
