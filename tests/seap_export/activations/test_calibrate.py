"""Calibration gives the moments that transformers' own model has, text by text."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
import torch
from micro import VARIATIONS, write_micro_model
from transformers import AutoModelForCausalLM

from seap_export.activations.calibrate import collect_moments
from seap_export.activations.moments import Moments
from seap_export.activations.statistics import LayerMoments
from seap_export.sources.source import Source, open_source

PROJECTIONS = {"o_proj": "self_attn.o_proj", "down_proj": "mlp.down_proj"}


def texts(number: int = 12, seed: int = 0) -> list[list[int]]:
    """Token ids, 1 to 30 a text: shorter and longer than the window of 5, the padding id 0 among them."""
    chance = random.Random(seed)
    return [[chance.randrange(96) for _ in range(chance.randint(1, 30))] for _ in range(number)]


def micro_source(folder: Path, variation: str, dtype: str = "float32") -> Source:
    return open_source(str(write_micro_model(folder, dtype=dtype, **VARIATIONS[variation])))


@torch.no_grad()
def plain_loop(folder: Path, sequences: Sequence[Sequence[int]]) -> list[dict[str, torch.Tensor]]:
    """All inputs of o_proj and down_proj of each layer, [tokens, channels] float64: one text a time, unpadded."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    seen: list[dict[str, list[torch.Tensor]]] = [defaultdict(list) for _ in model.model.layers]
    for layer, record in zip(model.model.layers, seen, strict=True):
        for name, path in PROJECTIONS.items():
            layer.get_submodule(path).register_forward_pre_hook(
                lambda _, args, own=record[name]: own.append(args[0][0].double())
            )
    for sequence in sequences:
        model(torch.tensor([sequence]), use_cache=False)
    return [{name: torch.cat(parts) for name, parts in record.items()} for record in seen]


def assert_moments_of(moments: Moments, values: torch.Tensor, tolerance: float = 1e-5) -> None:
    mean = values.mean(0)
    variance = (values - mean).square().mean(0)
    assert moments.count == len(values)
    assert ((moments.mean - mean).abs() <= tolerance * values.square().mean(0).sqrt()).all()
    torch.testing.assert_close(moments.variance, variance, rtol=2 * tolerance, atol=0.0)


def assert_same(one: list[LayerMoments], other: list[LayerMoments], tolerance: float = 1e-5) -> None:
    for ours, theirs in zip(one, other, strict=True):
        for name in PROJECTIONS:
            a, b = getattr(ours, name), getattr(theirs, name)
            assert a.count == b.count
            torch.testing.assert_close(a.variance, b.variance, rtol=2 * tolerance, atol=0.0)
            assert ((a.mean - b.mean).abs() <= tolerance * b.mean_square.sqrt()).all()


@pytest.mark.parametrize("variation", VARIATIONS)
def test_moments_are_those_of_transformers_model_text_by_text(tmp_path: Path, variation: str) -> None:
    source = micro_source(tmp_path / "model", variation)
    moments = collect_moments(source, {"task": texts()}, max_batch_tokens=64)["task"]
    expected = plain_loop(tmp_path / "model", texts())
    assert len(moments) == len(expected) == 3
    for layer, values in zip(moments, expected, strict=True):
        assert_moments_of(layer.o_proj, values["o_proj"])
        assert_moments_of(layer.down_proj, values["down_proj"])


def test_half_precision_weights_are_run_in_float32(tmp_path: Path) -> None:
    source = micro_source(tmp_path / "model", "llama-gqa", dtype="bfloat16")
    moments = collect_moments(source, {"task": texts()})["task"]
    for layer, values in zip(moments, plain_loop(tmp_path / "model", texts()), strict=True):
        assert_moments_of(layer.down_proj, values["down_proj"])


@pytest.mark.parametrize("variation", ["llama-gqa", "mistral-window", "qwen2-window"])
def test_batches_and_order_change_nothing(tmp_path: Path, variation: str) -> None:
    source = micro_source(tmp_path / "model", variation)
    shuffled = texts()
    random.Random(7).shuffle(shuffled)
    first = collect_moments(source, {"task": texts()}, max_batch_tokens=1)["task"]
    for max_batch_tokens, sequences in ((40, texts()), (4096, shuffled)):
        other = collect_moments(source, {"task": sequences}, max_batch_tokens=max_batch_tokens)["task"]
        assert_same(other, first)


def test_padding_is_never_counted(tmp_path: Path) -> None:
    """One long text makes the short ones mostly padding; alone, they need none."""
    source = micro_source(tmp_path / "model", "llama-gqa")
    long, short = [5] * 30, [[7], [8, 9], [7]]
    padded = collect_moments(source, {"task": [long, *short]})["task"]
    alone = collect_moments(source, {"task": [long, *short]}, max_batch_tokens=1)["task"]
    assert padded[0].o_proj.count == 34
    assert_same(padded, alone)


def test_what_a_window_has_left_behind_does_not_count(tmp_path: Path) -> None:
    """From position 8 on, the first layer sees the 3 and what follows it, but not what came before."""
    source = micro_source(tmp_path / "model", "mistral-window")
    early, late = [3] * 10 + [11, 12, 13], [4] * 4 + [3] * 6 + [11, 12, 13]
    moments = [collect_moments(source, {"task": [ids]})["task"][0].o_proj for ids in (early, late)]
    expected = [plain_loop(tmp_path / "model", [ids])[0]["o_proj"] for ids in (early, late)]
    assert torch.allclose(expected[0][8:], expected[1][8:])  # the window is at work in transformers
    for own, values in zip(moments, expected, strict=True):
        assert_moments_of(own, values)


@pytest.mark.parametrize("length", [5, 6, 7])
def test_a_window_starts_to_matter_one_token_past_its_width(tmp_path: Path, length: int) -> None:
    source = micro_source(tmp_path / "model", "mistral-window")
    ids = texts(1, seed=3)[0][:1] + list(range(10, 9 + length))
    layer = collect_moments(source, {"task": [ids]})["task"][1]
    assert_moments_of(layer.o_proj, plain_loop(tmp_path / "model", [ids])[1]["o_proj"])


def test_tasks_do_not_mix(tmp_path: Path) -> None:
    source = micro_source(tmp_path / "model", "llama-gqa")
    tasks = {"one": texts(seed=1), "two": texts(seed=2)}
    together = collect_moments(source, tasks)
    assert list(together) == ["one", "two"]
    for task, sequences in tasks.items():
        assert_same(together[task], collect_moments(source, {task: sequences})[task], tolerance=1e-9)


def test_weights_are_read_once_for_all_batches_of_a_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = micro_source(tmp_path / "model", "llama-gqa")
    read: list[str] = []
    plain = source.reader.read

    def noted(names: Iterable[str]) -> dict[str, torch.Tensor]:
        wanted = list(names)
        read.extend(wanted)
        return plain(wanted)

    monkeypatch.setattr(source.reader, "read", noted)
    collect_moments(source, {"task": texts()}, max_batch_tokens=1)
    assert len(read) == len(set(read))


def test_layers_are_reported_as_they_are_done(tmp_path: Path) -> None:
    done: list[int] = []
    collect_moments(micro_source(tmp_path / "model", "llama-gqa"), {"task": texts(2)}, on_layer=done.append)
    assert done == [0, 1, 2]
