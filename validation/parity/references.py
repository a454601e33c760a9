"""Torch's logits and caches for every sequence of a parity run, and the noise in them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from operator import or_

import numpy as np
import torch
from numpy.typing import NDArray

from converters.onnx.precision import Precision
from converters.onnx.weights.scaling import Scaling
from seap_export.model.families import Experts, ModelSpec
from validation.array_store import ArrayStore, StoredArray
from validation.execution import Say
from validation.metrics import LogitComparison, LogitFigures
from validation.parity.caches import CacheComparison
from validation.parity.filled import layer_filling
from validation.parity.profiles import Noise
from validation.parity.rounding import narrow, round_activations, scale_norms, scale_weights
from validation.parity.ties import NEARLY_TIED, other_choices
from validation.prompts import CALL_TOKENS, Case, TokenIds
from validation.runtimes.pytorch.torch_runner import Run, TorchRunner
from validation.runtimes.runner import States

#: Between lines about layers, so that those of a deep model do not hide the others.
_SECONDS_BETWEEN_LINES = 10.0


@dataclass(frozen=True)
class TokenSequence:
    """A prompt and the tokens of its decode steps."""

    prompt: TokenIds
    forced: TokenIds
    kept: int
    call_tokens: int
    filled: int = 0

    @property
    def logits(self) -> int:
        """The tokens at the end whose logits are kept, the decode steps' included."""
        return self.kept + len(self.forced)

    @property
    def calls(self) -> list[TokenIds]:
        """The token ids of each call of the graph: the prompt in one or several calls, then one for each step."""
        return [*_split(self.prompt, self.call_tokens), *_split(self.forced, 1)]

    def parts(self, spec: ModelSpec) -> list[TokenIds]:
        """Splits the sequence into parts that torch runs one after the other: long ones, or `calls` if those matter.

        They matter if they decide on rotations, as in longrope, if a step is computed in another way than a prompt,
        and behind a filled cache. Otherwise, by causality, a token's logits do not depend on those after it, so that
        prompt and decode steps may run together. The graph's steps are then compared with a result that needs no
        cache.
        """
        tokens = (*self.prompt, *self.forced)
        switches = [rope.switches_at for rope in spec.ropes]
        steps_differ = any(sublayer.steps_differ for sublayer in spec.sublayers)
        if self.filled or steps_differ or any(switch is not None and switch < len(tokens) for switch in switches):
            return self.calls
        return _split(tokens, CALL_TOKENS)


@dataclass(frozen=True)
class Reference:
    """The stored logits and caches of a sequence.

    Attributes:
        cache: The states of each layer that has any, such as keys and values, after the last step.
    """

    logits: StoredArray
    cache: tuple[Mapping[str, StoredArray], ...]


def sequences_of(case: Case) -> list[TokenSequence]:
    return [
        TokenSequence(row, forced, case.kept or len(row), case.call_tokens or len(row), case.filled)
        for row, forced in zip(case.rows, case.forced, strict=True)
    ]


def run_references(
    runner: TorchRunner,
    cases: Iterable[Case],
    store: ArrayStore,
    spec: ModelSpec,
    say: Say,
    passed: Callable[[TokenSequence], object] = lambda sequence: None,
) -> dict[TokenSequence, Reference]:
    """Runs every sequence of the cases once; logits and caches go to the store.

    Args:
        passed: Called with each sequence that has passed a layer, or the LM head.
    """
    sequences = list(dict.fromkeys(sequence for case in cases for sequence in sequences_of(case)))
    caches: list[list[Mapping[str, StoredArray]]] = [[] for _ in sequences]
    next_line = 0.0

    def keep(number: int, states: States) -> None:
        nonlocal next_line
        if number == 0 and time.monotonic() >= next_line:
            say(f"torch: layer {len(caches[0]) + 1} of {len(spec.layers)}")
            next_line = time.monotonic() + _SECONDS_BETWEEN_LINES
        computed = behind(states, sequences[number].filled)
        caches[number].append({state: store.put(array) for state, array in computed.items()})
        passed(sequences[number])

    runs = runner.run([run_of(sequence, sequence.parts(spec), spec) for sequence in sequences], keep)
    references = {}
    for sequence, logits, cache in zip(sequences, runs, caches, strict=True):
        references[sequence] = Reference(store.put(logits), tuple(cache))
        passed(sequence)
    return references


def run_of(sequence: TokenSequence, parts: Sequence[TokenIds], spec: ModelSpec) -> Run:
    return Run(parts, sequence.logits, sequence.filled, partial(layer_filling, spec, tokens=sequence.filled))


def behind(states: States, filled: int) -> States:
    """The states without the tokens of a filled cache."""
    return {state: array[:, filled:] for state, array in states.items()} if filled else states


@dataclass(frozen=True)
class _Again:
    """How far a second run of a sequence is from its reference: figures, the KL of each token, the cache's error."""

    figures: LogitFigures
    divergences: NDArray[np.float64]
    cache_error: float


def _run_again(
    runner: TorchRunner,
    references: Mapping[TokenSequence, Reference],
    store: ArrayStore,
    source: str,
    say: Say,
    *,
    in_calls: bool = False,
) -> dict[TokenSequence, _Again]:
    """Runs sequences again, and compares logits and caches with the references.

    Args:
        source: What is different this time, in words.
        in_calls: Whether the calls of the graph are run one by one.
    """
    spec, known, sequences = runner.spec, list(references.values()), list(references)
    caches, passed = [CacheComparison() for _ in known], [0] * len(known)

    def compare(index: int, states: States) -> None:
        wanted = {state: store.get(stored) for state, stored in known[index].cache[passed[index]].items()}
        caches[index].add_layer(wanted, behind(states, sequences[index].filled), 0, passed[index])
        passed[index] += 1

    again = {}
    runs = [run_of(one, one.calls if in_calls else one.parts(spec), spec) for one in sequences]
    for index, logits in enumerate(runner.run(runs, compare)):
        say(f"torch: noise of {source}, sequence {index + 1} of {len(references)}")
        comparison = LogitComparison()
        comparison.update(store.get(known[index].logits), logits)
        error = caches[index].figures().error
        again[sequences[index]] = _Again(comparison.figures(), comparison.divergences(), error)
    return again


def measure_exact_noise(
    runner: TorchRunner, references: Mapping[TokenSequence, Reference], store: ArrayStore, say: Say
) -> dict[TokenSequence, Noise]:
    """Measures how far torch differs from itself: with another attention kernel and single steps, and in float64.

    In a model with routers, also with other choices where a router is nearly tied; see `other_choices`.

    Any of these differences may be the largest. A token on which a model amplifies rounding is moved by any other
    order of the same sums, of which the kernel changes those of attention alone.
    """
    chooses = _chooses(runner.spec)

    def differences(source: str) -> dict[TokenSequence, Noise]:
        again = _run_again(runner, references, store, source, say, in_calls=True)
        return {
            sequence: Noise(
                max_abs=one.figures.max_abs or 0.0,
                cache_error=one.cache_error,
                choices_kl=(one.figures.mean_kl or 0.0) if chooses else 0.0,
            )
            for sequence, one in again.items()
        }

    runner.use_attention("sdpa")
    measured = [differences("another attention kernel")]
    runner.change_weights(narrow(torch.float64))
    measured.append(differences("float32"))
    runner.change_weights(narrow(torch.float32))
    if chooses:
        with other_choices(runner.model, runner.spec, NEARLY_TIED["fp32"]) as ties:
            tied = differences("nearly tied routers")
        measured += [tied] if ties.are_few else []
    return {sequence: reduce(or_, (noise[sequence] for noise in measured)) for sequence in references}


def _chooses(spec: ModelSpec) -> bool:
    """Whether the model has routers, which choose experts."""
    return any(True for _ in spec.all(Experts))


def measure_rounding_noise(
    runner: TorchRunner,
    references: Mapping[TokenSequence, Reference],
    store: ArrayStore,
    spec: ModelSpec,
    precision: Precision,
    scaling: Scaling,
    provider: str,
    say: Say,
    *,
    whole_rows: bool = False,
) -> tuple[dict[TokenSequence, Noise], float]:
    """The divergence that the graph's rounding makes in torch, for each sequence at least that of all together.

    Returns:
        The noise of each sequence, and the largest difference of a logit; none and 0 where nothing is rounded.
    """
    tied = _tied_divergence(runner, references, store, precision, say)
    if not _round_alike(runner, spec, precision, scaling, provider, whole_rows=whole_rows):
        return {}, 0.0
    runner.use_attention("sdpa")
    again = _run_again(runner, references, store, precision.name, say)
    largest = max((one.figures.max_abs or 0.0 for one in again.values()), default=0.0)
    return {
        sequence: noise | tied.get(sequence, Noise()) for sequence, noise in _divergence_of(again).items()
    }, largest


def _tied_divergence(
    runner: TorchRunner,
    references: Mapping[TokenSequence, Reference],
    store: ArrayStore,
    precision: Precision,
    say: Say,
) -> dict[TokenSequence, Noise]:
    """Measures the divergence if nearly tied routers choose otherwise; empty if too many of them are nearly tied."""
    if not _chooses(runner.spec):
        return {}
    with other_choices(runner.model, runner.spec, NEARLY_TIED[precision.name]) as ties:
        again = _run_again(runner, references, store, "nearly tied routers", say)
    return _divergence_of(again) if ties.are_few else {}


def _divergence_of(again: Mapping[TokenSequence, _Again]) -> dict[TokenSequence, Noise]:
    """The mean KL of each sequence and its variation, at least those of all tokens: few may be alike by chance."""
    every = np.concatenate([one.divergences for one in again.values()] or [np.zeros(0)])
    overall, of_all = float(every.mean()) if every.size else 0.0, _variation(every)
    return {
        sequence: Noise(
            mean_kl=max(one.figures.mean_kl or 0.0, overall),
            kl_variation=max(_variation(one.divergences), of_all),
        )
        for sequence, one in again.items()
    }


def _variation(divergences: NDArray[np.float64]) -> float:
    """The variation of tokens' KL, as `Noise.kl_variation` defines it."""
    mean = float(divergences.mean()) if divergences.size else 0.0
    return max(1.0, float(divergences.std()) / mean) if mean > 0.0 else 1.0


def _split(tokens: TokenIds, size: int) -> list[TokenIds]:
    return [tokens[start : start + size] for start in range(0, len(tokens), size)]


def _round_alike(
    runner: TorchRunner, spec: ModelSpec, precision: Precision, scaling: Scaling, provider: str, *, whole_rows: bool
) -> bool:
    """Makes torch round as the graph does; returns False where the graph rounds nothing."""
    if precision.dtype != "fp32":
        kept: frozenset[str] = frozenset()
        if scaling != Scaling():
            runner.change_weights(scale_weights(spec, scaling))
            kept = scale_norms(runner.model, spec, scaling)
        runner.change_weights(narrow(precision.torch_dtype, kept))
        return True
    if precision.quantization is not None and provider == "cpu":
        round_activations(runner.model, spec, precision.quantization, whole_rows=whole_rows)
        return True
    return False
