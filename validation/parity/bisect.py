"""Finds where a graph and its torch model diverge: intermediate values of both, in the order they are computed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from converters.onnx.form import read_form
from converters.onnx.graph.blocks import in_float_activations
from converters.onnx.precision import Precision
from converters.onnx.weights.scaling import read_scaling
from seap_export.model.families import ModelSpec
from seap_export.model.sources.config import read_spec
from seap_export.runtime.session import open_session, probe
from validation.array_store import ArrayStore, StoredArray
from validation.execution import Execution
from validation.parity.compared import prompt_calls
from validation.parity.recorder import Recorder
from validation.parity.references import Reference, sequences_of
from validation.parity.rounding import round_weights
from validation.parity.taps import Tap, decoder_taps, tapped
from validation.prompts import Case
from validation.runtimes.onnx_runtime.onnx_runner import OnnxRunner
from validation.runtimes.pytorch.torch_runner import open_torch_runner
from validation.session_memory import calls_of, claim_memory

#: The relative error above which a difference is a fault, not rounding, by the dtype the graph computes in.
_FAULT: dict[str, float] = {"fp32": 1e-3, "fp16": 0.3, "bf16": 1.0}
_ROUNDED_ACTIVATIONS = 0.4
#: In float32, a smaller error is a fault, too, if it is this many times as large as all errors before it.
_SUDDEN, _SMALLEST_SUDDEN = 100.0, 1e-4
#: Where no error is a fault by these rules, one that is this many times as large as all before it is taken.
_JUMP, _SMALLEST = 10.0, 1e-5
#: In float32, it must leave the stream with an error that is this many times as large as all before it, too: where
#: values nearly cancel, a norm or attention enlarges noise that hardly counts in the stream.
_SHOWN = 2.0
#: Half of the largest fp16 number: above it, another text may overflow.
_NEAR_OVERFLOW = 32752.0


@dataclass(frozen=True)
class TapError:
    """The error at one place where the values of graph and torch are compared.

    Attributes:
        name: The place, as in `Tap.name`.
        layer: Its layer; None: before or after all layers.
        sublayer: The place's name within the layer, or within the model.
        error: The largest difference of a token's values over their root mean square in torch, over all tokens and
            calls; None: not finite.
    """

    name: str
    layer: int | None
    sublayer: str
    error: float | None


@dataclass(frozen=True)
class Overflow:
    """A place where the graph leaves the range of its dtype, or comes near."""

    name: str
    kind: Literal["nan", "inf", "near"]
    reference_max_abs: float


@dataclass(frozen=True)
class Bisection:
    """The result of `bisect`: the error at each place, and the first one where it is a fault.

    Attributes:
        case: The case that was run.
        stage: The stage of the case that had failed.
        first: The first place that diverges; None: none does.
        taps: All places, in the order they are computed.
        overflows: Places that overflow or nearly do.
    """

    case: str
    stage: str
    first: TapError | None
    taps: tuple[TapError, ...]
    overflows: tuple[Overflow, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {name: [asdict(item) for item in getattr(self, name)] for name in ("taps", "overflows")}


def bisect(
    hf_folder: Path,
    onnx_folder: Path,
    case: Case,
    stage: str,
    steps: int,
    *,
    in_float: bool = False,
    execution: Execution = Execution(),  # noqa: B008 - frozen
) -> Bisection:
    """Runs a case on both sides and compares what every sublayer computes.

    Args:
        hf_folder: config.json and safetensors files.
        onnx_folder: model.onnx and its data.
        steps: Decode steps to run after the prompt, at most the case's.
        in_float: Whether MatMulNBits leaves activations in float32.
        execution: Provider, threads and memory of both sides.

    Raises:
        UsageError, InputError, ArtifactError, EnvironmentFailure, ParityFailure: As for
            `validation.parity.run.run_parity`.
    """
    probe(execution.provider)  # before the reference, which takes long
    model = onnx_folder / "model.onnx"
    spec = read_spec(hf_folder)
    precision = read_form(model).precision
    mapped = claim_memory(model, [calls_of(case)], execution)
    with ArrayStore() as store:
        traced = replace(case, forced=tuple(forced[:steps] for forced in case.forced), kept=None)
        change = round_weights(spec, precision)
        with open_torch_runner(hf_folder, execution, change=change) as torch_runner:
            recorder = Recorder(torch_runner, store)
            references = recorder.references(traced)
        recorded = [_Recorded(recorder.values[one], references[one]) for one in sequences_of(traced)]
        graph, tapped_values = _with_outputs(model, spec, in_float)
        session = open_session(model, execution.provider, execution.threads, graph=graph, mapped=mapped)
        runner = OnnxRunner(session, [value for _, value in tapped_values])
        comparison = _Comparison(spec, tapped_values, precision)
        for call in _calls(case, runner, spec, steps):
            comparison.add_call(call, runner, recorded, store)
        comparison.add_caches(runner, recorded, store)
    return comparison.bisection(case, stage, in_float)


@dataclass(frozen=True)
class _Recorded:
    """What torch computed for a row and its decode steps: the values by tap, logits and cache."""

    values: Mapping[str, StoredArray]
    reference: Reference


@dataclass(frozen=True)
class _Call:
    """One call of the graph: for each row the columns of the graph's values and torch's tokens that they belong to."""

    logits: NDArray[np.floating]
    columns: tuple[slice, ...]  # of the graph's values
    tokens: tuple[slice, ...]  # of torch's


def _with_outputs(model: Path, spec: ModelSpec, in_float: bool) -> tuple[bytes, list[tuple[Tap, str]]]:
    """The graph with the values of all taps among its outputs."""
    content = in_float_activations(model) if in_float else model.read_bytes()
    proto = onnx.load_from_string(content)
    taps = decoder_taps(spec, read_scaling(model))
    tapped_values = tapped(taps, frozenset(name for node in proto.graph.node for name in node.output))
    known = {item.name for item in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=value) for _, value in tapped_values if value not in known)
    return proto.SerializeToString(), tapped_values


def _calls(case: Case, runner: OnnxRunner, spec: ModelSpec, steps: int) -> Iterator[_Call]:
    """The prompt, in one call or in several, then the steps."""
    lengths = [len(row) for row in case.rows]
    for start, ids, logits in prompt_calls(case, runner, spec, steps):
        widths = [min(length - start, ids.shape[1]) for length in lengths]
        columns = tuple(slice(0, width) for width in widths)
        yield _Call(logits, columns, tuple(slice(start, start + width) for width in widths))
    one = (slice(0, 1),) * len(lengths)
    for step in range(steps):
        logits = runner.step([forced[step] for forced in case.forced])[:, None]
        yield _Call(logits, one, tuple(slice(length + step, length + step + 1) for length in lengths))


class _Comparison:
    """Gathers the errors of all taps over calls and rows."""

    def __init__(self, spec: ModelSpec, tapped_values: Sequence[tuple[Tap, str]], precision: Precision) -> None:
        self._tapped, self._precision = tapped_values, precision
        self._labels = [
            {state: sublayer.label for sublayer in layer.sublayers for state in sublayer.states}
            for layer in spec.layers
        ]
        self._errors: dict[str, float | None] = {}
        self._order: list[tuple[str, int | None, str]] = []
        self._sequence: list[tuple[str, float | None]] = []  # in the order of computation, call by call
        self._overflows: dict[str, Overflow] = {}

    def add_call(self, call: _Call, runner: OnnxRunner, recorded: Sequence[_Recorded], store: ArrayStore) -> None:
        for tap, value in self._tapped:
            for row, sequence in enumerate(recorded):
                wanted = store.get(sequence.values[tap.name])[call.tokens[row]]
                computed = runner.tapped[value][row, call.columns[row]]
                computed = computed.reshape(len(computed), -1)
                if len(computed) != len(wanted):  # `--logits last` norms the last token alone
                    wanted, computed = wanted[-1:], runner.tapped[value][row, -1:].reshape(1, -1)
                self._add(tap.name, tap.layer, tap.sublayer, wanted, np.ldexp(computed, tap.exponent))
                self._note_overflow(tap.name, wanted, computed)
        for row, sequence in enumerate(recorded):
            wanted = store.get(sequence.reference.logits)[call.tokens[row]]
            computed = call.logits[row]
            computed = computed[call.columns[row]] if not runner.gives_last_only else computed[-1:]
            self._add("lm_head", None, "lm_head", wanted[-len(computed) :], computed.astype(np.float32))

    def add_caches(self, runner: OnnxRunner, recorded: Sequence[_Recorded], store: ArrayStore) -> None:
        for row, sequence in enumerate(recorded):
            keeping = ((layer, wanted) for layer, wanted in enumerate(sequence.reference.cache) if wanted)
            for (layer, wanted), computed in zip(keeping, runner.cache(row), strict=True):
                for state, stored in wanted.items():
                    node = f"{self._labels[layer][state]}.{state}_cache"
                    turned = (array.swapaxes(0, 1) for array in (store.get(stored), computed[state]))
                    both = (array.reshape(len(array), -1) for array in turned)
                    self._add(f"layers.{layer}.{node}", layer, node, *both)

    def bisection(self, case: Case, stage: str, in_float: bool) -> Bisection:
        """Makes the result from all calls and caches that were added."""
        taps = tuple(TapError(name, layer, sublayer, self._errors[name]) for name, layer, sublayer in self._order)
        first = self._first(in_float)
        by_name = {tap.name: tap for tap in taps}
        return Bisection(
            case.name, stage, None if first is None else by_name[first], taps, tuple(self._overflows.values())
        )

    def _first(self, in_float: bool) -> str | None:
        rounds = self._precision.quantization is not None and not in_float
        fault = _ROUNDED_ACTIVATIONS if rounds else _FAULT[self._precision.dtype]
        is_exact = self._precision.dtype == "fp32" and not rounds
        # Where the values of a token lie far apart, noise may be above `fault`, but it is not as sudden.
        first = self._beyond(math.inf, _SUDDEN, fault) if is_exact and None not in self._errors.values() else None
        first = first or self._beyond(fault, _SUDDEN if is_exact else math.inf, _SMALLEST_SUDDEN)
        return first or self._beyond(math.inf, _JUMP, _SMALLEST, _SHOWN if is_exact else 0.0)

    def _beyond(self, fault: float, jump: float, smallest: float, shown: float = 0.0) -> str | None:
        """The first place whose error is above `fault`, or above `smallest` and `jump` times all errors before it.

        In the second case, the stream after the place must have an error of `shown` times these, too.
        """
        largest = 0.0
        for index, (name, error) in enumerate(self._sequence):
            if error is None or error > fault:
                return name
            is_sudden = largest and error > max(jump * largest, smallest)
            if is_sudden and self._stream_error(index) >= shown * largest:
                return name
            largest = max(largest, error)
        return None

    def _stream_error(self, index: int) -> float:
        """The largest error, over all rows, at the next of the places that all values pass: the stream, or results."""
        passed = [place for place in self._sequence[index:] if _is_passed(place[0])]
        following = takewhile(lambda place: place[0] == passed[0][0], passed)
        return max(math.inf if error is None else error for _, error in following)

    def _add(
        self, name: str, layer: int | None, sublayer: str, wanted: NDArray[np.float32], computed: NDArray[np.float32]
    ) -> None:
        error = _error(wanted, computed)
        if name not in self._errors:
            self._order.append((name, layer, sublayer))
            self._errors[name] = error
        known = self._errors[name]
        self._errors[name] = None if known is None or error is None else max(known, error)
        self._sequence.append((name, error))

    def _note_overflow(self, name: str, wanted: NDArray[np.float32], computed: NDArray[np.float32]) -> None:
        kind: Literal["nan", "inf", "near"] | None = None
        if np.isnan(computed).any():
            kind = "nan"
        elif np.isinf(computed).any():
            kind = "inf"
        elif self._precision.dtype == "fp16" and np.abs(computed).max(initial=0.0) > _NEAR_OVERFLOW:
            kind = "near"
        if kind is not None and name not in self._overflows:
            self._overflows[name] = Overflow(name, kind, float(np.abs(wanted).max(initial=0.0)))


def _is_passed(name: str) -> bool:
    """Whether a place is in the stream, or is a result: logits or what a cache holds."""
    return not name.startswith("layers.") or name.endswith((".residual", "_cache"))


def _error(wanted: NDArray[np.float32], computed: NDArray[np.float32]) -> float | None:
    """The largest difference of a token's values over their root mean square, [tokens, width] each."""
    if wanted.shape != computed.shape or not np.isfinite(computed).all():
        return None
    scale = np.sqrt(np.square(wanted, dtype=np.float64).mean(axis=1))
    difference = np.abs(wanted - computed).max(axis=1, initial=0.0)
    return float((difference / np.maximum(scale, 1e-30)).max(initial=0.0))
