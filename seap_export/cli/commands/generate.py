"""`seap-export generate`: prints the answer of a variant to a prompt, token by token."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from seap_export.api.generation import AnswerOptions
from seap_export.cli.console import Console
from seap_export.cli.generation import (
    machine_options,
    open_generator,
    refuse_system,
)
from seap_export.cli.groups import GroupedCommand, titled
from seap_export.cli.options import options_of
from seap_export.cli.prompt import given_prompt, prompt_file_option
from seap_export.cli.values import ExistingPath

if TYPE_CHECKING:
    from seap_export.runtime import Completion, Prompt


@click.command("generate", cls=GroupedCommand)
@click.argument("folder", type=ExistingPath())
@click.argument("prompt", required=False)
@prompt_file_option
@titled("Generation", *options_of(AnswerOptions))
@machine_options
def generate_command(
    console: Console,
    folder: Path,
    prompt: str | None,
    prompt_file: Path | None,
    provider: str,
    threads: int | None,
    **options: Any,
) -> None:
    """Print the answer of the variant in FOLDER to PROMPT, token by token.

    FOLDER is a variant such as pruned/gsm8k-0.2, or its onnx folder. If PROMPT is `-`, it is read from stdin. For a
    chat model, PROMPT becomes a user's turn in its chat template, unless the variant was made from plain texts; any
    other model continues it. With --quiet the answer is still printed, without the remark that the model's context is
    full.

    \b
    Example:
      seap-export generate pruned/gsm8k-0.2 "How many legs do 3 cats have?" --max-new-tokens 32
    """
    asked = AnswerOptions(**options)
    asked_for = asked.max_new_tokens, asked.sampling
    request: Prompt = given_prompt(prompt, prompt_file)
    if asked.system is not None:
        request = [{"role": "system", "content": asked.system}, {"role": "user", "content": request}]
    generator = open_generator(console, folder, provider, threads)
    refuse_system(folder, generator, asked.system, asked.raw)
    if console.as_json:
        (answer,) = generator.complete([request], *asked_for, raw=asked.raw, stop=asked.stop)
        console.result(_describe(answer), "")
        return
    stream = generator.stream(request, *asked_for, raw=asked.raw, stop=asked.stop)
    for piece in stream:
        click.echo(piece, nl=False)
    click.echo()
    if stream.stop == "context":
        console.say("the model's context is full")


def _describe(completion: Completion) -> dict[str, Any]:
    return {
        "text": completion.text,
        "prompt_tokens": completion.prompt_tokens,
        "tokens": len(completion.token_ids),
        "stop": completion.stop,
    }
