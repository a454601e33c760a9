"""Graphs compute what the description of a block says: each feature alone, and all of them at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from support.execution import empty_state
from support.formats import every_exponent
from support.oracles.block_reference import Reference, random_tensors
from support.product import PROJECTIONS

from converters.onnx.form import Logits, OnnxForm
from converters.onnx.graph.decoder import decoder_graph
from converters.onnx.graph.rotary import LENGTH_GUARD
from converters.onnx.precision import Precision
from converters.onnx.weights.scaling import Scaling
from converters.onnx.weights.weights import LazyWeights
from seap_export.common.providers import DialectName
from seap_export.model.families import (
    Attention,
    BlockSpec,
    LayerSpec,
    Mlp,
    ModelSpec,
    NormSpec,
    QueryScaling,
    RopeSpec,
    Sublayer,
    family_of_model_type,
)
from seap_export.model.families.names import NORMS

TOLERANCE = 1e-5
POSITIONS, SWITCH = 40, 12
DIALECTS: tuple[DialectName, ...] = ("fused", "standard")
BEFORE, AFTER = frozenset({NORMS[0], NORMS[2]}), frozenset({NORMS[1], NORMS[3]})
ALL_BIASES = frozenset(PROJECTIONS)


def rope(dim: int = 32, theta: float = 100.0, **extra: Any) -> RopeSpec:
    return RopeSpec(theta, "default", {}, dim, max_position_embeddings=POSITIONS, **extra)


def longrope(dim: int = 32, **extra: Any) -> RopeSpec:
    pairs = np.arange(dim // 2)
    factors = {"short_factor": (1 + 0.1 * pairs).tolist(), "long_factor": (2 + 0.3 * pairs).tolist()}
    parameters = {**factors, "original_max_position_embeddings": SWITCH}
    return RopeSpec(100.0, "longrope", parameters, dim, max_position_embeddings=POSITIONS, **extra)


LAYER = LayerSpec((
    Attention(
        num_attention_heads=4, num_key_value_heads=2, head_dim=32, scale=32**-0.5, rope=rope(), norm_before=NORMS[0]
    ),
    Mlp(intermediate_size=40, norm_before=NORMS[2]),
))  # fmt: skip
PLAIN = ModelSpec(
    family=family_of_model_type("llama"),
    block=BlockSpec(),
    vocab_size=64,
    hidden_size=32,
    norm=NormSpec(1e-5),
    max_position_embeddings=POSITIONS,
    tie_word_embeddings=True,
    layers=(LAYER, LAYER.changed(num_key_value_heads=4), LAYER.changed(num_attention_heads=2, num_key_value_heads=1)),
)


def block(**changes: Any) -> ModelSpec:
    return replace(PLAIN, block=BlockSpec(**changes))


def norms(present: frozenset[str], spec: ModelSpec = PLAIN) -> ModelSpec:
    """The model with these norms alone."""

    def wired(sublayer: Sublayer) -> Sublayer:
        before, after = (norm if norm in present else None for norm in sublayer.norms_around)
        return replace(sublayer, norm_before=before, norm_after=after)

    return spec.with_layers(tuple(LayerSpec(tuple(map(wired, layer.sublayers))) for layer in spec.layers))


def beside(spec: ModelSpec = PLAIN, **changes: Any) -> ModelSpec:
    """The model with each MLP beside the attention, with further changes of the MLPs."""
    layers = (LayerSpec((layer[Attention], replace(layer[Mlp], beside=True, **changes))) for layer in spec.layers)
    return spec.with_layers(tuple(layers))


def layers(*changes: dict[str, Any], spec: ModelSpec = PLAIN) -> ModelSpec:
    """The model with layers changed in turn: by the first dict, the next, and so on, again from the first."""
    changed = (layer.changed(**changes[index % len(changes)]) for index, layer in enumerate(spec.layers))
    return spec.with_layers(tuple(changed))


def everything(*ropes: RopeSpec | None, **changes: Any) -> ModelSpec:
    spec = block(embedding_multiplier=3.0, logits_multiplier=0.4, logits_softcap=0.9)
    alike = {
        "activation": "gelu_tanh",
        "multiplier": 0.6,
        "scale": 0.11,
        "softcap": 1.5,
        "query_scaling": QueryScaling(0.7, 4),
        **changes,
    }
    spec = norms(frozenset(NORMS), layers(alike, spec=spec))
    windows = (None, 5, 3)
    return layers(
        *(
            {"rope": rope, "sliding_window": window, "biases": ALL_BIASES}
            for rope, window in zip(ropes, windows, strict=True)
        ),
        spec=spec,
    )


SPECS: dict[str, ModelSpec] = {
    "plain": PLAIN,
    "norms before and after": norms(BEFORE | AFTER),
    "no norms around the MLP": layers({"biases": ALL_BIASES}, spec=norms(frozenset(NORMS[:2]))),
    "no norms around attention": layers({"biases": ALL_BIASES}, spec=norms(frozenset(NORMS[2:]))),
    "layer norm": replace(PLAIN, norm=NormSpec(1e-5, is_centred=True)),
    "layer norm with a bias": replace(
        layers({"biases": ALL_BIASES}), norm=NormSpec(1e-5, is_centred=True, has_bias=True)
    ),
    "beside": beside(),
    "beside, one norm": beside(norm_before=NORMS[0]),
    "beside, norms after and a factor": beside(
        norms(BEFORE | AFTER, layers({"multiplier": 0.5}))
    ),
    "beside, layer norm": beside(
        replace(layers({"biases": ALL_BIASES}), norm=NormSpec(1e-5, is_centred=True, has_bias=True)),
        norm_before=NORMS[0],
    ),
    "gelu": layers({"activation": "gelu_tanh"}),
    "exact gelu": layers({"activation": "gelu"}),
    "plain MLP, relu": layers({"is_gated": False, "activation": "relu", "biases": ALL_BIASES - {"gate_proj"}}),
    "plain MLP, squared relu": layers({"is_gated": False, "activation": "relu2"}),
    "attention scale": layers({"scale": 0.7}),
    "attention soft cap": layers({"softcap": 0.8}),
    "attention soft cap, window": layers({"sliding_window": 5, "softcap": 0.8}),
    "logits soft cap": block(logits_softcap=0.7),
    "embedding multiplier": block(embedding_multiplier=5.5),
    "residual multiplier, biases": layers({"multiplier": 0.22, "biases": ALL_BIASES}),
    "factors": layers({"factors": {"q_proj": 1.5, "k_proj": 0.4, "gate_proj": 0.7}, "biases": ALL_BIASES}),
    "logits multiplier": block(logits_multiplier=0.125),
    "norm before rotation": layers({"qk_norm": "before_rotation"}),
    "norm after rotation": layers({"qk_norm": "after_rotation"}),
    "query scaling": layers({"query_scaling": QueryScaling(0.5, 4)}),
    "some layers do not rotate": layers({"rope": None}, {}),
    "no rotation": layers({"rope": None}),
    "partial": layers({"rope": rope(16)}),
    "partial, too narrow for GroupQueryAttention": layers({"rope": rope(24)}),
    "interleaved": layers({"rope": rope(interleaved=True)}),
    "partial and interleaved": layers({"rope": rope(16, interleaved=True)}),
    "local rotation": layers({"rope": rope(theta=10.0), "sliding_window": 5}, {}),
    "longrope": layers({"rope": longrope()}),
    "longrope, partial, window": layers({"rope": longrope(16), "sliding_window": 5}),
    "heads of 24": layers({"rope": rope(24), "head_dim": 24}),
    "everything": everything(rope(16, interleaved=True), rope(theta=10.0), None, qk_norm="before_rotation"),
    "everything, apart": everything(longrope(24, interleaved=True), rope(8), None, qk_norm="after_rotation"),
}  # fmt: skip
#: Each in one dialect, the next in the other; and the other way round.
IN_TURN = [(name, DIALECTS[index % 2]) for index, name in enumerate(SPECS)]
CROSSWISE = [(name, DIALECTS[1 - index % 2]) for index, name in enumerate(SPECS)]


@dataclass
class Tensors:
    """Weights in memory."""

    tensors: dict[str, torch.Tensor]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}

    def dtypes(self) -> dict[str, torch.dtype]:
        return {name: tensor.dtype for name, tensor in self.tensors.items()}

    def read(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        return {name: self.tensors[name] for name in names}


@dataclass
class Graph:
    """A graph, its weights, and its session."""

    path: Path
    tensors: dict[str, torch.Tensor]
    spec: ModelSpec

    @cached_property
    def session(self) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        return onnxruntime.InferenceSession(self.path, options, providers=["CPUExecutionProvider"])

    def run(self, ids: np.ndarray, mask: np.ndarray, past: list[np.ndarray] | None = None) -> list[np.ndarray]:
        """Logits and caches."""
        inputs = self.session.get_inputs()[2:]
        states = past or [empty_state(item, rows=len(ids)) for item in inputs]
        feeds = {item.name: state for item, state in zip(inputs, states, strict=True)}
        return self.session.run(None, {"input_ids": ids, "attention_mask": mask, **feeds})


def write(
    folder: Path,
    spec: ModelSpec,
    dialect: DialectName = "fused",
    precision: Precision | None = None,
    logits: Logits = "all",
    scaling: Scaling | None = None,
) -> Graph:
    tensors, precision = random_tensors(spec), precision or Precision()
    form = OnnxForm(precision, dialect, logits)
    graph = decoder_graph(spec, LazyWeights(Tensors(tensors), precision), form, scaling or Scaling())
    model = graph.build("test")
    ir.save(model, folder / "model.onnx", external_data="model.onnx.data", size_threshold_bytes=32)
    onnx.checker.check_model(folder / "model.onnx", full_check=True)
    if dialect == "standard":
        assert {node.domain for node in model.graph} == {""}
    return Graph(folder / "model.onnx", tensors, spec)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Graph]:
    """`written(name, dialect)`: the graph of one of `SPECS`, which is written once."""
    return cache(lambda name, *form: write(tmp_path_factory.mktemp("graph"), SPECS[name], *form))


def tokens(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 64, shape)


def assert_equal(computed: np.ndarray, expected: np.ndarray) -> None:
    assert computed.shape == expected.shape
    assert np.abs(computed - expected).max() <= TOLERANCE * max(1.0, np.abs(expected).max())


#: A conversation in calls of several tokens and of one; a step passes the switch of longrope.
CALLS = tuple(pairwise(accumulate((0, 5, 4, *[1] * 5, 4))))
#: Prompts beyond the longrope switch, below it, and passing it with a step; all take three steps.
PROMPTS, STEPS = (15, 4, 11), (15, 16, 17)


@cache
def expected_calls(name: str) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The logits of each of `CALLS`, and the caches in the end."""
    reference, ids = Reference(SPECS[name], random_tensors(SPECS[name])), tokens(1, 18)[0]
    logits = [reference.call(ids[start:end].tolist()).numpy() for start, end in CALLS]
    return logits, [tensor.numpy() for pair in reference.caches for tensor in pair]


@cache
def expected_batch(name: str) -> list[list[np.ndarray]]:
    """For each of `PROMPTS` the logits of its tokens, and of each step."""
    references = [Reference(SPECS[name], random_tensors(SPECS[name])) for _ in PROMPTS]
    return [
        [reference.call(part.tolist()).numpy() for part in (ids[:length], *(ids[step : step + 1] for step in STEPS))]
        for ids, length, reference in zip(tokens(3, 18), PROMPTS, references, strict=True)
    ]


@pytest.mark.parametrize(("name", "dialect"), IN_TURN)
def test_calls_and_steps(name: str, dialect: DialectName, written: Callable[..., Graph]) -> None:
    graph, ids, past = written(name, dialect), tokens(1, 18), None
    expected, caches = expected_calls(name)
    for (start, end), call in zip(CALLS, expected, strict=True):
        logits, *past = graph.run(ids[:, start:end], np.ones((1, end), np.int64), past)
        assert_equal(logits[0], call)
    for computed, kept in zip(past or [], caches, strict=True):
        assert_equal(computed[0], kept)


@pytest.mark.parametrize(("name", "dialect"), CROSSWISE)
def test_right_padded_batch(name: str, dialect: DialectName, written: Callable[..., Graph]) -> None:
    graph, ids, expected = written(name, dialect), tokens(3, 18), expected_batch(name)
    mask = (np.arange(15)[None] < np.array(PROMPTS)[:, None]).astype(np.int64)
    logits, *past = graph.run(ids[:, :15], mask)
    for row, length in enumerate(PROMPTS):
        assert_equal(logits[row, :length], expected[row][0])
    for number, step in enumerate(STEPS, 1):
        mask = np.concatenate([mask, np.ones((3, 1), np.int64)], axis=1)
        logits, *past = graph.run(ids[:, step : step + 1], mask, past)
        for row in range(3):
            assert_equal(logits[row], expected[row][number])


@pytest.mark.parametrize(("name", "dialect"), CROSSWISE[1::3])
def test_scaling_changes_no_bit(
    name: str, dialect: DialectName, written: Callable[..., Graph], tmp_path: Path
) -> None:
    """Powers of two leave the rounding of float32 as it is, so that even it is the same."""
    ids, computed = tokens(2, 15), []
    scaled = write(tmp_path, SPECS[name], dialect, scaling=every_exponent(SPECS[name]))
    for graph in (written(name, dialect), scaled):
        logits, *past = graph.run(ids[:, :14], np.ones((2, 14), np.int64))
        computed.append([logits, *past, *graph.run(ids[:, 14:], np.ones((2, 15), np.int64), past)])
    assert all(np.array_equal(*pair) for pair in zip(*computed, strict=True))


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("name", ["plain", "norm after rotation", "longrope"])
def test_a_call_beyond_the_positions_fails(name: str, dialect: DialectName, written: Callable[..., Graph]) -> None:
    graph = written(name, dialect)
    ids, mask = tokens(1, POSITIONS + 1), np.ones((1, POSITIONS + 1), np.int64)
    _, *past = graph.run(ids[:, :-1], mask[:, :-1])
    for call in ((ids, mask, None), (ids[:, -1:], mask, past)):
        with pytest.raises(Exception, match=f"cos_cache|position_ids value {POSITIONS}|{LENGTH_GUARD}"):
            graph.run(*call)


def test_longrope_keeps_no_rows_that_are_never_read(written: Callable[..., Graph], tmp_path: Path) -> None:
    for name, tables in (("plain", 1), ("local rotation", 2), ("no rotation", 0)):
        stored = onnx.load(written(name, "fused").path).graph.initializer
        assert sum(item.name.startswith("cos_cache") for item in stored) == tables
    initializers = {item.name: item for item in onnx.load(written("longrope", "fused").path).graph.initializer}
    assert list(initializers["cos_cache"].dims) == [SWITCH + POSITIONS, 16]
    never = replace(longrope(), parameters={**longrope().parameters, "original_max_position_embeddings": POSITIONS})
    write(tmp_path, layers({"rope": never}))
    initializers = {item.name: item for item in onnx.load(tmp_path / "model.onnx").graph.initializer}
    assert list(initializers["cos_cache"].dims) == [POSITIONS, 16]


@pytest.mark.parametrize("name", sorted(SPECS.keys() - {"plain", "heads of 24"}))
def test_every_feature_changes_the_logits(name: str) -> None:
    """Otherwise a test could not tell whether a graph has it."""
    spec, ids = SPECS[name], tokens(1, 18)[0].tolist()
    tensors = random_tensors(spec)
    kept = {"head_dim": spec.head_dim, "rope": rope(spec.head_dim)}
    plain = PLAIN.with_layers(
        tuple(LAYER.changed(**layer.sizes, **kept, biases=layer.biases) for layer in spec.layers)
    )
    shared = {key: tensors.get(key, torch.ones(shape)) for key, shape in plain.tensors().items()}
    difference = Reference(spec, tensors).call(ids) - Reference(plain, shared).call(ids)
    assert difference.abs().max() > 1000 * TOLERANCE
