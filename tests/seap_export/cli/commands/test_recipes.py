"""`seap-export recipes`: what is listed can be printed, and what is printed can be used."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from support.exports import Run
from support.product import open_recipe

from seap_export.pruning.plan.recipes import shipped_recipes


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_printed_recipe_loads_to_the_same_settings(run: Run, name: str, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(run("recipes", name).out, "utf-8")
    assert open_recipe(str(tmp_path / "mine.toml")) == open_recipe(name)
    described = json.loads(run("recipes", name, "--json").out)
    assert (described["name"], described["settings"]) == (name, asdict(open_recipe(name)))
