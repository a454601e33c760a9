"""Runs an IR of OpenVINO: prompts, then more tokens, with the cache in its states.

Computation and cache are float32, and activations are not rounded to integers, which the CPU plugin otherwise does
where weights are integers. Batches are padded on the right, and each further token comes after the padding, which
stays hidden.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from converters.openvino.ir_file import MODEL_FILE
from converters.openvino.packages import EXTRA, require
from seap_export.errors import ArtifactError, ParityFailure
from seap_export.model.families import Attention
from seap_export.model.sources.config import read_spec
from validation.runtimes.runner import Layers, Logits, Opening, Runner, real_lengths, reported
from validation.runtimes.texts import Conversation, RuntimeTexts

_INPUTS = {"input_ids", "attention_mask", "position_ids", "beam_idx"}
_STATE = re.compile(r"past_key_values\.(\d+)\.(key|value)present\.\1\.\2|past\.(\d+)\.(conv|recurrent)present\.\3\.\4")


class OpenvinoRunner(Runner):
    """Runs one generation after another; `prefill` starts a new one, `append` and `step` continue it."""

    runtime: ClassVar[str] = "openvino"
    extra: ClassVar[str | None] = EXTRA

    def __init__(self, folder: Path, threads: int = 1, properties: Mapping[str, Any] | None = None) -> None:
        ov = require("openvino")
        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": "f32",
            "KV_CACHE_PRECISION": "f32",
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
            **(properties or {}),
        }
        with reported(f"{folder / MODEL_FILE}: OpenVINO cannot load it", kind=ArtifactError):
            model = ov.Core().read_model(folder / MODEL_FILE)
            self.compiled = ov.Core().compile_model(model, "CPU", settings)
        self._folder, self._request = folder, self.compiled.create_infer_request()
        self._states = {state.name: state for state in self._request.query_state()}
        inputs = {port.get_any_name() for port in self.compiled.inputs}
        outputs = {name for port in self.compiled.outputs for name in port.get_names()}
        if (
            inputs != _INPUTS
            or outputs != {"logits"}
            or not self._states
            or not all(map(_STATE.fullmatch, self._states))
        ):
            raise ArtifactError(f"{folder / MODEL_FILE}: is not a decoder with a cache as states; export again")
        self._is_real: NDArray[np.int64] = np.zeros((0, 0), np.int64)

    def prefill(self, input_ids: NDArray[np.int64], lengths: Sequence[int], room: int = 0) -> Logits:
        """Runs the prompts from an empty cache, which grows."""
        real = real_lengths(input_ids, lengths)
        self._request.reset_state()
        self._is_real = (np.arange(input_ids.shape[1]) < real[:, None]).astype(np.int64)
        return self._run(input_ids)

    def append(self, input_ids: NDArray[np.int64]) -> Logits:
        self._is_real = np.concatenate([self._is_real, np.ones_like(input_ids)], axis=1)
        return self._run(input_ids)

    def cache(self, row: int) -> Layers:
        """The keys and values of each layer, [KV heads, tokens of the row, head_dim], without padding heads.

        Of other kinds of layers, what they keep of all earlier tokens.
        """
        positions = np.flatnonzero(self._is_real[row])
        for layer, shapes in enumerate(read_spec(self._folder).layers):
            kept = {}
            for sublayer in shapes.sublayers:
                prefix = "past_key_values" if isinstance(sublayer, Attention) else "past"
                for state in sublayer.states:
                    stored = self._states[f"{prefix}.{layer}.{state}present.{layer}.{state}"].state.data[row]
                    if isinstance(sublayer, Attention):
                        stored = stored[: sublayer.num_key_value_heads, positions]
                    kept[state] = stored.astype(np.float32)
            yield kept

    def close(self) -> None:
        del self._states, self._request, self.compiled

    def _run(self, input_ids: NDArray[np.int64]) -> Logits:
        rows, width = input_ids.shape
        feeds = {
            "input_ids": np.ascontiguousarray(input_ids),
            "attention_mask": self._is_real,
            "position_ids": np.maximum(self._is_real.cumsum(1) - 1, 0)[:, -width:],
            "beam_idx": np.arange(rows, dtype=np.int32),
        }
        with reported("OpenVINO cannot run the model"):
            output = self._request.infer(feeds)["logits"]
        logits = np.array(output, np.float32)
        if logits.ndim != 3 or logits.shape[:2] != (rows, width):
            raise ParityFailure(
                f"the IR's logits have the shape {list(logits.shape)}; expected [{rows}, {width}, vocabulary]"
            )
        return logits


class OpenvinoTexts(RuntimeTexts):
    """The tokenizer of OpenVINO GenAI, whose graphs are in the folder; see `RuntimeTexts`."""

    def __init__(self, folder: Path) -> None:
        genai = require("openvino_genai")
        with reported(f"{folder}: OpenVINO cannot load its tokenizer", kind=ArtifactError):
            self._tokenizer = genai.Tokenizer(folder)

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        with reported("OpenVINO cannot tokenize"):
            ids: list[int] = self._tokenizer.encode(text, add_special_tokens=special).input_ids.data[0].tolist()
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        with reported("OpenVINO cannot decode"):
            return str(self._tokenizer.decode(list(ids)))

    def render(self, conversation: Conversation) -> str:
        tools = list(conversation.tools) or None
        with reported("OpenVINO cannot render"):
            return str(
                self._tokenizer.apply_chat_template(list(conversation.messages), conversation.prompts, tools=tools)
            )


def open_openvino(folder: Path, opening: Opening) -> OpenvinoRunner:
    """Opens a folder; errors are those of `OpenvinoRunner`.

    The CPU plugin's defaults, to serve it, are keys and values of 8 bits, and so activations before integers.
    """
    defaults = {"KV_CACHE_PRECISION": "u8", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 32}
    return OpenvinoRunner(folder, opening.execution.thread_count, defaults if opening.purpose == "served" else None)
