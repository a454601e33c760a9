"""Greedy decoding of one variant's ONNX folder, with the KV cache."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seap_export.errors import ArtifactError, InputError, UsageError
from seap_export.runtime.files import load_tokenizer, read_object
from seap_export.runtime.session import OnnxModel

__all__ = ["Generator"]

_GRAPH, _CONFIG = "model.onnx", "genai_config.json"
_CACHE_INPUT = re.compile(r"past_key_values\.\d+\.(key|value)")


class Generator:
    """A variant's ONNX folder, opened; one prompt at a time."""

    def __init__(self, folder: Path, provider: str = "cpu", threads: int | None = None) -> None:
        """Opens the folder: model.onnx with its data, genai_config.json, tokenizer.json.

        Args:
            folder: The variant's `onnx` folder.
            provider: "cpu" or "cuda".
            threads: Threads of the session; None: all cores this process may use.

        Raises:
            ArtifactError: A file is missing or damaged.
            EnvironmentFailure: There is no such provider here.
        """
        self._path = folder / _GRAPH
        self._eos, self._context_length = _limits(folder / _CONFIG)
        self._tokenizer = load_tokenizer(folder)
        self._model = OnnxModel(self._path, provider, threads)
        inputs = self._model.inputs
        self._empty = {name: self._empty_cache(item) for name, item in inputs.items() if _CACHE_INPUT.fullmatch(name)}
        self._outputs = ["logits", *(name.replace("past_key_values", "present") for name in self._empty)]
        if inputs.keys() - self._empty.keys() != {"input_ids", "attention_mask"} or not self._empty:
            raise ArtifactError(f"{self._path}: its inputs are not those of a decoder with a KV cache; export again")
        if not set(self._outputs) <= self._model.outputs.keys():
            raise ArtifactError(f"{self._path}: its outputs are not those of a decoder with a KV cache; export again")

    def generate(self, prompt: str, max_new_tokens: int) -> str:
        """The text that follows the prompt, without special tokens.

        Raises:
            UsageError: `max_new_tokens` is not positive.
            InputError: The prompt has no token, or more than the model can read.
            ArtifactError: The graph does not run.
        """
        ids = self.token_ids(prompt)
        return self._text_after(ids, self.generate_ids(ids, max_new_tokens))

    def token_ids(self, prompt: str) -> list[int]:
        """The prompt's token ids, with those special tokens around it that tokenizer.json says (BOS)."""
        return list(self._tokenizer.encode(prompt).ids)

    def generate_ids(self, token_ids: list[int], max_new_tokens: int) -> list[int]:
        """The most likely token again and again, until an end-of-sequence token, which is given too.

        It also ends after `max_new_tokens`, and when the model's context is full.

        Raises:
            UsageError: `max_new_tokens` is not positive.
            InputError: There is no token, or more than the model can read.
            ArtifactError: The graph does not run.
        """
        if max_new_tokens < 1:
            raise UsageError(f"{max_new_tokens} new tokens were asked for; ask for at least 1")
        if not token_ids:
            raise InputError("the prompt has no token to go on from; give a longer prompt")
        room = self._context_length - len(token_ids)
        if room < 1:
            raise InputError(
                f"the prompt has {len(token_ids)} tokens, and the model's context is {self._context_length}; "
                "give a shorter prompt"
            )
        past, step, new = self._empty, token_ids, []
        for _ in range(min(max_new_tokens, room)):
            logits, past = self._run(step, past)
            new.append(int(logits.argmax()))
            if new[-1] in self._eos:
                break
            step = new[-1:]
        return new

    def _run(
        self, token_ids: list[int], past: dict[str, NDArray[np.floating]]
    ) -> tuple[NDArray[np.floating], dict[str, NDArray[np.floating]]]:
        """The logits [vocabulary] after the last of `token_ids`, and the cache with them."""
        input_ids = np.array([token_ids], np.int64)
        total = next(iter(past.values())).shape[2] + len(token_ids)
        feeds = {"input_ids": input_ids, "attention_mask": np.ones((1, total), np.int64), **past}
        logits, *present = self._model.run(self._outputs, feeds)
        last = logits[0, -1]
        if not np.isfinite(last).all():
            raise ArtifactError(f"{self._path}: its logits are NaN or infinite; it is damaged, export again")
        return last, dict(zip(past, present, strict=True))

    def _text_after(self, prompt: list[int], new: list[int]) -> str:
        """The text of `new`; decoded behind the prompt, since some tokenizers drop a leading space."""
        before, whole = self._tokenizer.decode(prompt), self._tokenizer.decode(prompt + new)
        return whole[len(before) :] if whole.startswith(before) else self._tokenizer.decode(new)

    def _empty_cache(self, item: Any) -> NDArray[np.floating]:
        """[1, KV heads, 0, head size] for one cache input of the graph."""
        shape = item.shape
        dtypes = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
        is_fixed = len(shape) == 4 and isinstance(shape[1], int) and isinstance(shape[3], int)
        if not is_fixed or item.type not in dtypes:
            raise ArtifactError(f"{self._path}: input {item.name} is not a cache of fixed heads; export again")
        return np.zeros((1, shape[1], 0, shape[3]), dtypes[item.type])


def _limits(path: Path) -> tuple[frozenset[int], int]:
    """The end-of-sequence tokens and the context length that genai_config.json names."""
    model = read_object(path).get("model")
    values = model if isinstance(model, dict) else {}
    eos, context = values.get("eos_token_id"), values.get("context_length")
    ids = eos if isinstance(eos, list) else [eos]
    if not ids or not all(isinstance(token, int) for token in ids) or not isinstance(context, int):
        raise ArtifactError(f"{path}: it names no eos_token_id or no context_length; it is damaged, export again")
    return frozenset(ids), context
