"""`seap-export recipes`: what is listed can be printed, and what is printed can be used."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from support.exports import Run
from support.product import open_recipe

from seap_export.pruning.plan.recipes import DEFAULT_RECIPE, shipped_recipes


def test_all_recipes_are_listed_with_what_they_do_and_their_source(run: Run) -> None:
    outcome = run("recipes")
    assert (outcome.code, outcome.err) == (0, "")
    rows = json.loads(run("recipes", "--json").out)["recipes"]
    assert [row["name"] for row in rows] == list(shipped_recipes())
    assert [row["name"] for row in rows if row["default"]] == [DEFAULT_RECIPE]
    for row in rows:
        assert all(row[key] and row[key] in outcome.out for key in ("name", "summary", "source"))


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_printed_recipe_loads_to_the_same_settings(run: Run, name: str, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(run("recipes", name).out, "utf-8")
    assert open_recipe(str(tmp_path / "mine.toml")) == open_recipe(name)
    described = json.loads(run("recipes", name, "--json").out)
    assert (described["name"], described["settings"]) == (name, asdict(open_recipe(name)))


def test_an_unknown_recipe_is_refused_with_the_known_ones(run: Run) -> None:
    outcome = run("recipes", "magic")
    assert (outcome.code, outcome.out) == (2, "")
    assert all(name in outcome.err for name in ("magic", *shipped_recipes()))
