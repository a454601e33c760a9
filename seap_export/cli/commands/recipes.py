"""`seap-export recipes`: lists and prints the recipes that come with this package."""

from __future__ import annotations

import click

from seap_export.cli.console import Console
from seap_export.cli.groups import GroupedCommand
from seap_export.cli.options import output_options


@click.command("recipes", cls=GroupedCommand)
@click.argument("name", required=False)
@output_options
def recipes_command(console: Console, name: str | None) -> None:
    """List the recipes, or print the one called NAME as a TOML file to edit and pass to --recipe.

    \b
    Examples:
      seap-export recipes
      seap-export recipes reconstruct > mine.toml
      seap-export export ./SmolLM2-135M --task gsm8k=gsm8k.jsonl --recipe mine.toml --ratio 0.2 --out pruned
    """
    from dataclasses import asdict

    from seap_export.common.toml_file import either
    from seap_export.errors import UsageError
    from seap_export.pruning.plan.recipes import DEFAULT_RECIPE, shipped_recipes

    recipes = shipped_recipes()
    if name is not None and name not in recipes:
        raise UsageError(f"recipe '{name}' is not known; use {either(recipes)}")
    values = [
        {
            "name": recipe_name,
            "default": recipe_name == DEFAULT_RECIPE,
            "summary": recipe.summary,
            "source": recipe.source,
            "settings": asdict(recipe.settings),
        }
        for recipe_name, recipe in recipes.items()
        if name in (None, recipe_name)
    ]
    if name is not None:
        console.result(values[0], recipes[name].text.rstrip("\n"))
        return
    lines = [
        f"{row['name']}{' (default)' if row['default'] else ''}: {row['summary']}\n  source: {row['source']}"
        for row in values
    ]
    console.result({"recipes": values}, "\n".join(lines))
