"""`seap-export chat`: talks with a variant, turn by turn."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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
from seap_export.cli.prompt import read_prompt
from seap_export.cli.values import ExistingPath, PathType
from seap_export.common.options import option, options

if TYPE_CHECKING:
    from seap_export.runtime import Dialogue, Generator, Stream

_RESET, _EXIT = "/reset", "/exit"
_ASKS = "> "


@options
class ChatOptions(AnswerOptions):
    """The options of each answer."""

    max_new_tokens: int = option("Largest number of tokens to generate.", default=512)


@click.command("chat", cls=GroupedCommand)
@click.argument("folder", type=ExistingPath())
@click.option("--prompt-file", type=PathType(), help="Read the turns from this file, a line each.")
@titled("Generation", *options_of(ChatOptions))
@machine_options
def chat_command(
    console: Console,
    folder: Path,
    prompt_file: Path | None,
    provider: str,
    threads: int | None,
    **given: Any,
) -> None:
    """Talk with the variant in FOLDER, turn by turn.

    Each line is a turn; from a pipe, too. The variant knows all turns before it, until /reset. Ctrl-C stops an answer,
    and /exit or Ctrl-D ends. Tokens per second are shown on stderr. With --json, all turns are printed at the end.

    \b
    Examples:
      seap-export chat pruned/support-0.2 --system "You help customers of a bookshop."
      printf 'Hello.\\nWhat can you do?\\n' | seap-export chat pruned/support-0.2 --quiet
    """
    from seap_export.errors import InputError, refuse_less
    from seap_export.runtime import Dialogue

    asked = ChatOptions(**given)
    refuse_less(1, max_new_tokens=asked.max_new_tokens)
    generator = open_generator(console, folder, provider, threads)
    refuse_system(folder, generator, asked.system, asked.raw)
    dialogue = Dialogue(generator, asked.system, raw=asked.raw)
    is_typed = prompt_file is None and sys.stdin.isatty()
    if is_typed:
        console.say(f"{_RESET} forgets what was said; Ctrl-C stops an answer; {_EXIT} or Ctrl-D ends")
    said: list[dict[str, Any]] = []
    for text in _typed() if is_typed else _lines(prompt_file):
        if text.strip() == _EXIT:
            break
        if text.strip() == _RESET:
            dialogue.reset()
            continue
        if not text.strip():
            continue
        try:
            stream = dialogue.ask(text, asked.max_new_tokens, asked.sampling, stop=asked.stop)
        except InputError as error:
            if not is_typed:
                raise
            console.say(f"Error: {error}, or forget what was said with {_RESET}")
            continue
        if not said and not asked.raw and (reason := _no_dialogue(generator)):
            console.warn(
                f"{folder}: {reason}, so it goes on with a turn rather than answering it; use generate with prompts "
                "like its texts, or export a chat model with conversations"
            )
        said.append({"prompt": text, **_answer(console, dialogue, text, stream)})
    if console.as_json:
        console.result({"turns": said}, "")


def _no_dialogue(generator: Generator) -> str:
    """Why a variant does not know what a turn is; "" if it does."""
    template = generator.chat_template
    if template is None:
        return "this model has no chat template"
    return "" if template.takes_texts else "this variant was made from plain texts"


def _answer(console: Console, dialogue: Dialogue, text: str, stream: Stream) -> dict[str, Any]:
    """Prints an answer as it comes, remembers it, and says how fast it came."""
    pieces: list[str] = []
    start = first = time.perf_counter()
    with _interruptible() as interrupted:
        for piece in stream:
            first = first if pieces else time.perf_counter()
            pieces.append(piece)
            if not console.as_json:
                click.echo(piece, nl=False)
            if interrupted.is_set():
                stream.close()
                break
    end, tokens = time.perf_counter(), len(stream.token_ids)
    dialogue.add(text, "".join(pieces))
    if not console.as_json:
        click.echo()
    rate = f", {(tokens - 1) / (end - first):.1f} tokens/s" if tokens > 1 and end > first else ""
    reason = {"context": "; the model's context is full", None: "; stopped"}.get(stream.stop, "")
    console.say(f"[{tokens} tokens{rate}, the first after {first - start:.2f} s{reason}]")
    values = {"text": "".join(pieces), "prompt_tokens": stream.prompt_tokens, "tokens": tokens}
    return {**values, "stop": stream.stop or "interrupted"}


def _lines(file: Path | None) -> Iterator[str]:
    """The lines of a file, or of stdin as they come."""
    from seap_export.errors import InputError

    if file is not None:
        yield from read_prompt(file).splitlines()
        return
    for line in sys.stdin.buffer:
        try:
            yield line.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise InputError("stdin: not UTF-8 text; give turns in UTF-8") from error


def _typed() -> Iterator[str]:
    """What is typed on a terminal, line by line, until Ctrl-D; Ctrl-C begins a new line."""
    with suppress(ImportError):
        import readline  # noqa: F401  # lines can be edited, and come back
    while True:
        with _interruptible(raises=True):
            try:
                line = input(_ASKS)
            except _NewLine:
                click.echo()
                continue
            except EOFError:
                click.echo()
                return
        yield line


class _NewLine(Exception):
    """Ctrl-C where a line is typed."""


@contextmanager
def _interruptible(raises: bool = False) -> Iterator[threading.Event]:
    """Within it, Ctrl-C is only noted between two tokens, so that what was computed stays whole; SIGTERM ends."""
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return

    def note(*_: object) -> None:
        interrupted.set()
        if raises:
            raise _NewLine

    before = signal.signal(signal.SIGINT, note)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)
