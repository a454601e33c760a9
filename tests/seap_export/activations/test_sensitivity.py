"""The sensitivity is that of autograd through transformers' whole model, with the same labels drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from calibrated import collect, load, micro_source, random_texts
from micro import VARIATIONS
from transformers import PreTrainedModel

from seap_export.activations import sensitivity as module
from seap_export.activations.calibrate import collect_statistics
from seap_export.activations.sensitivity import SENSITIVITY_TOKENS, sensitivity_texts
from seap_export.layers.batches import Batch, length_buckets
from seap_export.sources.source import Source


def measured(source: Source, texts: Sequence[Sequence[int]], **options: int) -> torch.Tensor:
    return collect_statistics(source, {"task": texts}, lambda *_: None, **options)["task"]


def drawn_labels(model: PreTrainedModel, batch: Batch, block: int = 256) -> list[torch.Tensor]:
    """The labels of each text of a batch, drawn as the module draws them: by blocks of its real tokens."""
    texts = [ids[real] for ids, real in zip(batch.input_ids, batch.real, strict=True)]
    with torch.no_grad():
        chances = torch.cat([model(ids[None]).logits[0].softmax(-1) for ids in texts])
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.multinomial(part, 1, generator=generator)[:, 0] for part in chances.split(block)]
    return list(torch.cat(drawn).split([len(ids) for ids in texts]))


def residual_gradients(model: PreTrainedModel, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Squared gradients of log p(labels) behind each half of each layer, summed over the text; [layers, 2]."""
    streams: list[list[torch.Tensor]] = [[] for _ in model.model.layers]

    def note(own: list[torch.Tensor], stream: torch.Tensor) -> None:
        stream.retain_grad()
        own.append(stream)

    hooks = []
    for layer, own in zip(model.model.layers, streams, strict=True):
        middle = layer.post_attention_layernorm.register_forward_pre_hook(lambda _, args, own=own: note(own, args[0]))
        behind = layer.register_forward_hook(
            lambda _, args, output, own=own: note(own, output[0] if isinstance(output, tuple) else output)
        )
        hooks += [middle, behind]
    log_p = model(ids[None], use_cache=False).logits[0].log_softmax(-1)
    log_p.gather(1, labels[:, None]).sum().backward()
    for hook in hooks:
        hook.remove()
    squares = [[float(stream.grad.double().square().sum()) for stream in own] for own in streams]  # type: ignore[union-attr]
    return torch.tensor(squares, dtype=torch.float64)


def expected_sensitivity(model: PreTrainedModel, texts: Sequence[Sequence[int]]) -> torch.Tensor:
    """Text by text, unpadded."""
    total = torch.zeros(3, 2, dtype=torch.float64)
    for batch in length_buckets(texts, SENSITIVITY_TOKENS):
        labels = drawn_labels(model, batch)
        for ids, real, own in zip(batch.input_ids, batch.real, labels, strict=True):
            total += residual_gradients(model, ids[real], own)
    return total / (sum(map(len, texts)) * model.config.hidden_size)


@pytest.mark.parametrize("variation", VARIATIONS)
def test_it_is_that_of_autograd_through_the_whole_model(tmp_path: Path, variation: str) -> None:
    source = micro_source(tmp_path / "model", variation)
    texts = random_texts(16)
    actual = measured(source, texts)
    assert actual.dtype == torch.float64
    torch.testing.assert_close(actual, expected_sensitivity(load(tmp_path / "model"), texts), rtol=1e-4, atol=0.0)
    assert len({round(float(value), 12) for value in actual.flatten()}) == 6  # each place has its own


def test_more_tokens_than_logits_fit_in_memory_and_more_than_one_batch(tmp_path: Path) -> None:
    source = micro_source(tmp_path / "model")
    texts = random_texts(60)[: sensitivity_texts(random_texts(60))]
    batches = length_buckets(texts, SENSITIVITY_TOKENS)
    assert len(batches) > 1
    assert max(int(batch.real.sum()) for batch in batches) > module._LOGIT_TOKENS
    expected = expected_sensitivity(load(tmp_path / "model"), texts)
    torch.testing.assert_close(measured(source, texts), expected, rtol=1e-4, atol=0.0)


def test_half_precision_weights_are_run_in_float32(tmp_path: Path) -> None:
    source = micro_source(tmp_path / "model", dtype="bfloat16")
    expected = expected_sensitivity(load(tmp_path / "model"), random_texts(8))
    torch.testing.assert_close(measured(source, random_texts(8)), expected, rtol=1e-4, atol=0.0)


def test_drawn_labels_stand_for_the_expectation_over_all_labels(tmp_path: Path) -> None:
    """E|g|^2 over the model's own prediction, behind the last layer, where a gradient is of one token alone."""
    source = micro_source(tmp_path / "model", vocab_size=24)
    texts = random_texts(40, vocabulary=24)[: sensitivity_texts(random_texts(40, vocabulary=24))]
    model = load(tmp_path / "model")
    total, tokens = 0.0, 0
    for ids in texts:
        with torch.no_grad():
            stream = model.model(torch.tensor([ids]), output_hidden_states=False, use_cache=False)
        normed = stream.last_hidden_state[0]
        chances = model.lm_head(normed).softmax(-1).detach()
        before: list[torch.Tensor] = []
        hook = model.model.norm.register_forward_pre_hook(lambda _, args, own=before: own.append(args[0].detach()))
        model(torch.tensor([ids]), use_cache=False)
        hook.remove()
        last = before[0][0].requires_grad_(True)
        log_p = model.lm_head(model.model.norm(last)).log_softmax(-1)
        for label in range(24):
            gradient = torch.autograd.grad(log_p[:, label].sum(), last, retain_graph=True)[0]
            total += float((chances[:, label] * gradient.square().sum(1)).double().sum())
        tokens += len(ids)
    assert float(measured(source, texts)[-1, 1]) == pytest.approx(total / tokens / 96, rel=0.15)


def test_padding_and_the_size_of_batches_change_nothing(tmp_path: Path) -> None:
    source = micro_source(tmp_path / "model")
    texts = random_texts(60)
    first = measured(source, texts, max_batch_tokens=1)
    for max_batch_tokens in (40, 4096):
        assert torch.equal(measured(source, texts, max_batch_tokens=max_batch_tokens), first)


def test_only_the_first_texts_count(tmp_path: Path) -> None:
    source = micro_source(tmp_path / "model")
    texts = random_texts(60)
    enough = sensitivity_texts(texts)
    assert sum(map(len, texts[: enough - 1])) < SENSITIVITY_TOKENS <= sum(map(len, texts[:enough]))
    other = texts[:enough] + random_texts(20, seed=5)
    torch.testing.assert_close(measured(source, other), measured(source, texts), rtol=1e-6, atol=0.0)
    assert not torch.allclose(measured(source, texts[1:]), measured(source, texts), rtol=1e-3)


def test_texts_of_fewer_tokens_all_count() -> None:
    assert sensitivity_texts([[1, 2], [3]]) == 2
    assert sensitivity_texts([]) == 0
    assert sensitivity_texts([[0] * SENSITIVITY_TOKENS, [1]]) == 1
    assert sensitivity_texts([[0] * (SENSITIVITY_TOKENS - 1), [1], [2]]) == 2


def test_taking_it_leaves_the_statistics_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = micro_source(tmp_path / "model")
    with_it = collect(source, {"task": random_texts()})["task"]
    monkeypatch.setattr("seap_export.activations.calibrate.residual_sensitivity", lambda *_: {})
    without = collect(source, {"task": random_texts()})["task"]
    for ours, theirs in zip(with_it, without, strict=True):
        assert torch.equal(ours["down_proj"].covariance, theirs["down_proj"].covariance)
