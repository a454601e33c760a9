"""What torch computes for every sequence of a parity run, and how far it is from itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from converters.precision import Precision
from seap_export.families import ModelSpec
from validation.array_store import ArrayStore, StoredArray
from validation.caches import CacheComparison
from validation.metrics import LogitComparison
from validation.profiles import Noise
from validation.prompts import Case, TokenIds
from validation.rounding import round_activations
from validation.torch_runner import TorchRunner

__all__ = ["Reference", "References", "run_references"]

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Reference:
    """A sequence's greedy continuation, where its logits and its cache are kept, and torch's own noise in them.

    Attributes:
        forced: The tokens that follow.
        prefill: Logits of the prompt's tokens, or of the last of them.
        decode: Logits of each step.
        cache: Keys and values of each layer, after the last step.
        noise: How far torch is from itself.
        rounded_max_abs: Largest difference of a logit where torch rounds as the graph does.
    """

    forced: tuple[int, ...]
    prefill: StoredArray
    decode: StoredArray
    cache: tuple[tuple[StoredArray, StoredArray], ...]
    noise: Noise = Noise()
    rounded_max_abs: float = 0.0


class References:
    """The references of a run, by sequence and by how many of its logits are kept."""

    def __init__(self, found: dict[tuple[TokenIds, int | None], Reference]) -> None:
        self._found = found

    def of(self, case: Case) -> list[Reference]:
        """Those of a case's rows."""
        return [self._found[row, case.kept] for row in case.rows]

    def all(self) -> list[Reference]:
        """Each once."""
        return list(self._found.values())


def run_references(
    runner: TorchRunner,
    cases: Sequence[Case],
    steps: int,
    store: ArrayStore,
    spec: ModelSpec,
    precision: Precision,
    provider: str,
    say: Progress,
) -> References:
    """Runs every different sequence, then again in other ways to tell the noise; the model is left changed.

    Args:
        runner: The model, float32, with the eager attention.
        cases: What is compared.
        steps: Tokens that follow each sequence.
        store: Receives logits and caches.
        spec: The model's shapes.
        precision: Of the graph.
        provider: Where the graph runs.
        say: Told about each sequence.
    """
    keys = list(dict.fromkeys((row, case.kept) for case in cases for row in case.rows))
    found = {}
    for index, (row, kept) in enumerate(keys):
        say(f"torch: sequence {index + 1} of {len(keys)}")
        run = runner.run(row, steps, kept or 0)
        cache = tuple((store.put(key), store.put(value)) for key, value in run.cache)
        found[row, kept] = Reference(run.forced, store.put(run.prefill), store.put(run.decode), cache)
    say("torch: noise of another attention kernel")
    runner.use_attention("sdpa")
    for (row, kept), reference in found.items():
        found[row, kept] = replace(reference, noise=_exact_noise(runner, row, reference, store))
    if round_alike := _rounding(runner, spec, precision, provider):
        say(f"torch: noise of {precision.name}")
        round_alike()
        found = _with_rounding_noise(runner, found, store)
    return References(found)


def _exact_noise(runner: TorchRunner, row: TokenIds, reference: Reference, store: ArrayStore) -> Noise:
    """The whole sequence in one call, against the prompt and then a token at a time."""
    wanted = _logits(reference, store)
    again = runner.run((*row, *reference.forced), 0, len(wanted))
    difference = np.abs(wanted - again.prefill)
    caches = CacheComparison()
    caches.update(((store.get(key), store.get(value)) for key, value in reference.cache), again.cache, 0)
    finite = difference[np.isfinite(difference)]
    return Noise(float(finite.max(initial=0.0)), caches.figures().error)


def _rounding(runner: TorchRunner, spec: ModelSpec, precision: Precision, provider: str) -> Callable[[], None] | None:
    """Makes torch round what the graph rounds; None where it rounds nothing."""
    if precision.dtype != "fp32":
        return partial(runner.narrow, precision.torch_dtype)
    if precision.quantization is not None and provider == "cpu":
        return partial(round_activations, runner.model, spec, precision.quantization)
    return None


def _with_rounding_noise(
    runner: TorchRunner, references: dict[tuple[TokenIds, int | None], Reference], store: ArrayStore
) -> dict[tuple[TokenIds, int | None], Reference]:
    """What torch's own rounding makes of every sequence, each at least as noisy as all of them together."""
    whole = LogitComparison()
    figures = {}
    for key, reference in references.items():
        wanted = _logits(reference, store)
        again = runner.run((*key[0], *reference.forced), 0, len(wanted)).prefill
        own = LogitComparison()
        for comparison in (own, whole):
            comparison.update(wanted, again)
        figures[key] = own.figures()
    overall = whole.figures().mean_kl or 0.0
    return {
        key: replace(
            reference,
            noise=replace(reference.noise, mean_kl=max(figures[key].mean_kl or 0.0, overall)),
            rounded_max_abs=figures[key].max_abs or 0.0,
        )
        for key, reference in references.items()
    }


def _logits(reference: Reference, store: ArrayStore) -> np.ndarray:
    return np.concatenate([store.get(reference.prefill), store.get(reference.decode)])
