"""Runs a model folder, hf/ itself, with vLLM, in a process of its own and usually in an environment of its own.

vLLM gives log-probabilities. Its cache is paged and its own; tokens that are appended are run again with what was
before them. `follow` runs its real decoding, of all prompts together.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

import seap_export
from converters.format import lacks
from seap_export.common.child_process import ChildEnded, ChildProcess
from seap_export.common.extras import install_remedy
from seap_export.common.json_file import read_json
from seap_export.errors import ArtifactError, EnvironmentFailure, InputError, ParityFailure
from seap_export.model.families import Attention, Mlp, ModelSpec, is_pruned, model_spec
from seap_export.model.families.names import LAYER
from validation.runtimes.runner import Gives, Logits, Opening, Runner
from validation.runtimes.timing import Pace

#: Environment variable with the interpreter of vLLM's environment; without it, the one that runs this.
PYTHON = "SEAP_EXPORT_VLLM_PYTHON"
_WORKER = Path(__file__).with_name("worker.py")
_SETTINGS = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_PLUGINS": "seap_export",
}


class VllmRunner(Runner):
    """Computes log-probabilities in float32; `prefill` starts a new generation, `step` continues it."""

    runtime: ClassVar[str] = "vllm"
    extra: ClassVar[str | None] = "vllm"
    gives: ClassVar[Gives] = "log-probabilities"

    def __init__(self, folder: Path, threads: int = 1, max_length: int = 4096, python: str | None = None) -> None:
        try:
            config = read_json(folder / "config.json")
            spec = model_spec(config)
        except InputError as error:
            raise ArtifactError(str(error)) from error
        length = min(max_length, spec.max_position_embeddings)
        reason = vllm_refusal(spec, config, length)
        if reason is not None:
            raise ArtifactError(f"{folder}: {reason}")
        self._folder, self._rows = folder, [[0]]
        self._package = _package_alone()
        self._process = self._started(python or _interpreter(), threads, length)
        try:
            self._vocab_size = int(self._answer("load it")["vocab_size"])
        except BaseException:
            self.close()
            raise

    def prefill(self, input_ids: NDArray[np.int64], lengths: Sequence[int], room: int = 0) -> Logits:
        """Runs the prompts; log-probabilities after the real tokens are 0."""
        self._rows = [ids[:length].tolist() for ids, length in zip(input_ids, lengths, strict=True)]
        padded = np.zeros((*input_ids.shape, self._vocab_size), np.float32)
        for row, real in zip(padded, self._score(self._rows, 1)[1], strict=True):
            row[: len(real)] = real
        return padded

    def append(self, input_ids: NDArray[np.int64]) -> Logits:
        """Runs each row again from its start, with the new tokens, and gives the log-probabilities of these."""
        self._rows = [[*row, *ids.tolist()] for row, ids in zip(self._rows, input_ids, strict=True)]
        return np.stack([rows[-input_ids.shape[1] :] for rows in self._score(self._rows, 1)[1]])

    def follow(self, prompts: Sequence[Sequence[int]], steps: int) -> list[list[int]]:
        """Generates without computing log-probabilities; see `Follows`."""
        tokens: list[list[int]] = self._answer("run it", prompts=_integers(prompts), steps=steps)["tokens"]
        return tokens

    def timed(self, prompt: Sequence[int], steps: int) -> Pace:
        """Times a generation. vLLM gives all tokens at once, so those after the first count as equally long."""
        first, whole = self._answer("run it", prompt=list(map(int, prompt)), steps=steps)["seconds"]
        return Pace(first, ((whole - first) / steps,) * steps)

    def close(self) -> None:
        self._process.close()
        self._package.cleanup()

    def _started(self, python: str, threads: int, length: int) -> ChildProcess:
        options = {
            "model": str(self._folder.resolve()),
            "dtype": "float32",
            "enforce_eager": True,
            "enable_prefix_caching": False,
            "max_logprobs": -1,
            "max_model_len": length + 1,  # vLLM wants room for a token that follows the longest prompt
            "skip_tokenizer_init": True,
        }
        paths = os.pathsep.join(filter(None, (self._package.name, os.environ.get("PYTHONPATH"))))
        environment = {**_SETTINGS, **os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": paths}
        try:
            return ChildProcess([python, "-P", str(_WORKER), json.dumps(options)], environment)
        except OSError as error:
            self._package.cleanup()
            raise _not_started(python, error) from error

    def _score(
        self, prompts: Sequence[Sequence[int]], steps: int
    ) -> tuple[list[list[int]], list[NDArray[np.float32]]]:
        """The most likely tokens that follow each prompt, and the log-probabilities after each token but the last."""
        path = self._process.file
        tokens = self._answer("run it", prompts=_integers(prompts), steps=steps, path=path)["tokens"]
        with np.load(path) as arrays:
            return tokens, [arrays[str(number)] for number in range(len(prompts))]

    def _answer(self, what: str, **request: Any) -> dict[str, Any]:
        """The answer to a request, or the first one, which the process gives by itself."""
        try:
            answer = self._process.ask(**request) if request else self._process.receive()
        except ChildEnded as ended:
            answer = {"error": f"it ended: {ended}"}
        if "missing" in answer:
            raise _missing(answer["missing"])
        if "error" in answer:
            message = f"{self._folder}: vLLM does not {what}: {answer['error']:.600}"
            raise ArtifactError(message) if what == "load it" else ParityFailure(message)
        return answer


def open_vllm(folder: Path, opening: Opening) -> VllmRunner:
    """Opens a model folder; errors are those of `VllmRunner`."""
    return VllmRunner(folder, opening.execution.thread_count)


def require_vllm() -> None:
    """Raises `EnvironmentFailure` where vLLM is missing."""
    find = "import importlib.util; raise SystemExit(importlib.util.find_spec('vllm') is None)"
    python = _interpreter()
    try:
        done = subprocess.run([python, "-P", "-c", find], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    except OSError as error:
        raise _not_started(python, error) from error
    if done.returncode:
        raise _missing(f"{python} has none")


def _integers(prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Converts token ids to Python integers, which JSON can hold."""
    return [list(map(int, prompt)) for prompt in prompts]


def _package_alone() -> tempfile.TemporaryDirectory[str]:
    """A folder with this package and nothing else, for the path of an environment that may lack it.

    vLLM starts further processes, which look for the classes of pruned models by name.
    """
    folder = tempfile.TemporaryDirectory()
    (Path(folder.name) / seap_export.__name__).symlink_to(Path(seap_export.__file__).parent, target_is_directory=True)
    return folder


def _interpreter() -> str:
    return os.environ.get(PYTHON) or sys.executable


def _missing(reason: str) -> EnvironmentFailure:
    return EnvironmentFailure(
        f"vLLM is missing ({reason}); {install_remedy('vllm')}, or set {PYTHON} to the interpreter of an environment "
        "that has it"
    )


def _not_started(python: str, error: OSError) -> EnvironmentFailure:
    return EnvironmentFailure(f"{python}: cannot be started ({error}); correct {PYTHON}")


def vllm_refusal(spec: ModelSpec, config: Mapping[str, Any], length: int) -> str | None:
    """Why vLLM would compute another model than transformers does; None: it would not."""
    if (part := lacks(spec, Attention, Mlp)) is not None:
        return f"vLLM's class around models of transformers has no state for a layer with {part}"
    if spec.family.names["layer"] != LAYER:
        return f"vLLM's class around models of transformers has not been tried with {spec.family.model_type} models"
    multiplier = spec.block.logits_multiplier
    if is_pruned(config) and multiplier != config.get("logit_scale", 1.0):
        return "its config.json was written before vLLM was known, and lacks 'logit_scale'; export again"
    switches = [rope.switches_at for rope in spec.ropes if rope.switches_at]
    if switches and length > min(switches):
        return (
            f"vLLM rotates all sequences of a batch as the longest one beyond {min(switches)} tokens; "
            f"serve it with --max-model-len {min(switches)}"
        )
    return None
