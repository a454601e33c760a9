"""`seap-export route`: which variant answers a prompt, and what it answers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from seap_export.cli.console import Console
from seap_export.cli.options import PathType, output_options
from seap_export.cli.prompt import read_prompt

if TYPE_CHECKING:
    from seap_export.runtime import Route

__all__ = ["route_command"]


@click.command("route")
@click.argument("folder", type=PathType(), metavar="DIR")
@click.argument("prompt", required=False)
@click.option("--prompt-file", type=PathType(allow_dash=True), help="A file that is the prompt; - for stdin.")
@click.option("--generate", "max_new_tokens", type=int, help="Let the variant give that many tokens, or fewer.")
@click.option("--ratio", type=float, help="Ratio of the variants.  [default: the only one there is]")
@click.option("--threshold", type=float, help="Confidence needed, 0 to 1.  [default: that of router.json]")
@output_options
def route_command(
    console: Console,
    folder: Path,
    prompt: str | None,
    prompt_file: Path | None,
    max_new_tokens: int | None,
    ratio: float | None,
    threshold: float | None,
) -> None:
    """Tell the task of PROMPT and the variant in DIR that answers it; DIR is an output folder of export.

    The router knows prompts as the tasks' corpora have them: give PROMPT in the form of its task.

    \b
    Example:
      seap-export route pruned "Question: How many legs have 3 cats?" --generate 32
    """
    from seap_export.errors import UsageError
    from seap_export.runtime import RoutedModel

    if max_new_tokens is not None and max_new_tokens < 1:
        raise UsageError(f"--generate {max_new_tokens} is out of range; give at least 1")
    text = _prompt(prompt, prompt_file)
    model = RoutedModel(folder, ratio=ratio, threshold=threshold)
    route = model.route(text)
    result = _describe(route)
    if max_new_tokens is not None:
        result["text"] = model.generator(route).generate(text, max_new_tokens)
    console.result(result, "\n".join([_summary(route), *([result["text"]] if "text" in result else [])]))


def _prompt(prompt: str | None, file: Path | None) -> str:
    """The prompt itself or what the file holds, without the line break at its end.

    Raises:
        UsageError: Both or neither are given.
        InputError: The file cannot be read.
    """
    from seap_export.errors import UsageError

    if (prompt is None) == (file is None):
        raise UsageError("give either a prompt or --prompt-file")
    return str(prompt) if file is None else read_prompt(file)


def _describe(route: Route) -> dict[str, Any]:
    return {**vars(route), "variant": str(route.variant), "probabilities": dict(route.probabilities)}


def _summary(route: Route) -> str:
    task = f"{route.task}, confidence {route.confidence:.3f}"
    if route.is_fallback:
        return f"no clear task ({task}): {route.variant}"
    if route.is_uncertain:
        return f"no clear task and no general variant; most likely {task}: {route.variant}"
    return f"{task}: {route.variant}"
