"""`seap-export route`: shows which variant should answer a prompt, and its answer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from seap_export.api.generation import AnswerOptions
from seap_export.cli.console import Console
from seap_export.cli.generation import machine_options
from seap_export.cli.groups import GroupedCommand, number_option, option
from seap_export.cli.options import option_of
from seap_export.cli.prompt import given_prompt, prompt_file_option
from seap_export.cli.values import ExistingPath, Ratio

if TYPE_CHECKING:
    from seap_export.runtime import Route


@click.command("route", cls=GroupedCommand)
@click.argument("folder", type=ExistingPath(), metavar="DIR")
@click.argument("prompt", required=False)
@prompt_file_option
@number_option("--generate", "max_new_tokens", "Let the variant answer, with at most N tokens.")
@option_of(AnswerOptions, "stop")
@option_of(AnswerOptions, "raw")
@option(
    "--ratio",
    type=Ratio(),
    metavar="R",
    help="Ratio of the variants to choose from.  [default: the only one there is]",
)
@option(
    "--threshold",
    type=float,
    metavar="P",
    help="Confidence, 0 to 1, needed to choose a task.  [default: as in router.json]",
)
@machine_options
def route_command(
    console: Console,
    folder: Path,
    prompt: str | None,
    prompt_file: Path | None,
    max_new_tokens: int | None,
    stop: tuple[str, ...],
    raw: bool | None,
    ratio: float | None,
    threshold: float | None,
    provider: str,
    threads: int | None,
) -> None:
    """Show which variant in DIR should answer PROMPT, and its answer if asked for.

    DIR is an output folder of `export` with several tasks. If PROMPT is `-`, it is read from stdin. The router was
    fitted to the questions of the tasks' corpora, without a chat template, so give PROMPT in the same form. With
    --generate, a chat model answers it in its chat template, unless the variant was made from plain texts. With
    --quiet, the folder of the variant is printed alone, or the answer.

    \b
    Example:
      seap-export route pruned "How many legs do 3 cats have?" --generate 32
    """
    from seap_export.errors import UsageError, refuse_less
    from seap_export.runtime import RoutedModel

    refuse_less(1, generate=max_new_tokens)
    if max_new_tokens is None and (raw is not None or stop):
        useless = "stop" if stop else "raw" if raw else "template"
        raise UsageError(f"--{useless} has no effect without --generate; give both or neither")
    if provider != "cpu" and max_new_tokens is None:
        raise UsageError("--provider has no effect without --generate, since the router runs on the CPU; leave it out")
    text = given_prompt(prompt, prompt_file)
    model = RoutedModel(folder, ratio, provider, threads, threshold)
    route = model.route(text)
    result = {**vars(route), "variant": str(route.variant), "probabilities": dict(route.probabilities)}
    if max_new_tokens is not None:
        result["text"] = model.generator(route).generate(text, max_new_tokens, raw=raw, stop=stop)
    answer = [result["text"]] if "text" in result else []
    console.result(result, "\n".join([_summary(route), *answer]), shortest="\n".join(answer or [str(route.variant)]))


def _summary(route: Route) -> str:
    task = f"{route.task}, confidence {route.confidence:.3f}"
    if route.is_fallback:
        return f"no clear task ({task}): {route.variant}"
    if route.is_uncertain:
        return f"no clear task and no general variant; most likely {task}: {route.variant}"
    return f"{task}: {route.variant}"
