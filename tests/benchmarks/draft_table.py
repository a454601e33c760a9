"""What a draft would gain: how often it guesses a target's next token, and the time that this saves, as a table.

    python tests/benchmarks draft_table --target fp32=DENSE/onnx-fp32 --target int8=DENSE/onnx \
        --draft "0.5 int4"=PRUNED/onnx-int4 --draft "dense int4"=DENSE/onnx-int4 --calibration OUT/calibration/TASK

The target answers the held-out prompts greedily. In speculative decoding a draft guesses `k` tokens, one step each;
the target computes all of them in one call, and keeps those that it would have chosen and one of its own
(https://arxiv.org/abs/2211.17192). A guess counts only if all before it were right, so the number of rounds follows
from whether the draft knows each next token of the target's text. The expected speed-up is the time of the target's
steps over that of the rounds, for the best `k`.

A draft may lack tokens of the target's vocabulary, which it never guesses and reads as its first token.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from seap_export.pruning.activations.statistics import Calibration
from seap_export.runtime.files import load_tokenizer
from validation.execution import Execution
from validation.reports.markdown import markdown_table
from validation.runtimes.onnx_runtime.onnx_runner import OnnxRunner, open_onnx_runtime
from validation.runtimes.runner import Opening

#: The most tokens that are guessed in one round.
_MOST = 8
_PROMPTS = 16
Guessed = NDArray[np.bool_]


@dataclass(frozen=True)
class _Text:
    """A prompt, and what the target answers, as token ids; -1 is a token that a draft lacks."""

    prompt: list[int]
    answer: list[int]

    def renumbered(self, numbers: Mapping[int, int]) -> _Text:
        return _Text(*([numbers.get(token, -1) for token in tokens] for tokens in (self.prompt, self.answer)))


@click.command()
@click.option("--target", "targets", multiple=True, required=True, metavar="NAME=FOLDER")
@click.option("--draft", "drafts", multiple=True, required=True, metavar="NAME=FOLDER")
@click.option("--calibration", "folder", required=True, type=click.Path(path_type=Path), help="With held-out prompts.")
@click.option("--tokens", type=int, default=64, show_default=True, help="Tokens of an answer.")
@click.option("--runs", type=int, default=15, show_default=True, help="Timed calls of each length, in turn.")
@click.option("--threads", type=int, default=2, show_default=True)
def draft_table(
    targets: tuple[str, ...], drafts: tuple[str, ...], folder: Path, tokens: int, runs: int, threads: int
) -> None:
    """Print the table: acceptance is the mean share of guesses that are right, wherever they are made."""
    held_out = [sample["prompt"] or sample["completion"] for sample in Calibration(folder).record.held_out[:_PROMPTS]]
    rows: list[tuple[str, ...]] = []
    for target, path in _named(targets):
        opening = Opening(Execution(threads=threads), "scored")  # with the logits of all tokens, which a check needs
        runner = open_onnx_runtime(path, opening)
        tokenizer = load_tokenizer(path)
        texts = [_answered(runner, tokenizer.encode(prompt).ids[-256:], tokens) for prompt in held_out]
        for draft, other in _named(drafts):
            guesser = open_onnx_runtime(other, opening)
            numbers = shared_numbers(tokenizer, load_tokenizer(other))
            known = [text.renumbered(numbers) for text in texts]
            guessed = [_guessed(guesser, text) for text in known]
            steps, guess = _times([(runner, texts[0]), (guesser, known[0])], runs)
            answers = sum(map(len, guessed))
            per_round = {k: answers / sum(rounds(right, k) for right in guessed) for k in range(1, _MOST + 1)}
            gains = {k: count * steps[1] / (k * guess[1] + steps[k + 1]) for k, count in per_round.items()}
            k = max(gains, key=lambda each: gains[each])
            times = (f"{seconds * 1e3:.1f} ms" for seconds in (steps[1], guess[1], steps[k + 1]))
            acceptance = f"{np.concatenate(guessed).mean():.1%}"
            rows.append((target, draft, acceptance, str(k), f"{per_round[k]:.2f}", *times, f"{gains[k]:.2f}"))
            guesser.close()
        runner.close()
    head = ("target", "draft", "acceptance", "k", "tokens a round", "step", "guess", "check of k + 1", "speed-up")
    click.echo(markdown_table(head, rows))


def rounds(right: Guessed, k: int) -> int:
    """How many calls of the target an answer takes, if `k` tokens are guessed in each round."""
    position, count = 0, 0
    while position < len(right):
        wrong = np.flatnonzero(~right[position : position + k])
        position += (int(wrong[0]) if len(wrong) else k) + 1
        count += 1
    return count


def _named(values: Sequence[str]) -> list[tuple[str, Path]]:
    pairs = [value.partition("=") for value in values]
    return [(name, Path(path)) for name, _, path in pairs]


def _answered(runner: OnnxRunner, prompt: list[int], tokens: int) -> _Text:
    logits = runner.prefill(np.array([prompt]), [len(prompt)], tokens)[:, -1]
    answer = []
    for _ in range(tokens):
        answer.append(int(logits[0].argmax()))
        logits = runner.step(answer[-1:])
    return _Text(prompt, answer)


def _guessed(runner: OnnxRunner, text: _Text) -> Guessed:
    """Whether the draft knows each token of the answer after the first, which the prompt gives."""
    ids = np.maximum([text.prompt + text.answer[:-1]], 0)
    likely = runner.prefill(ids, [ids.shape[1]])[0, len(text.prompt) :].argmax(-1)
    return np.asarray(likely == text.answer[1:], bool)


def shared_numbers(target: Tokenizer, draft: Tokenizer) -> dict[int, int]:
    """The draft's token id for each of the target's that it has."""
    ids = draft.get_vocab()
    return {token: ids[text] for text, token in target.get_vocab().items() if text in ids}


def _times(runners: Sequence[tuple[OnnxRunner, _Text]], runs: int) -> list[dict[int, float]]:
    """Median seconds of a call with 1, 2, ... new tokens after the prompt; all take turns."""
    lengths = range(1, _MOST + 2)
    times: list[dict[int, list[float]]] = [{length: [] for length in lengths} for _ in runners]
    for _ in range(runs):
        for (runner, text), seconds in zip(runners, times, strict=True):
            runner.prefill(np.maximum([text.prompt], 0), [len(text.prompt)], sum(lengths))
            for length in lengths:
                ids = np.maximum([(text.answer * length)[:length]], 0)
                begin = time.perf_counter()
                runner.append(ids)
                seconds[length].append(time.perf_counter() - begin)
    return [{length: statistics.median(each) for length, each in seconds.items()} for seconds in times]
