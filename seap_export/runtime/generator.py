"""Generates text from a variant's ONNX folder: greedy or sampled, whole or streamed, one prompt or many."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Generator as Generated
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from seap_export.common.checksums import refuse_changed
from seap_export.errors import ArtifactError, InputError, UsageError
from seap_export.runtime.chat import Prompt, read_chat_template
from seap_export.runtime.decoding.decoder import Cancelled, Decoding, OnnxDecoder, never
from seap_export.runtime.decoding.prefix import PrefixCache
from seap_export.runtime.decoding.sampling import GREEDY, Sampler, Sampling
from seap_export.runtime.files import GRAPH, decoder_options, load_tokenizer, model_limits
from seap_export.runtime.job import Record, read_job
from seap_export.runtime.labels import LabelChoice, Tokens, label_tokens
from seap_export.runtime.prompts import prompt_ids
from seap_export.runtime.text import StopTexts, TextStream

_CONFIG = "genai_config.json"
#: Why a text ended: end-of-sequence token, requested number of tokens, full context, or a stop text.
Stop = Literal["end", "length", "context", "text"]


@dataclass(frozen=True)
class Completion:
    """The generated continuation of a prompt.

    Attributes:
        text: The text without special tokens.
        token_ids: The tokens, including the end-of-sequence token if there is one.
        stop: Why it ended.
        prompt_tokens: How many tokens the prompt has, including those of the chat template.
        confidence: The probability of the label among all labels of the job; None: the text is not held to labels.
    """

    text: str
    token_ids: tuple[int, ...]
    stop: Stop
    prompt_tokens: int
    confidence: float | None = None


class Row:
    """One text while it is generated.

    Attributes:
        prompt: The token ids of its prompt.
        token_ids: The new tokens so far.
        stop: Why it ended; None while it goes on.
        choice: The labels that the answer may still become; None: it may be any text.
    """

    def __init__(
        self,
        generator: Generator,
        prompt: Sequence[int],
        max_new_tokens: int,
        sampling: Sampling,
        stops: Sequence[str] = (),
        *,
        is_stripped: bool = False,
        labels: Sequence[Tokens] = (),
    ) -> None:
        """Starts after a prompt, which must fit the context; raises `UsageError` if a stop text is empty.

        Args:
            is_stripped: Leave out the white space that the text begins with.
            labels: The tokens of the texts that it may be; empty: any.
        """
        self.prompt, self.token_ids = prompt, list[int]()
        self.stop: Stop | None = None
        self._sampler, self._text = Sampler(sampling, prompt), TextStream(generator.tokenizer, prompt)
        self._stops, self._ends, self._wanted = StopTexts(stops), generator.ends, max_new_tokens
        self._room = generator.decoder.context_length - len(prompt)
        self._is_stripped, self.choice = is_stripped, LabelChoice(labels) if labels else None

    def add(self, logits: NDArray[np.float32]) -> str:
        """Chooses the next token from finite logits [vocabulary]; the piece of text that it completes, if any."""
        token = self._sampler.choose(logits if self.choice is None else self.choice.masked(logits))
        if self.choice is not None:
            self.choice.add(token, logits)
        self.token_ids.append(token)
        piece = self._stops.add(self._text.add(token))
        if token in self._ends:
            self.stop = "end"
        elif len(self.token_ids) >= min(self._wanted, self._room):
            self.stop = "length" if len(self.token_ids) == self._wanted else "context"
        if self.choice is not None and self.choice.is_complete:
            self.stop = "text"
        if self.stop is not None:
            piece += self._stops.add(self._text.end()) + self._stops.end()
        if self._stops.is_reached:
            self.stop = "text"
        if self._is_stripped:
            piece = piece.lstrip()
            self._is_stripped = not piece
        return piece


class Stream(Iterator[str]):
    """The continuation of a prompt in pieces; no piece is empty or ends within a character."""

    def __init__(
        self,
        generator: Generator,
        row: Row,
        max_new_tokens: int,
        cache: PrefixCache | None = None,
        cancelled: Callable[[], bool] = never,
    ) -> None:
        """Computes nothing until the first piece is requested."""
        self.prompt_tokens = len(row.prompt)
        self._row = row
        self._pieces = self._run(generator, max_new_tokens, cache or PrefixCache(generator.decoder), cancelled)

    @property
    def token_ids(self) -> list[int]:
        return self._row.token_ids

    @property
    def stop(self) -> Stop | None:
        """Why the text ended; None while it goes on, and if it was cancelled."""
        return self._row.stop

    def __next__(self) -> str:
        return next(self._pieces)

    def close(self) -> None:
        """Ends it before its end; nothing more is computed."""
        self._pieces.close()

    def _run(
        self, generator: Generator, max_new_tokens: int, cache: PrefixCache, cancelled: Callable[[], bool]
    ) -> Generated[str, None, None]:
        row = self._row
        try:
            decoding = cache.start(row.prompt, max_new_tokens, cancelled)
        except Cancelled:
            return
        try:
            for pieces in generator.steps(decoding, [row]):
                if pieces[0]:
                    yield pieces[0]
                if cancelled():
                    return
        finally:
            ran = [*row.prompt, *row.token_ids[:-1]]
            if len(ran) == decoding.lengths[0]:  # if not, an error broke a step off
                cache.keep(ran, decoding)


class Generator:
    """An opened ONNX folder of a variant. Calls and streams may run side by side; each has a separate cache.

    A prompt is a text or a list of messages, such as `[{"role": "user", "content": "What is 12 + 30?"}]`. If the model
    has a chat template, a text becomes one user turn, unless `raw=True` leaves it as it is, or the variant was made
    from plain texts.

    Attributes:
        tokenizer: The tokenizer, as `load_tokenizer` loads it.
        chat_template: The model's chat template; None: it has none, and continues texts only.
        is_checked: Whether the folder has a list of its files, SHA256SUMS, with which all were compared.
        ends: The tokens that end a text.
        job: The job that the variant has learnt, in whose form it is asked unless `raw` is given; None: it has none.
        decoder: The opened graph.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        provider: str = "cpu",
        threads: int | None = None,
        provider_options: Mapping[str, str] | None = None,
    ) -> None:
        """Opens the folder, which contains model.onnx with its data, genai_config.json and tokenizer.json.

        Args:
            folder: The variant's `onnx` folder.
            provider: A key of `PROVIDERS`.
            threads: Threads of the session; None: all cores available to this process.
            provider_options: Options of the execution provider, as ONNX Runtime documents them.

        Raises:
            UsageError: The provider is unknown, `threads` is not positive or a provider option is not supported.
            ArtifactError: A file is missing or damaged, or not in the folder's list.
            EnvironmentFailure: The provider is not available on this machine.
        """
        folder = Path(folder)
        self.is_checked = refuse_changed(folder)
        self.ends, context_length = model_limits(folder / _CONFIG)
        self.tokenizer = load_tokenizer(folder)
        self.chat_template = read_chat_template(folder, self.tokenizer)
        if self.chat_template is not None:
            self.ends |= self.chat_template.turn_ends(self.tokenizer)
        options = decoder_options(folder / _CONFIG, provider, provider_options)
        self.job = read_job(folder)
        self._labels = () if self.job is None else label_tokens(self.job, self.tokenizer)
        self.decoder = OnnxDecoder(folder / GRAPH, context_length, provider, threads, options)

    def generate(
        self,
        prompt: Prompt,
        max_new_tokens: int,
        sampling: Sampling = GREEDY,
        *,
        raw: bool | None = None,
        stop: Sequence[str] = (),
    ) -> str:
        """Generates the answer to a prompt, or what follows a raw one, without special tokens.

        Args:
            prompt: A text or messages.
            max_new_tokens: The most tokens of the answer.
            sampling: How tokens are chosen.
            raw: Whether a text stays as it is; None: as in the texts that the variant was made from, if it says so.
            stop: Texts before the first of which the answer ends.

        Raises:
            UsageError: `max_new_tokens` is not positive, a stop text is empty, or messages are given for a model
                without a chat template.
            InputError: The prompt has no tokens, or too many for the model's context, or the chat template refuses it.
            ArtifactError: The graph does not run.
            EnvironmentFailure: There is not enough memory.
        """
        return self.complete([prompt], max_new_tokens, sampling, raw=raw, stop=stop)[0].text

    def generate_batch(
        self,
        prompts: Sequence[Prompt],
        max_new_tokens: int,
        sampling: Sampling = GREEDY,
        *,
        raw: bool | None = None,
        stop: Sequence[str] = (),
    ) -> list[str]:
        """Generates the answers to several prompts in one batch; raises the errors of `generate`."""
        return [answer.text for answer in self.complete(prompts, max_new_tokens, sampling, raw=raw, stop=stop)]

    def stream(
        self,
        prompt: Prompt,
        max_new_tokens: int,
        sampling: Sampling = GREEDY,
        *,
        raw: bool | None = None,
        stop: Sequence[str] = (),
        cache: PrefixCache | None = None,
        cancelled: Callable[[], bool] = never,
    ) -> Stream:
        """Generates the text of `generate` in pieces.

        Args:
            prompt: As of `generate`, and so are the others.
            cache: Of this generator's `decoder`: what begins as the last text that was streamed with it is not
                computed again.
            cancelled: Asked before each call of the graph; the text ends where it returns True.

        Raises the errors of `generate`; those that depend only on the arguments at once, not at the first piece.
        """
        row = self._row(prompt, max_new_tokens, sampling, raw, stop)
        return Stream(self, row, max_new_tokens, cache, cancelled)

    def complete(
        self,
        prompts: Sequence[Prompt | Record],
        max_new_tokens: int,
        sampling: Sampling = GREEDY,
        *,
        raw: bool | None = None,
        stop: Sequence[str] = (),
    ) -> list[Completion]:
        """The answer to each prompt and why it ended; raises the errors of `generate`.

        A model that has learnt a job takes records, too, whose fields its prompts are made from.
        """
        if isinstance(prompts, str):  # its letters are no prompts
            raise TypeError(f"several prompts are a list, not {prompts!r:.40}; give [prompt]")
        rows = [self._row(prompt, max_new_tokens, sampling, raw, stop) for prompt in prompts]
        texts = self._texts(rows, max_new_tokens)
        return [
            Completion(
                text,
                tuple(row.token_ids),
                row.stop or "length",
                len(row.prompt),
                None if row.choice is None else row.choice.confidence,
            )
            for row, text in zip(rows, texts, strict=True)
        ]

    def token_ids(self, prompt: Prompt | Record, *, raw: bool | None = None) -> list[int]:
        """The prompt's token ids, as `prompts.prompt_ids` gives them; raises its errors."""
        return prompt_ids(prompt, self.tokenizer, self.chat_template, raw=raw, job=self.job)

    def generate_ids(self, token_ids: Sequence[int], max_new_tokens: int, sampling: Sampling = GREEDY) -> list[int]:
        """Generates tokens up to and including an end-of-sequence token.

        Also ends after `max_new_tokens` or when the model's context is full. Raises the errors of `generate`.
        """
        return self.generate_ids_batch([token_ids], max_new_tokens, sampling)[0]

    def generate_ids_batch(
        self, token_ids: Sequence[Sequence[int]], max_new_tokens: int, sampling: Sampling = GREEDY
    ) -> list[list[int]]:
        """Like `generate_ids`, for several prompts in one batch."""
        for prompt in token_ids:
            self.check(prompt, max_new_tokens)
        rows = [Row(self, prompt, max_new_tokens, sampling) for prompt in token_ids]
        self._texts(rows, max_new_tokens)
        return [row.token_ids for row in rows]

    def steps(self, decoding: Decoding, rows: Sequence[Row]) -> Iterator[dict[int, str]]:
        """Adds a token to every unfinished row, step by step, and yields the pieces of their texts by row."""
        every = range(len(rows))
        active = list(every)
        while True:
            logits = decoding.logits if len(active) == len(rows) else decoding.logits[active]
            # A NaN or an infinity shows in the minimum or the maximum.
            if not (math.isfinite(logits.min()) and math.isfinite(logits.max())):
                raise ArtifactError(
                    f"{self.decoder.path}: its logits are NaN or infinite; the model is damaged, export again"
                )
            yield {row: rows[row].add(decoding.logits[row]) for row in active}
            active = [row for row in active if rows[row].stop is None]
            if not active:
                return
            grows = [row in active for row in every]
            decoding.step([rows[row].token_ids[-1] if grows[row] else 0 for row in every], grows)

    def _texts(self, rows: Sequence[Row], max_new_tokens: int) -> list[str]:
        """The whole text of each row, generated together."""
        texts: list[list[str]] = [[] for _ in rows]
        if rows:
            decoding = self.decoder.start([row.prompt for row in rows], max_new_tokens)
            for pieces in self.steps(decoding, rows):
                for row, piece in pieces.items():
                    texts[row].append(piece)
        return list(map("".join, texts))

    def _row(
        self,
        prompt: Prompt | Record,
        max_new_tokens: int,
        sampling: Sampling,
        raw: bool | None,
        stop: Sequence[str],
    ) -> Row:
        token_ids, stops = self.token_ids(prompt, raw=raw), (stop,) if isinstance(stop, str) else tuple(stop)
        self.check(token_ids, max_new_tokens)
        if self.job is None or raw is not None:
            return Row(self, token_ids, max_new_tokens, sampling, stops)
        return Row(
            self, token_ids, max_new_tokens, sampling, (*stops, *self.job.stops), is_stripped=True, labels=self._labels
        )

    def check(self, token_ids: Sequence[int], max_new_tokens: int) -> None:
        if max_new_tokens < 1:
            raise UsageError(f"{max_new_tokens} new tokens were requested; request at least 1")
        if not token_ids:
            raise InputError("the prompt has no tokens; give a longer prompt")
        context = self.decoder.context_length
        if len(token_ids) >= context:
            raise InputError(
                f"the prompt has {len(token_ids)} tokens, but the model's context is {context}; give a shorter prompt"
            )
