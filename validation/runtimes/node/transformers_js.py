"""Runs a folder of the format web in transformers.js, in a Node process: its own model class, cache and pipeline.

The library's model class calls the session, and its `generate` loop's own function carries the cache from one call to
the next, so both are what is tested. Batches are padded on the right, as the fused dialect needs.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from seap_export.common.child_process import ChildEnded, ChildProcess
from seap_export.errors import EnvironmentFailure, ParityFailure
from validation.runtimes.child_texts import ChildTexts
from validation.runtimes.node.package import find_transformers_js
from validation.runtimes.runner import PER_TOKEN, Layers, Logits, Opening, Runner, real_lengths
from validation.runtimes.timing import Pace

#: ONNX Runtime's own library in Node, or WebAssembly, as in a browser.
Backend = Literal["node", "wasm"]
#: Weights above this do not fit in WebAssembly, which has 4 GB for them, their copy in some products, and the rest.
_MOST_WASM = 2_500_000_000
#: The outputs that are states, and what those of a fixed size are called here.
_STATE = re.compile(r"present(?:_(?P<fixed>conv|ssm))?\.(?P<layer>\d+)(?:\.(?P<part>key|value))?")
_FIXED = {"conv": "conv", "ssm": "recurrent"}
_SCRIPT = Path(__file__).with_suffix(".mjs")
#: What Node says when memory runs out, in its own heap or in WebAssembly's.
_NO_MEMORY = ("heap out of memory", "Array buffer allocation failed", "bad_alloc", "Failed to allocate memory")


class TransformersJsRunner(Runner):
    """Runs one generation after another; `prefill` starts a new one, `append` and `step` continue it.

    Args:
        backend: What runs the ONNX graph; None: WebAssembly if the weights fit there, or else Node. With int8 and int4
            weights, WebAssembly computes in float32, whereas Node's kernels round activations to 8 bits.
    """

    runtime: ClassVar[str] = "transformers.js"

    def __init__(self, folder: Path, backend: Backend | None = None, threads: int = 1) -> None:
        self._real: NDArray[np.int64] = np.zeros(0, np.int64)
        backend = backend or _fitting(folder)
        self._process = _started()
        try:
            answer = self._ask("open", folder=folder.resolve(), backend=backend, threads=threads)
        except BaseException:
            self.close()
            raise
        self.versions: dict[str, str] = answer["versions"]

    def prefill(self, input_ids: NDArray[np.int64], lengths: Sequence[int], room: int = 0) -> Logits:
        """Runs the prompts from an empty cache, which grows."""
        self._real = real_lengths(input_ids, lengths)
        return self._logits("prefill", input_ids, lengths=self._real.tolist())

    def append(self, input_ids: NDArray[np.int64]) -> Logits:
        self._real = self._real + input_ids.shape[1]
        return self._logits("append", input_ids)

    def cache(self, row: int) -> Layers:
        layers: defaultdict[int, dict[str, str]] = defaultdict(dict)
        for name in self._ask("states")["names"]:
            if (parts := _STATE.fullmatch(name)) is not None:
                layers[int(parts["layer"])][_FIXED.get(parts["fixed"], parts["part"])] = name
        for _, names in sorted(layers.items()):
            yield {state: self._state(name, row, grows=state in PER_TOKEN) for state, name in names.items()}

    def _state(self, name: str, row: int, *, grows: bool) -> NDArray[np.float32]:
        state = self._process.tensor(self._ask("state", name=name, file=self._process.file)["dims"])[row]
        return state[:, : self._real[row]] if grows else state

    def timed(self, prompt: Sequence[int], steps: int) -> Pace:
        """Times a generation inside the Node process; see `TimesItself`."""
        first, *others = self._ask("timed", ids=[list(map(int, prompt))], steps=steps)["seconds"]
        return Pace(first, tuple(others))

    def close(self) -> None:
        self._process.close()

    def _logits(self, do: str, input_ids: NDArray[np.int64], **values: list[int]) -> Logits:
        dims = self._ask(do, ids=input_ids.tolist(), file=self._process.file, **values)["dims"]
        if dims[:2] != list(input_ids.shape) or len(dims) != 3:
            raise ParityFailure(
                f"the logits of transformers.js have the shape {dims}; expected {[*input_ids.shape, 'vocabulary']}"
            )
        return self._process.tensor(dims)

    def _ask(self, do: str, **values: Any) -> dict[str, Any]:
        return _asked(self._process, do, **values)


class TransformersJsTexts(ChildTexts):
    """The tokenizer and chat template of transformers.js, without the model; see `RuntimeTexts`.

    Errors are those of `TransformersJsRunner`. Source of what is known: @huggingface/tokenizers 0.2, whose patterns
    are JavaScript's, with its `\\d` and `\\s`.
    """

    known: ClassVar[Mapping[str, str]] = {
        "digits of other scripts": "transformers.js splits the digits 0 to 9 alone",
        **dict.fromkeys(
            ("byte order mark", "byte order mark inside", "line separators"),
            "JavaScript's white space has U+FEFF and lacks U+0085",
        ),
    }

    def __init__(self, folder: Path) -> None:
        process = _started()
        super().__init__(lambda do, **values: _asked(process, do, **values)["value"], process.close)
        try:
            _asked(process, "openTexts", folder=folder.resolve())
        except BaseException:
            self.close()
            raise


def _started() -> ChildProcess:
    package = find_transformers_js()
    try:
        return ChildProcess([package.node, str(_SCRIPT), str(package.folder)])
    except OSError as error:
        raise EnvironmentFailure(f"{package.node}: cannot be started ({error}); install Node 20 or later") from error


def _asked(process: ChildProcess, do: str, **values: Any) -> dict[str, Any]:
    try:
        answer = process.ask(do=do, **values)
    except ChildEnded as ended:
        answer = {"error": f"Node ended: {ended}"}
    if "error" in answer:
        reason = " ".join(str(answer["error"]).split())
        if any(sign in reason for sign in _NO_MEMORY):
            raise EnvironmentFailure(f"transformers.js has too little memory ({reason:.300}); use a smaller model")
        raise ParityFailure(f"transformers.js does not {do}: {reason:.600}")
    return answer


def open_transformers_js(folder: Path, opening: Opening) -> TransformersJsRunner:
    """Opens a folder with the backend that suits its size, or as it is served: with the library's usual one in Node.

    It raises what `TransformersJsRunner` does.
    """
    backend: Backend | None = "node" if opening.purpose == "served" else None
    return TransformersJsRunner(folder, backend, opening.execution.thread_count)


def _fitting(folder: Path) -> Backend:
    size = sum(path.stat().st_size for path in (folder / "onnx").glob("*.onnx_data*"))
    return "wasm" if size <= _MOST_WASM else "node"
