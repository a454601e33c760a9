"""Generates text from a variant's ONNX folder: greedy or sampled, whole or streamed, one prompt or many."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from seap_export.common.checksums import refuse_changed
from seap_export.errors import ArtifactError, InputError, UsageError
from seap_export.runtime.chat import Prompt, read_chat_template, rendered
from seap_export.runtime.decoding.decoder import OnnxDecoder
from seap_export.runtime.decoding.sampling import GREEDY, Sampler, Sampling
from seap_export.runtime.files import GRAPH, decoder_options, encode, load_tokenizer, model_limits
from seap_export.runtime.text import TextStream

_CONFIG = "genai_config.json"
#: Why a text ended: end-of-sequence token, requested number of tokens, or full context.
Stop = Literal["end", "length", "context"]


@dataclass(frozen=True)
class Completion:
    """The generated continuation of a prompt.

    Attributes:
        text: The text without special tokens.
        token_ids: The tokens, including the end-of-sequence token if there is one.
        stop: Why it ended.
        prompt_tokens: How many tokens the prompt has, including those of the chat template.
    """

    text: str
    token_ids: tuple[int, ...]
    stop: Stop
    prompt_tokens: int


class Stream(Iterator[str]):
    """The continuation of a prompt in pieces; no piece is empty or ends within a character.

    Attributes:
        token_ids: The tokens so far.
        stop: Why the text ended; None while it goes on.
    """

    def __init__(self, generator: Generator, prompt: Sequence[int], max_new_tokens: int, sampling: Sampling) -> None:
        """Computes nothing until the first piece is requested."""
        self.token_ids: list[int] = []
        self.stop: Stop | None = None
        self._pieces = self._run(generator, prompt, max_new_tokens, sampling)

    def __next__(self) -> str:
        return next(self._pieces)

    def _run(
        self, generator: Generator, prompt: Sequence[int], max_new_tokens: int, sampling: Sampling
    ) -> Iterator[str]:
        text = TextStream(generator.tokenizer, prompt)
        for step in generator.steps([prompt], max_new_tokens, sampling):
            self.token_ids.append(step[0])
            if piece := text.add(step[0]):
                yield piece
        self.stop = generator.stop(self.token_ids, max_new_tokens)
        if piece := text.end():
            yield piece


class Generator:
    """An opened ONNX folder of a variant. Calls and streams may run side by side; each has a separate cache.

    A prompt is a text or a list of messages, such as `[{"role": "user", "content": "What is 12 + 30?"}]`. If the model
    has a chat template, a text becomes one user turn, unless `raw=True` leaves it as it is.

    Attributes:
        tokenizer: The tokenizer, as `load_tokenizer` loads it.
        chat_template: The model's chat template; None: it has none, and continues texts only.
        is_checked: Whether the folder has a list of its files, SHA256SUMS, with which all were compared.
        ends: The tokens that end a text.
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
            provider: "cpu", "cuda" or "tensorrt".
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
        self.decoder = OnnxDecoder(folder / GRAPH, context_length, provider, threads, options)

    def generate(self, prompt: Prompt, max_new_tokens: int, sampling: Sampling = GREEDY, *, raw: bool = False) -> str:
        """Generates the answer to a prompt, or what follows a raw one, without special tokens.

        Raises:
            UsageError: `max_new_tokens` is not positive, or messages are given for a model without a chat template.
            InputError: The prompt has no tokens, or too many for the model's context, or the chat template refuses it.
            ArtifactError: The graph does not run.
            EnvironmentFailure: There is not enough memory.
        """
        return self.complete([prompt], max_new_tokens, sampling, raw=raw)[0].text

    def generate_batch(
        self, prompts: Sequence[Prompt], max_new_tokens: int, sampling: Sampling = GREEDY, *, raw: bool = False
    ) -> list[str]:
        """Generates the answers to several prompts in one batch; raises the errors of `generate`."""
        return [completion.text for completion in self.complete(prompts, max_new_tokens, sampling, raw=raw)]

    def stream(self, prompt: Prompt, max_new_tokens: int, sampling: Sampling = GREEDY, *, raw: bool = False) -> Stream:
        """Generates the text of `generate` in pieces.

        Raises the errors of `generate`; those that depend only on the arguments at once, not at the first piece.
        """
        ids = self.token_ids(prompt, raw=raw)
        self._check(ids, max_new_tokens)
        return Stream(self, ids, max_new_tokens, sampling)

    def complete(
        self, prompts: Sequence[Prompt], max_new_tokens: int, sampling: Sampling = GREEDY, *, raw: bool = False
    ) -> list[Completion]:
        """The answer to each prompt and why it ended; raises the errors of `generate`."""
        if isinstance(prompts, str):  # its letters are no prompts
            raise TypeError(f"several prompts are a list, not {prompts!r:.40}; give [prompt]")
        rows = [self.token_ids(prompt, raw=raw) for prompt in prompts]
        return [
            Completion(self._text_after(row, new), tuple(new), self.stop(new, max_new_tokens), len(row))
            for row, new in zip(rows, self.generate_ids_batch(rows, max_new_tokens, sampling), strict=True)
        ]

    def token_ids(self, prompt: Prompt, *, raw: bool = False) -> list[int]:
        """The prompt's token ids, including the special tokens that tokenizer.json adds (BOS).

        Raises:
            UsageError: Messages are given for a model without a chat template, or `raw`.
            InputError: The chat template refuses the messages.
        """
        return encode(self.tokenizer, rendered(prompt, self.chat_template, raw=raw))

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
            self._check(prompt, max_new_tokens)
        new: list[list[int]] = [[] for _ in token_ids]
        if token_ids:
            for step in self.steps(token_ids, max_new_tokens, sampling):
                for row, token in step.items():
                    new[row].append(token)
        return new

    def steps(
        self, rows: Sequence[Sequence[int]], max_new_tokens: int, sampling: Sampling
    ) -> Iterator[dict[int, int]]:
        """Yields the next token of every unfinished row, step by step; the prompts must fit the context."""
        decoding = self.decoder.start(rows, max_new_tokens)
        samplers = [Sampler(sampling, row) for row in rows]
        room = [min(max_new_tokens, self.decoder.context_length - len(row)) for row in rows]
        every = range(len(rows))
        active = list(every)
        for number in range(1, max(room) + 1):
            logits = decoding.logits if len(active) == len(rows) else decoding.logits[active]
            # A NaN or an infinity shows in the minimum or the maximum.
            if not (math.isfinite(logits.min()) and math.isfinite(logits.max())):
                raise ArtifactError(
                    f"{self.decoder.path}: its logits are NaN or infinite; the model is damaged, export again"
                )
            chosen = {row: samplers[row].choose(decoding.logits[row]) for row in active}
            yield chosen
            active = [row for row, token in chosen.items() if token not in self.ends and number < room[row]]
            if not active:
                return
            decoding.step([chosen.get(row, 0) for row in every], [row in active for row in every])

    def _text_after(self, prompt: Sequence[int], new: Sequence[int]) -> str:
        """The text of new tokens after a prompt, which is that of all pieces of `stream`."""
        text = TextStream(self.tokenizer, prompt)
        return "".join([*map(text.add, new), text.end()])

    def stop(self, new: Sequence[int], max_new_tokens: int) -> Stop:
        """Why the generation of these new tokens ended."""
        if new[-1] in self.ends:
            return "end"
        return "length" if len(new) == max_new_tokens else "context"

    def _check(self, token_ids: Sequence[int], max_new_tokens: int) -> None:
        if max_new_tokens < 1:
            raise UsageError(f"{max_new_tokens} new tokens were requested; request at least 1")
        if not token_ids:
            raise InputError("the prompt has no tokens; give a longer prompt")
        context = self.decoder.context_length
        if len(token_ids) >= context:
            raise InputError(
                f"the prompt has {len(token_ids)} tokens, but the model's context is {context}; give a shorter prompt"
            )
