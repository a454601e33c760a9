"""Text from one variant's ONNX folder: greedy or sampled, whole or as it comes, one prompt or many."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from seap_export.errors import ArtifactError, InputError, UsageError
from seap_export.runtime.decoder import Decoder
from seap_export.runtime.files import load_tokenizer, model_limits
from seap_export.runtime.sampling import GREEDY, Sampler, Sampling
from seap_export.runtime.text import TextStream

__all__ = ["Completion", "Generator", "Stop", "Stream"]

_GRAPH, _CONFIG = "model.onnx", "genai_config.json"
#: What ended a text: an end-of-sequence token, the number of tokens asked for, or the model's context.
Stop = Literal["end", "length", "context"]


@dataclass(frozen=True)
class Completion:
    """What follows a prompt.

    Attributes:
        text: Without special tokens.
        token_ids: With the end-of-sequence token if there is one.
        stop: What ended it.
    """

    text: str
    token_ids: tuple[int, ...]
    stop: Stop


class Stream(Iterator[str]):
    """The text after a prompt in pieces, as they come; no piece is empty or ends within a character.

    Attributes:
        token_ids: The tokens so far.
        stop: What ended the text; None: it goes on.
    """

    def __init__(self, generator: Generator, prompt: Sequence[int], max_new_tokens: int, sampling: Sampling) -> None:
        """Computes nothing before the first piece is asked for."""
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
    """A variant's ONNX folder, opened. Calls and streams may run side by side; each has a cache of its own.

    Attributes:
        tokenizer: That of tokenizer.json, as `load_tokenizer` opens it.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        provider: str = "cpu",
        threads: int | None = None,
        provider_options: Mapping[str, str] | None = None,
    ) -> None:
        """Opens the folder: model.onnx with its data, genai_config.json, tokenizer.json.

        Args:
            folder: The variant's `onnx` folder.
            provider: "cpu", "cuda" or "tensorrt".
            threads: Threads of the session; None: all cores this process may use.
            provider_options: Options of the execution provider, as ONNX Runtime documents them.

        Raises:
            UsageError: The provider, the threads or a provider option cannot be.
            ArtifactError: A file is missing or damaged.
            EnvironmentFailure: There is no such provider here.
        """
        folder = Path(folder)
        self._eos, context_length = model_limits(folder / _CONFIG)
        self.tokenizer = load_tokenizer(folder)
        self._decoder = Decoder(folder / _GRAPH, context_length, provider, threads, provider_options)

    def generate(self, prompt: str, max_new_tokens: int, sampling: Sampling = GREEDY) -> str:
        """The text that follows the prompt, without special tokens.

        Raises:
            UsageError: `max_new_tokens` is not positive.
            InputError: The prompt has no token, or more than the model can read.
            ArtifactError: The graph does not run.
            EnvironmentFailure: There is not enough memory.
        """
        return self.complete([prompt], max_new_tokens, sampling)[0].text

    def generate_batch(self, prompts: Sequence[str], max_new_tokens: int, sampling: Sampling = GREEDY) -> list[str]:
        """The text that follows each prompt, computed side by side; errors are those of `generate`."""
        return [completion.text for completion in self.complete(prompts, max_new_tokens, sampling)]

    def stream(self, prompt: str, max_new_tokens: int, sampling: Sampling = GREEDY) -> Stream:
        """The text of `generate` in pieces, as they come.

        Errors are those of `generate`; what can be told from the arguments is raised at once, not at the first piece.
        """
        ids = self.token_ids(prompt)
        self._check(ids, max_new_tokens)
        return Stream(self, ids, max_new_tokens, sampling)

    def complete(self, prompts: Sequence[str], max_new_tokens: int, sampling: Sampling = GREEDY) -> list[Completion]:
        """What follows each prompt, and what ended it; errors are those of `generate`."""
        rows = [self.token_ids(prompt) for prompt in prompts]
        return [
            Completion(self._text_after(row, new), tuple(new), self.stop(new, max_new_tokens))
            for row, new in zip(rows, self.generate_ids_batch(rows, max_new_tokens, sampling), strict=True)
        ]

    def token_ids(self, prompt: str) -> list[int]:
        """The prompt's token ids, with those special tokens around it that tokenizer.json says (BOS)."""
        return list(self.tokenizer.encode(prompt).ids)

    def generate_ids(self, token_ids: Sequence[int], max_new_tokens: int, sampling: Sampling = GREEDY) -> list[int]:
        """One token after another, until an end-of-sequence token, which is given too.

        It also ends after `max_new_tokens`, and when the model's context is full. Errors are those of `generate`.
        """
        return self.generate_ids_batch([token_ids], max_new_tokens, sampling)[0]

    def generate_ids_batch(
        self, token_ids: Sequence[Sequence[int]], max_new_tokens: int, sampling: Sampling = GREEDY
    ) -> list[list[int]]:
        """As `generate_ids`, for several prompts side by side."""
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
        """The next token of every row that goes on, step by step, for token ids that are known to fit."""
        decoding = self._decoder.start(rows, max_new_tokens)
        samplers = [Sampler(sampling, row) for row in rows]
        room = [min(max_new_tokens, self._decoder.context_length - len(row)) for row in rows]
        every = range(len(rows))
        active = list(every)
        for number in range(1, max(room) + 1):
            found = decoding.logits if len(active) == len(rows) else decoding.logits[active]
            # A NaN or an infinity shows in the extremes.
            if not (math.isfinite(found.min()) and math.isfinite(found.max())):
                raise ArtifactError(
                    f"{self._decoder.path}: its logits are NaN or infinite; it is damaged, export again"
                )
            chosen = {row: samplers[row].choose(decoding.logits[row]) for row in active}
            yield chosen
            active = [row for row, token in chosen.items() if token not in self._eos and number < room[row]]
            if not active:
                return
            decoding.step([chosen.get(row, 0) for row in every], [row in active for row in every])

    def _text_after(self, prompt: Sequence[int], new: Sequence[int]) -> str:
        """All pieces that `stream` gives."""
        text = TextStream(self.tokenizer, prompt)
        return "".join([*map(text.add, new), text.end()])

    def stop(self, new: Sequence[int], max_new_tokens: int) -> Stop:
        """What ended these new tokens, all there are."""
        if new[-1] in self._eos:
            return "end"
        return "length" if len(new) == max_new_tokens else "context"

    def _check(self, token_ids: Sequence[int], max_new_tokens: int) -> None:
        if max_new_tokens < 1:
            raise UsageError(f"{max_new_tokens} new tokens were asked for; ask for at least 1")
        if not token_ids:
            raise InputError("the prompt has no token to go on from; give a longer prompt")
        context = self._decoder.context_length
        if len(token_ids) >= context:
            raise InputError(
                f"the prompt has {len(token_ids)} tokens, and the model's context is {context}; give a shorter prompt"
            )
