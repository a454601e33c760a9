"""The reference: what the torch model of a folder computes for each prompt alone, without padding.

It runs in float32 on the CPU with transformers' "eager" attention. That is as exact as "sdpa" (on SmolLM2-135M the
logits of both are within 6e-5 of float64's, 7e-6 on average) and does not choose a kernel by shape and mask.
"""

from __future__ import annotations

import contextlib
import gc
import inspect
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seap_export.errors import ArtifactError, InputError
from seap_export.families import model_spec
from seap_export.sources.config import read_json

__all__ = ["ReferenceRun", "TorchRunner", "open_torch_model", "open_torch_runner", "quiet_transformers"]


@dataclass(frozen=True)
class ReferenceRun:
    """The outcome of a run over T tokens.

    Attributes:
        logits: float32 [kept, V], the logits of the last `kept` tokens.
        cache: Keys and values of each layer, float32 [KV heads, T, head_dim].
    """

    logits: NDArray[np.float32]
    cache: tuple[tuple[NDArray[np.float32], NDArray[np.float32]], ...]


class TorchRunner:
    """A torch model that runs one sequence at a time.

    Attributes:
        model: A transformers causal language model in evaluation mode.
    """

    def __init__(self, model: Any, other_attention: str = "sdpa") -> None:
        self.model = model
        self._other = other_attention
        # transformers 5.24 renames the argument and announces the end of the old name.
        new_name = "cache" in inspect.signature(type(model).forward).parameters
        self._cache_argument = "cache" if new_name else "past_key_values"

    def run(self, parts: Sequence[Sequence[int]], kept: int) -> ReferenceRun:
        """Runs the parts of a sequence one after the other with a `DynamicCache`.

        Args:
            parts: Token ids. Eager attention materialises [heads, tokens of the part, tokens so far], so long
                sequences take less memory and time in several parts.
            kept: How many tokens at the end of the sequence to return logits for, at least 1.
        """
        cache, logits = _new_cache(), []
        behind = sum(map(len, parts))
        for part in parts:
            behind -= len(part)
            wanted = min(len(part), kept - behind)
            found = self._logits(part, cache, max(wanted, 1))
            if wanted > 0:
                logits.append(found)
        layers = tuple((_float32(layer.keys[0]), _float32(layer.values[0])) for layer in cache.layers)
        return ReferenceRun(np.concatenate(logits), layers)

    def continuation(self, token_ids: Sequence[int], steps: int, stops: Collection[int] = ()) -> tuple[int, ...]:
        """Up to `steps` tokens that follow a prompt, each the most likely one, as far as the first of `stops`."""
        cache = _new_cache()
        following: list[int] = []
        logits = self._logits(token_ids, cache, 1)
        while len(following) < steps and (token := int(logits[-1].argmax())) not in stops:
            following.append(token)
            logits = self._logits([token], cache, 1)
        return tuple(following)

    def use_other_attention(self) -> None:
        """Switches to another attention implementation, if the class has one that computes the model."""
        with contextlib.suppress(ValueError):  # a class may refuse it; Gemma 2's does even without a soft cap
            self.model.set_attn_implementation(self._other)

    def narrow(self, dtype: Any, kept: Collection[str] = ()) -> None:
        """Converts the weights to a torch dtype of 16 bits, which the model then computes in; some may be kept."""
        for name, parameter in self.model.named_parameters():  # not `model.to`: the rotation's frequencies stay
            if name not in kept:
                parameter.data = parameter.data.to(dtype)

    def _logits(self, token_ids: Sequence[int], cache: Any, kept: int) -> NDArray[np.float32]:
        import torch

        input_ids = torch.tensor([list(token_ids)], dtype=torch.int64)
        with torch.inference_mode():
            output = self.model(
                input_ids=input_ids, use_cache=True, logits_to_keep=kept, **{self._cache_argument: cache}
            )
        return _float32(output.logits[0])


def _new_cache() -> Any:
    """Made without the config, so that layers with a sliding window keep all keys and rely on the mask."""
    from transformers import DynamicCache

    cache = DynamicCache()
    if not hasattr(cache, "has_previous_state"):
        cache.has_previous_state = False  # 4.57's Granite 4 asks for it
    return cache


def _float32(tensor: Any) -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.float().numpy()
    return array


@contextlib.contextmanager
def open_torch_runner(
    folder: Path, threads: int, prepare: Callable[[Any], None] = lambda model: None
) -> Iterator[TorchRunner]:
    """Loads a model folder and frees its memory when the context ends.

    Args:
        folder: config.json and safetensors files, of a dense model or one pruned by this package.
        threads: torch's threads while the context lasts.
        prepare: Called with the model before it runs.

    Raises:
        ArtifactError: The folder cannot be loaded, or its weights do not fill the model exactly.
    """
    with open_torch_model(folder, threads, attention="eager") as model:
        prepare(model)
        yield TorchRunner(model, _fastest_attention(folder) or "sdpa")


@contextlib.contextmanager
def open_torch_model(folder: Path, threads: int, *, attention: str | None = None) -> Iterator[Any]:
    """Loads the transformers model of a folder in float32 and evaluation mode; frees its memory when the context ends.

    Args:
        folder: config.json and safetensors files, of a dense model or one pruned by this package.
        threads: torch's threads while the context lasts.
        attention: transformers' attention implementation; None: the fastest that computes the model.

    Raises:
        ArtifactError: The folder cannot be loaded, or its weights do not fill the model exactly.
    """
    import torch

    model = _load(folder, attention or _fastest_attention(folder))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield model
    finally:
        del model
        gc.collect()
        torch.set_num_threads(before)


def _fastest_attention(folder: Path) -> str | None:
    """None leaves the choice to transformers; but sdpa knows no soft cap, and 4.57 leaves it out without a word."""
    try:
        spec = model_spec(read_json(folder / "config.json"))
    except InputError as error:
        raise ArtifactError(str(error)) from error
    return None if spec.block.attention_softcap is None else "eager"


def _load(folder: Path, attention: str | None) -> Any:
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    try:
        with quiet_transformers():
            model, info = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=torch.float32,
                attn_implementation=attention,
                local_files_only=True,
                use_safetensors=True,  # a pickle may run anything
                trust_remote_code=False,  # the folder's own copy of the code is not run; ours is registered
                ignore_mismatched_sizes=True,  # reported below, by name
                output_loading_info=True,
            )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        raise ArtifactError(f"{folder}: cannot be loaded: {' '.join(str(error).split())}") from error
    # transformers only warns, and leaves such weights at random values.
    for kind in ("missing_keys", "mismatched_keys", "unexpected_keys"):
        if info.get(kind):
            names = sorted(key if isinstance(key, str) else key[0] for key in info[kind])
            raise ArtifactError(f"{folder}: {len(names)} {kind.replace('_', ' ')} in its weights, such as {names[0]}")
    return model.eval()


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keeps progress bars, load reports and deprecations off stderr; what matters is raised as an error."""
    from transformers.utils import logging

    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()
