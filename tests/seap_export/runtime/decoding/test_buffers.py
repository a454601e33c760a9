"""Buffers and prefixes that decodings use one after another; captured steps are computed on the CPU."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
from numpy.typing import NDArray

from seap_export.errors import EnvironmentFailure
from seap_export.runtime.decoding import buffers
from seap_export.runtime.decoding.buffers import DecodingBuffers
from seap_export.runtime.decoding.decoder import Decoding, OnnxDecoder
from seap_export.runtime.decoding.prefix import PrefixCache
from seap_export.runtime.onnx_model import NO_GRAPH, OnnxModel

CONTEXT = 300
TOKENS = [[5, 17], [40, 8], [9, 9], [33, 71]]


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of the CUDA graph of each call, in order."""
    called: list[int] = []
    run = OnnxModel.run_bound

    def record(model: OnnxModel, binding: Any, graph: int = NO_GRAPH) -> None:
        called.append(graph)
        run(model, binding, graph)

    monkeypatch.setattr(OnnxModel, "run_bound", record)
    return called


@pytest.fixture
def capturing(dense: Callable[..., Path]) -> Callable[..., OnnxDecoder]:
    """`capturing("fp16")`: a decoder that treats the CPU as a GPU whose calls can be captured."""

    def make(dtype: str = "fp32", **options: Any) -> OnnxDecoder:
        decoder = OnnxDecoder(dense("llama-gqa", dtype=dtype, **options) / "model.onnx", CONTEXT, threads=1)
        decoder._model.captures, decoder._model.turn = True, threading.Lock()
        return decoder

    return make


def decoded(decoding: Decoding) -> list[NDArray[np.float32]]:
    logits = [decoding.logits.copy()]
    for step in TOKENS:
        decoding.step(step[: len(decoding.lengths)])
        logits.append(decoding.logits.copy())
    return logits


def graph_of(decoding: Decoding) -> int:
    assert decoding._buffers is not None
    return decoding._buffers.graph


@pytest.mark.parametrize(
    ("dtype", "logits", "prompts"), [("fp32", "all", [[7, 8, 9]]), ("fp16", "last", [[7, 8, 9], [50]])]
)
def test_captured_steps_compute_the_same_even_side_by_side(
    dense: Callable[..., Path],
    capturing: Callable[..., OnnxDecoder],
    graphs: list[int],
    dtype: str,
    logits: str,
    prompts: Sequence[Sequence[int]],
) -> None:
    plain = OnnxDecoder(dense("llama-gqa", dtype=dtype, logits=logits) / "model.onnx", CONTEXT, threads=1)
    expected = decoded(plain.start(prompts, 8))
    assert set(graphs) == {NO_GRAPH}
    decoder = capturing(dtype, logits=logits)
    for _ in range(2):
        graphs.clear()
        np.testing.assert_array_equal(decoded(decoder.start(prompts, 8)), expected)
        assert graphs == [NO_GRAPH, 1, 1, 1, 1]
    one, other = decoder.start(prompts, 8), decoder.start([[11]] * len(prompts), 8)
    for step, wanted in zip(TOKENS, expected[1:], strict=True):
        one.step(step[: len(prompts)])
        other.step([3] * len(prompts))
        np.testing.assert_array_equal(one.logits, wanted)


def test_a_later_decoding_of_the_same_size_uses_buffers_and_graph_again(capturing: Callable[..., OnnxDecoder]) -> None:
    decoder = capturing()
    first, beside = (decoder.start([[5, 6]], 8) for _ in range(2))
    first.step([7])
    beside.step([7])
    buffers = {name: value.data_ptr() for name, value in first._cache.buffers.items()}
    assert (graph_of(first), graph_of(beside)) == (1, 2)
    del first
    again = decoder.start([[9]], 8)
    again.step([7])
    assert {name: value.data_ptr() for name, value in again._cache.buffers.items()} == buffers
    for rows, steps in ((2, 8), (1, 70)):
        other = decoder.start([[9]] * rows, steps)
        other.step([7] * rows)
        assert graph_of(other) > 2
    assert graph_of(again) == 1
    assert graph_of(decoder.start([[5]], 1)) == NO_GRAPH  # prompts alone take no graph


def test_beyond_the_limit_steps_are_not_captured(
    capturing: Callable[..., OnnxDecoder], graphs: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buffers, "_MOST_GRAPHS", 1)
    decoder = capturing()
    expected = decoded(decoder.start([[5]], 8))
    kept = decoder.start([[5]], 8)
    graphs.clear()
    np.testing.assert_array_equal(decoded(decoder.start([[5]], 8)), expected)
    assert set(graphs) == {NO_GRAPH}
    assert not any(decoder._buffer_pool._free.values())
    assert graph_of(kept) == 1


def test_what_a_broken_decoding_leaves_is_removed(capturing: Callable[..., OnnxDecoder]) -> None:
    decoder = capturing()
    broken = decoder.start([[5]], 8)
    broken.step([6])
    for buffer in broken._cache.buffers.values():
        buffer.update_inplace(np.full(buffer.shape(), np.nan, np.float32))
    broken.step([6])
    assert np.isnan(broken.logits).all()
    del broken
    after = decoder.start([[5]], 8)
    after.step([6])
    assert graph_of(after) == 1
    for buffer in after._cache.buffers.values():
        assert np.isfinite(buffer.numpy()).all()


def test_memory_that_other_sizes_hold_is_given_back(
    capturing: Callable[..., OnnxDecoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = capturing()
    decoder.start([[5]], 8).step([6])
    (held,) = [buffers for free in decoder._buffer_pool._free.values() for buffers in free]

    def allocate(model: Any, layouts: Any, rows: int, capacity: int, graphs: Any) -> DecodingBuffers:
        if any(decoder._buffer_pool._free.values()):
            raise EnvironmentFailure("not enough memory")
        return DecodingBuffers(model, layouts, rows, capacity, graphs)

    monkeypatch.setattr(buffers, "DecodingBuffers", allocate)
    other = decoder.start([[5], [6]], 8)
    other.step([6, 7])
    assert (held.graph, graph_of(other)) == (1, 2)


#: Tokens of one text after the other, so that the next goes on, differs in the middle, is a part, and fills the cache.
TEXTS = [
    list(range(4, 14)),
    list(range(4, 34)),
    [*range(4, 20), *range(50, 60)],
    list(range(4, 9)),
    [*range(4, 94), 5],
]
STEPS = 3


def decoder_of(folder: Path) -> OnnxDecoder:
    return OnnxDecoder(folder / "model.onnx", 128, threads=1)


def following(tokens: list[int]) -> list[int]:
    """What is said after a text, with which the one after the first goes on."""
    return list(range(tokens[-1] + 1, tokens[-1] + 1 + STEPS))


def logits_after(decoding: Decoding, tokens: list[int]) -> list[np.ndarray]:
    logits = [decoding.logits.copy()]
    for token in following(tokens):
        decoding.step([token])
        logits.append(decoding.logits.copy())
    return logits


@pytest.mark.parametrize(
    ("name", "options", "starts"),
    [
        ("llama-gqa", {"logits": "last"}, [10]),
        ("mistral-window", {}, [10]),
        # what is copied grows by itself, but cannot be cut: the third and the fourth text begin anew
        ("llama-gqa", {"dialect": "standard"}, [10, 26, 5]),
        ("lfm2", {}, [10, 26, 5]),
    ],
)
def test_a_text_goes_on_as_if_it_began(
    dense: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    options: dict[str, str],
    starts: list[int],
) -> None:
    decoder = decoder_of(dense(name, **options))
    cache, fresh = PrefixCache(decoder), decoder_of(dense(name, **options))
    start = MagicMock(wraps=decoder.start)
    monkeypatch.setattr(decoder, "start", start)
    for tokens in TEXTS:
        decoding = cache.start(tokens, STEPS)
        wanted = logits_after(fresh.start([tokens], STEPS), tokens)
        for logits, expected in zip(logits_after(decoding, tokens), wanted, strict=True):
            np.testing.assert_allclose(logits, expected, rtol=0, atol=2e-5)
        cache.keep([*tokens, *following(tokens)], decoding)
    assert [len(prompt) for call in start.call_args_list for prompt in call.args[0]] == starts


def test_the_same_prompt_runs_its_last_token_alone_and_is_handed_out_once(dense: Callable[..., Path]) -> None:
    """An answer that was broken off leaves nothing that the next could trust."""
    cache = PrefixCache(decoder_of(dense("llama-gqa")))
    decoding = cache.start(TEXTS[0], STEPS)
    first = decoding.logits.copy()
    cache.keep(TEXTS[0], decoding)
    assert cache.start(TEXTS[0], STEPS) is decoding
    np.testing.assert_allclose(decoding.logits, first, rtol=0, atol=2e-5)
    assert cache.start(TEXTS[0], STEPS) is not decoding
