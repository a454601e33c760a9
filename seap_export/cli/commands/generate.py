"""`seap-export generate`: prints the answer of a variant to a prompt, token by token."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from seap_export.api.options import ComputeOptions
from seap_export.cli.console import Console
from seap_export.cli.groups import GroupedCommand, number_option, option, titled
from seap_export.cli.options import option_of, output_options, raw_option
from seap_export.cli.prompt import read_prompt
from seap_export.cli.values import ExistingPath
from seap_export.common.providers import OWN_FORMAT, PROVIDERS

if TYPE_CHECKING:
    from seap_export.runtime import Completion, Prompt


@click.command("generate", cls=GroupedCommand)
@click.argument("folder", type=ExistingPath())
@click.argument("prompt")
@titled(
    "Generation",
    option("--system", metavar="TEXT", help="System prompt, before the user's turn."),
    raw_option,
    number_option("--max-new-tokens", "Largest number of tokens to generate.", default=64, show_default=True),
    option(
        "--temperature",
        type=float,
        metavar="T",
        default=0.0,
        show_default=True,
        help="Temperature of the sampling; at 0, each token is the most likely one.",
    ),
    option("--top-k", type=int, metavar="K", help="Sample from the K most likely tokens.  [default: all]"),
    option(
        "--top-p",
        type=float,
        metavar="P",
        help="Sample from the most likely tokens whose probabilities add up to P.  [default: all]",
    ),
    number_option("--seed", "Seed of the sampling.", default=0, show_default=True),
)
@titled(
    "Machine",
    option(
        "--provider",
        type=click.Choice(list(PROVIDERS)),
        default="cpu",
        show_default=True,
        help="Execution provider of ONNX Runtime that runs the variant.",
    ),
    option_of(ComputeOptions, "threads"),
    output_options,
)
def generate_command(
    console: Console,
    folder: Path,
    prompt: str,
    system: str | None,
    raw: bool,
    max_new_tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    seed: int,
    provider: str,
    threads: int | None,
) -> None:
    """Print the answer of the variant in FOLDER to PROMPT, token by token.

    FOLDER is a variant such as pruned/gsm8k-0.2, or its onnx folder. If PROMPT is `-`, it is read from stdin. For a
    chat model, PROMPT becomes a user's turn in its chat template; any other model continues it. With --quiet the
    answer is still printed, without the remark that the model's context is full.

    \b
    Example:
      seap-export generate pruned/gsm8k-0.2 "How many legs do 3 cats have?" --max-new-tokens 32
    """
    from seap_export.errors import UsageError
    from seap_export.runtime import Generator, Sampling

    sampling = Sampling(temperature, top_k, 1.0 if top_p is None else top_p, seed)
    if raw and system is not None:
        raise UsageError("--system and --raw exclude each other; leave one out")
    request: Prompt = read_prompt(Path("-")) if prompt == "-" else prompt
    if system is not None:
        request = [{"role": "system", "content": system}, {"role": "user", "content": request}]
    own = _own_folder(folder)
    generator = Generator(own, provider, threads)
    if not generator.is_checked:
        console.say(f"{own} has no SHA256SUMS, so its files were not checked; 'convert' writes one")
    if system is not None and generator.chat_template is None:
        raise UsageError(f"{folder}: this model has no chat template, which --system needs; leave it out")
    if console.as_json:
        console.result(_describe(generator.complete([request], max_new_tokens, sampling, raw=raw)[0]), "")
        return
    stream = generator.stream(request, max_new_tokens, sampling, raw=raw)
    for piece in stream:
        click.echo(piece, nl=False)
    click.echo()
    if stream.stop == "context":
        console.say("the model's context is full")


def _own_folder(folder: Path) -> Path:
    """The folder itself, or the one in it of the format that is run here.

    Raises:
        ArtifactError: There is no graph in either.
    """
    from seap_export.errors import ArtifactError
    from seap_export.runtime.files import GRAPH

    for candidate in (folder, folder / OWN_FORMAT):
        if (candidate / GRAPH).is_file():
            return candidate
    variants = sorted(graph.parents[1] for graph in folder.glob(f"*/{OWN_FORMAT}/{GRAPH}"))
    remedy = f"give a variant in it, such as {variants[0]}" if variants else "give a variant's folder"
    raise ArtifactError(f"{folder}: contains neither {GRAPH} nor {OWN_FORMAT}/{GRAPH}; {remedy}")


def _describe(completion: Completion) -> dict[str, Any]:
    return {
        "text": completion.text,
        "prompt_tokens": completion.prompt_tokens,
        "tokens": len(completion.token_ids),
        "stop": completion.stop,
    }
