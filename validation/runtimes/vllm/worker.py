"""Runs a model folder with vLLM, in vLLM's own environment: it needs vLLM, numpy, and seap_export on PYTHONPATH.

The only argument is JSON: options of `vllm.LLM`.
Requests come as lines of JSON on the standard input; each gets a line on the standard output.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

#: Log-probabilities that are held as Python numbers at a time: about 60 bytes each.
_AT_ONCE = 1 << 24


def main() -> None:
    """Loads the model, then answers requests from the standard input until it ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # vLLM and its libraries print there
    options = json.loads(sys.argv[1])
    try:
        server = _Server(options)
    except ImportError as error:
        _answer(answers, {"missing": str(error)})
        return
    except Exception as error:  # whatever vLLM raises
        _answer(answers, {"error": _one_line(error)})
        return
    _answer(answers, {"vocab_size": server.vocab_size})
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if "prompt" in request:
                _answer(answers, {"seconds": server.times(**request)})
            elif "path" not in request:
                _answer(answers, {"tokens": server.follow(**request)})
            else:
                _answer(answers, {"tokens": server.score(**request)})
        except Exception as error:
            _answer(answers, {"error": _one_line(error)})


class _Server:
    def __init__(self, options: dict[str, Any]) -> None:
        from vllm import LLM, SamplingParams

        from seap_export.model.modeling.vllm_plugin import register_with_vllm

        register_with_vllm()
        self._llm: Any = LLM(**options)
        self._sampling = SamplingParams
        self.vocab_size = int(self._llm.llm_engine.model_config.get_vocab_size())

    def score(self, prompts: Sequence[Sequence[int]], steps: int, path: str) -> list[list[int]]:
        """Writes the log-probabilities of each prompt, [tokens - 1 + steps, vocabulary], to `path`, an .npz file.

        Returns the tokens that follow each prompt, the most likely ones. Prompts are batched as vLLM likes.
        """
        arrays, tokens = {}, []
        for block in self._blocks(prompts, steps):
            how = self._sampling(
                temperature=0.0, max_tokens=steps, ignore_eos=True, detokenize=False,
                prompt_logprobs=-1, logprobs=-1, flat_logprobs=True,
            )  # fmt: skip
            given = [{"prompt_token_ids": list(prompts[number])} for number in block]
            for number, output in zip(block, self._llm.generate(given, how, use_tqdm=False), strict=True):
                following = output.outputs[0]
                parts = [self._rows(output.prompt_logprobs)[1:], self._rows(following.logprobs)]
                arrays[str(number)] = np.concatenate(parts)
                tokens.append(list(map(int, following.token_ids)))
        with open(path, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        return tokens

    def follow(self, prompts: Sequence[Sequence[int]], steps: int) -> list[list[int]]:
        """Generates the `steps` most likely tokens after each prompt, without log-probabilities."""
        how = self._sampling(temperature=0.0, max_tokens=steps, ignore_eos=True, detokenize=False)
        given = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        outputs = self._llm.generate(given, how, use_tqdm=False)
        return [list(map(int, output.outputs[0].token_ids)) for output in outputs]

    def times(self, prompt: Sequence[int], steps: int) -> list[float]:
        """Seconds until the first token after a prompt, and until `steps` more have followed."""
        seconds = []
        for tokens in (1, 1 + steps):
            how = self._sampling(temperature=0.0, max_tokens=tokens, ignore_eos=True, detokenize=False)
            begin = time.perf_counter()
            self._llm.generate([{"prompt_token_ids": list(prompt)}], how, use_tqdm=False)
            seconds.append(time.perf_counter() - begin)
        return seconds

    def _blocks(self, prompts: Sequence[Sequence[int]], steps: int) -> Iterator[range]:
        """Yields ranges of prompts to run together, of about `_AT_ONCE` log-probabilities at most."""
        start, taken = 0, 0
        for number, prompt in enumerate(prompts):
            size = (len(prompt) + steps) * self.vocab_size
            if taken + size > _AT_ONCE and number > start:
                yield range(start, number)
                start, taken = number, 0
            taken += size
        yield range(start, len(prompts))

    def _rows(self, flat: Any) -> NDArray[np.float32]:
        """float32 [positions, vocabulary] of vLLM's FlatLogprobs; a position of which it knows nothing is NaN."""
        rows = np.full((len(flat.start_indices), self.vocab_size), np.nan, np.float32)
        for row, start, end in zip(rows, flat.start_indices, flat.end_indices, strict=True):
            row[flat.token_ids[start:end]] = flat.logprobs[start:end]
        return rows


def _answer(answers: TextIO, value: dict[str, Any]) -> None:
    answers.write(json.dumps(value) + "\n")
    answers.flush()


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


if __name__ == "__main__":
    main()
