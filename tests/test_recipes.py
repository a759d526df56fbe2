"""Recipes: plain values and back, mistakes named before anything is computed, files, and what a job carries."""

import dataclasses
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.recipes import RecipeError, as_text, as_toml, from_text, recipe_named
from recon.background import Lbv, Pdf, Resharp, Sharp, VSharp
from recon.inversion import ClosedFormL2, LinearTv, Medi, NonlinearTv, Tkd
from recon.recipe import RECIPES, Recipe, as_dict, from_dict
from recon.reference import Csf, WholeBrain
from recon.types import BadRecipe
from recon.unwrap import Laplacian, RegionGrowing

recipes = st.builds(
    Recipe,
    name=st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1),
    unwrap=st.sampled_from([RegionGrowing(), Laplacian()]),
    background=st.one_of(
        st.builds(Pdf, tolerance=st.floats(1e-6, 0.5), max_iterations=st.integers(1, 99)),
        st.sampled_from([Lbv(), Resharp(), VSharp(), VSharp((5.0, 2.5))]),
        st.builds(Sharp, radius_mm=st.floats(1, 20)),
    ),
    inversion=st.one_of(
        st.builds(NonlinearTv, alpha_ppm=st.floats(1e-6, 1), merit_at=st.lists(st.integers(1, 30)).map(tuple)),
        st.sampled_from([LinearTv(), Medi(), ClosedFormL2(), Tkd()]),
    ),
    reference=st.sampled_from([WholeBrain(), Csf()]),
)


@given(recipe=recipes)
def test_plain_values_and_text_give_the_recipe_back(recipe):
    assert from_dict(as_dict(recipe)) == recipe
    assert from_text(as_text(recipe)) == recipe
    plain = dataclasses.replace(recipe, name="x")
    assert from_dict(tomllib.loads(as_toml(plain))) == plain


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_have_their_names_and_differ(name):
    assert RECIPES[name].name == name
    assert recipe_named(name) == RECIPES[name] == from_text(name)
    stages = {key: dataclasses.replace(recipe, name="") for key, recipe in RECIPES.items()}
    assert [other for other in stages if stages[other] == stages[name]] == [name]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"inverse": {}}, "no stage 'inverse'; stages are mask, readout, unwrap"),
        ({"inversion": {"method": "MEDI"}}, "no method 'MEDI'; methods are NonlinearTv, LinearTv, Medi"),
        ({"inversion": {"method": "Pdf"}}, "inversion: there is no method 'Pdf'"),
        ({"inversion": {"method": "Tkd", "alpha": 1}}, "Tkd has no parameter 'alpha'; parameters are threshold"),
        ({"inversion": {"iterations": 1.5}}, "inversion.iterations: must be a whole number, got 1.5"),
        ({"inversion": {"iterations": True}}, "inversion.iterations: must be a whole number, got True"),
        ({"inversion": {"alpha_ppm": "1"}}, "inversion.alpha_ppm: must be a finite number, got '1'"),
        ({"inversion": {"alpha_ppm": float("nan")}}, "must be a finite number, got nan"),
        ({"inversion": {"merit_at": 10}}, "inversion.merit_at: must be a list of numbers, got 10"),
        ({"inversion": {"alpha_ppm": -1}}, "needs positive parameters"),
        ({"inversion": {"iterations": 20}}, "beyond 20 iterations"),
        ({"background": {"method": "VSharp", "radii_mm": [2, 5]}}, "falling radii_mm"),
        ({"unwrap": "Laplacian"}, "unwrap: must be a table of parameters"),
        ({"name": 3}, "name must be a text"),
    ],
)
def test_a_mistake_is_named(values, words):
    with pytest.raises(BadRecipe) as error:
        from_dict(values)
    assert words in str(error.value)


def test_an_int_will_do_for_a_float_and_what_is_not_said_keeps_its_default():
    recipe = from_dict({"background": {"method": "Sharp", "radius_mm": 5}})
    assert recipe == Recipe(name="custom", background=Sharp(radius_mm=5.0))


def test_a_file_is_named_after_itself(tmp_path):
    path = tmp_path / "strong.toml"
    path.write_text("[inversion]\nalpha_ppm = 1e-3\n")
    assert recipe_named(str(path)) == Recipe(name="strong", inversion=NonlinearTv(alpha_ppm=1e-3))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[inversion", "not valid TOML"),
        ("[inversion]\nmethod = 'X'", "there is no method 'X'"),
        (None, "there is no recipe"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path, text, words):
    path = tmp_path / "site.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(RecipeError) as error:
        recipe_named(str(path))
    assert words in str(error.value)
    assert str(path) in str(error.value)
