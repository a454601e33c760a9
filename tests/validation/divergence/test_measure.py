from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.editing import set_json
from support.execution import ONE_THREAD, RUN_BY
from support.models import write_micro_model
from support.product import OnnxForm

from converters.onnx import write_onnx
from seap_export.errors import ArtifactError, InputError
from validation.divergence import dense as dense_side
from validation.divergence import measure
from validation.divergence.dense import DenseAnswers, DenseReference
from validation.divergence.measure import continue_prompt, measure_divergence, measure_divergences
from validation.divergence.paired import Bytes, PairedText, cut_figures, pair_cuts, per_byte, same_cut

TEXTS = ((4, 5, 6, 7, 8, 9), (10, 4, 11), (12,), (5, 4, 4, 20, 19, 18, 17))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`dense`, a neighbour of it, `other`, and `onnx`, of the other."""
    folder = tmp_path_factory.mktemp("quality")
    write_micro_model(folder / "dense", model_type="llama")
    shutil.copytree(folder / "dense", folder / "other")
    _change_head(folder / "other", lambda head, noise: head + 0.3 * noise)
    (folder / "onnx").mkdir()
    write_onnx(folder / "other", folder / "onnx")
    return folder


@contextmanager
def dense_reference(folder: Path, **options: Any) -> Iterator[DenseReference]:
    with DenseAnswers(folder, ONE_THREAD) as answers:
        answers.run(TEXTS, **options)
        yield answers.reference(TEXTS)


def _change_head(folder: Path, change: Callable[[Any, Any], Any]) -> None:
    """Replaces the LM head by a function of it and of noise of its scale."""
    import torch
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    head = weights["lm_head.weight"]
    noise = head.std() * torch.randn(head.shape, generator=torch.Generator().manual_seed(1))
    weights["lm_head.weight"] = change(head, noise)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _by_hand(models: Path) -> tuple[np.ndarray, float, float, float]:
    """KL of each token, perplexity of both, and top-1 agreement, by torch in float64."""
    import torch
    from transformers import AutoModelForCausalLM

    kl, agree, losses = [], [], []
    loaded = [AutoModelForCausalLM.from_pretrained(models / name, dtype=torch.float32) for name in ("dense", "other")]
    for ids in TEXTS:
        with torch.no_grad():
            p, q = (model.eval()(torch.tensor([ids])).logits[0].double().log_softmax(-1) for model in loaded)
        kl += (p.exp() * (p - q)).sum(-1).tolist()
        agree += (p.argmax(-1) == q.argmax(-1)).tolist()
        losses += [[-float(log_p[index, ids[index + 1]]) for log_p in (p, q)] for index in range(len(ids) - 1)]
    dense, perplexity = np.exp(np.mean(losses, 0))
    return np.array(kl), perplexity, dense, float(np.mean(agree))


@pytest.mark.parametrize("form", ["hf", "onnx"])
def test_the_figures_are_those_of_a_plain_loop(models: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense_side, "_CHUNK_ELEMENTS", 2 * 96)  # two tokens a block
    kl, perplexity, dense, agreement = _by_hand(models)
    with dense_reference(models / "dense") as reference:
        figures = measure_divergence(
            reference, models / {"hf": "other", "onnx": "onnx"}[form], RUN_BY[form], execution=ONE_THREAD
        )
    assert figures.tokens == len(kl) == 17
    assert figures.kl.mean == pytest.approx(kl.mean(), rel=1e-4)
    assert figures.kl.max == pytest.approx(kl.max(), rel=1e-4)
    assert figures.perplexity == pytest.approx(perplexity, rel=1e-4)
    assert figures.dense_perplexity == pytest.approx(dense, rel=1e-4)
    assert figures.top1_agreement == pytest.approx(agreement)
    assert figures.loss is not None
    assert figures.loss.mean == pytest.approx(math.log(perplexity / dense), abs=1e-4)
    assert 0 < agreement < 1


def test_a_model_does_not_diverge_from_itself_and_one_reference_serves_many(models: Path) -> None:
    lines: list[str] = []
    with dense_reference(models / "dense", on_progress=lines.append) as reference:
        itself = measure_divergence(reference, models / "dense", execution=ONE_THREAD, on_progress=lines.append)
        first, second = (measure_divergence(reference, models / "other", execution=ONE_THREAD) for _ in range(2))
    assert (itself.kl.mean, itself.kl.max, itself.top1_agreement) == (0.0, 0.0, 1.0)
    assert itself.perplexity == itself.dense_perplexity
    assert first == second
    assert first.kl.mean > 0.01
    assert lines[3:5] == ["dense: text 4 of 4", "torch: text 1 of 4"]


def test_several_sets_are_measured_in_one_pass(models: Path) -> None:
    """Each text runs once; the figures of each set are those that it has alone."""
    sets = [TEXTS[:2], TEXTS, TEXTS[1:2], (TEXTS[1], TEXTS[3], TEXTS[1])]
    lines: list[str] = []
    with DenseAnswers(models / "dense", ONE_THREAD) as answers:
        answers.run(TEXTS)
        references = [(answers.reference(of_set), tuple(map(same_cut, of_set))) for of_set in sets]
        measured = measure_divergences(
            references, models / "onnx", "onnxruntime", execution=ONE_THREAD, on_progress=lines.append
        )
        alone = [
            measure_divergence(reference, models / "onnx", "onnxruntime", execution=ONE_THREAD)
            for reference, _ in references
        ]
    assert len(lines) == len(TEXTS)
    for of_set, other in zip(measured, alone, strict=True):
        assert (of_set.per_byte, of_set.cut) == (other.per_byte, other.cut) == (None, None)
        assert (of_set.kl.mean, of_set.kl.stderr or 0.0) == pytest.approx(
            (other.kl.mean, other.kl.stderr or 0.0), rel=1e-6
        )
        assert astuple(of_set)[1:4] == pytest.approx(astuple(other)[1:4], rel=1e-6)
    assert [figures.tokens for figures in measured] == [9, 17, 3, 13]
    assert len({figures.kl.mean for figures in measured}) == len(sets)


def test_nan_and_another_vocabulary_are_refused_and_named(models: Path, tmp_path: Path) -> None:
    spoilt = Path(shutil.copytree(models / "other", tmp_path / "spoilt"))
    _change_head(spoilt, lambda head, noise: head / 0.0)
    write_micro_model(tmp_path / "larger", vocab_size=97, model_type="llama")
    larger = r"logits of shape \[6, 97\], expected \[6, 96\] for text 0"
    with dense_reference(models / "dense") as reference:
        for folder, words in ((spoilt, r"(NaN|infinite) logits for text 0"), (tmp_path / "larger", larger)):
            with pytest.raises(ArtifactError, match=words):
                measure_divergence(reference, folder, execution=ONE_THREAD)
    with (
        pytest.raises(InputError, match="the dense model gives NaN or infinite logits for text 0"),
        dense_reference(spoilt),
    ):
        pass


@pytest.mark.parametrize("texts", [[], [(4,)]])
def test_texts_without_a_token_to_predict_are_refused(models: Path, texts: list[tuple[int, ...]]) -> None:
    with DenseAnswers(models / "dense", ONE_THREAD) as answers:
        answers.run(texts)
        with pytest.raises(InputError, match="no token to predict"):
            answers.reference(texts)


def test_prompts_are_continued_greedily(models: Path) -> None:
    """A model in torch and the same model as ONNX give the same tokens, which end before a stop."""

    def continued(ids: tuple[int, ...], *more: Any) -> Any:
        return continue_prompt(models / "onnx", "onnxruntime", ids, *more, execution=ONE_THREAD)

    with DenseAnswers(models / "other", ONE_THREAD) as answers:
        for ids in TEXTS:
            answers.run(prompts=[(ids,)], steps=5)
            prompt, following = answers.answer((ids,))
            assert (prompt, len(following)) == (ids, 5)
            assert continued(ids, 5) == following
            assert continued(ids, 5, following[3:4]) == following[: following.index(following[3])]
        # what it says first to the first prompt is made a stop, so that another prompt is taken
        answers.run(prompts=[TEXTS], steps=5, stops=continued(TEXTS[0], 1))
        prompt, following = answers.answer(TEXTS)
    assert prompt != TEXTS[0]
    assert len(following) >= 3


def test_a_file_that_returns_the_last_logits_only_is_measured_at_every_position(models: Path, tmp_path: Path) -> None:
    with dense_reference(models / "dense") as reference:
        whole = measure_divergence(reference, models / "onnx", "onnxruntime", execution=ONE_THREAD)
        for dialect in ("fused", "standard"):
            folder = tmp_path / dialect
            folder.mkdir()
            write_onnx(models / "other", folder, OnnxForm(dialect=dialect, logits="last"))
            last = measure_divergence(reference, folder, "onnxruntime", execution=ONE_THREAD)
            assert last.tokens == whole.tokens
            assert last.kl.mean == pytest.approx(whole.kl.mean, rel=1e-4)


def test_with_fewer_tokens_the_probability_of_the_others_is_in_the_divergence(models: Path, tmp_path: Path) -> None:
    """The variant has no rows for the tokens below 4, and cuts the first text's 6 into two tokens of its own."""
    import torch
    from transformers import AutoModelForCausalLM

    kept = np.arange(4, 96)
    _keep_rows(models / "other", tmp_path / "cut", kept)
    texts = (
        PairedText((4, 5, 6, 7), (0, 1, 50, 60, 3), np.asarray([[0, 0], [1, 1], [2, 3], [3, 4]]), 0.4, Bytes(9, 8, 7)),
        replace(same_cut((10, 4, 11)), variant=(6, 0, 7), bytes=Bytes(6, 5, 4)),
    )
    with DenseAnswers(models / "dense", ONE_THREAD) as answers:
        answers.run([text.dense for text in texts])
        reference = answers.reference([text.dense for text in texts])
        figures = measure_divergence(reference, tmp_path / "cut", texts=texts, kept=kept, execution=ONE_THREAD)
    dense, variant = (AutoModelForCausalLM.from_pretrained(folder) for folder in (models / "dense", tmp_path / "cut"))
    kl, lost, losses = [], [], {"dense": 0.0, "own": 0.0}
    for text in texts:
        with torch.no_grad():
            p, q = (
                model(torch.tensor([ids])).logits[0].double()
                for model, ids in ((dense, text.dense), (variant, text.variant))
            )
        for name, logits, ids in (("dense", p, text.dense), ("own", q, text.variant)):
            following = logits.log_softmax(-1)[range(len(ids) - 1), ids[1:]]
            losses[name] -= float(following.sum())
        positions, variant_positions = text.positions.T.tolist()
        lost += p.softmax(-1)[positions][:, :4].sum(-1).tolist()
        p, q = p[positions][:, kept].log_softmax(-1), q[variant_positions].log_softmax(-1)
        kl += (p.exp() * (p - q)).sum(-1).tolist()
    gone = [-math.log1p(-mass) for mass in lost]
    both = np.add(kl, gone)
    assert figures.tokens == len(kl) == 7
    assert (figures.kl.mean, figures.kl.max) == pytest.approx((both.mean(), both.max()), rel=1e-4)
    assert figures.per_byte is not None
    bits = losses["own"] / 11 / math.log(2), losses["dense"] / 13 / math.log(2)
    assert (figures.per_byte.bits, figures.per_byte.dense_bits) == pytest.approx(bits, rel=1e-5)
    assert figures.per_byte.kl == pytest.approx(sum(both) / 15, rel=1e-4)
    assert figures.cut is not None
    parts = np.mean(lost), np.mean(gone), np.mean(kl)
    assert astuple(figures.cut) == pytest.approx((92, *parts, 0.4 * 9 / 15, 8 / 7 - 1), rel=1e-4)
    assert 0.01 < figures.cut.lost_mass < 0.5


def test_nan_between_the_places_that_are_compared_is_refused(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = PairedText((4, 5, 6), (0, 1, 50, 60), np.asarray([[0, 0], [1, 3]]))
    logits = np.zeros((4, 92), np.float32)
    logits[1] = np.nan
    monkeypatch.setattr(measure, "_logits", lambda *arguments: nullcontext(iter([logits])))
    with DenseAnswers(models / "dense", ONE_THREAD) as answers:
        answers.run([text.dense])
        reference = answers.reference([text.dense])
        with pytest.raises(ArtifactError, match="NaN or infinite logits for text 0"):
            measure_divergence(reference, models / "other", texts=[text], kept=np.arange(4, 96))


def _keep_rows(folder: Path, out: Path, kept: np.ndarray) -> None:
    """A copy of a model with some rows of its tables."""
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, out)
    weights = load_file(out / "model.safetensors")
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        weights[name] = weights[name][torch.from_numpy(kept)].contiguous()
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    set_json(out / "config.json", vocab_size=len(kept))


#: Bytes of the tokens 0 to 5 of both models.
SIZES = np.asarray([1, 2, 3, 4, 5, 6])


def test_places_are_where_both_have_seen_the_same_text() -> None:
    """abc|d|efgh|ij and a|b|c|d|efg|h|ij: the second token of the dense model, and the first, are cut smaller."""
    pair = pair_cuts((2, 0, 3, 1), (0, 0, 0, 0, 2, 0, 1), SIZES, SIZES, 100)
    assert pair is not None
    assert pair.positions.tolist() == [[0, 2], [1, 3], [2, 5], [3, 6]]
    assert pair.split == (3 + 4) / 10
    assert (pair.dense, pair.variant) == ((2, 0, 3, 1), (0, 0, 0, 0, 2, 0, 1))
    short = pair_cuts((2, 0, 3, 1), (0, 0, 0, 0, 2, 0, 1), SIZES, SIZES, 5)  # up to the last place within the limit
    assert short is not None
    assert (short.dense, short.variant, short.split) == ((2, 0), (0, 0, 0, 0), 3 / 4)
    assert short.positions.tolist() == [[0, 2], [1, 3]]


def test_cuts_that_cross_are_not_shared() -> None:
    """ab|cd and a|bc|d share only the end."""
    pair = pair_cuts((1, 1), (0, 1, 0), SIZES, SIZES, 9)
    assert pair is not None
    assert (pair.positions.tolist(), pair.split) == ([[1, 2]], 1.0)
    assert pair_cuts((1, 1), (0, 1, 0), SIZES, SIZES, 2) is None


def _text(dense: int, size: int, split: float, lengths: Bytes | None) -> PairedText:
    return PairedText((0,) * dense, (0,) * size, np.zeros((1, 2), np.int64), split, lengths)


def test_figures_per_byte_are_sums_over_sums() -> None:
    texts = [_text(4, 6, 0.5, Bytes(20, 18, 19)), _text(2, 2, 0.0, Bytes(10, 7, 7))]
    figures = per_byte(texts, 3.0, 5.2, 5.0)
    assert figures is not None
    assert (figures.kl, figures.bytes) == (3.0 / 30, 30)
    assert (figures.bits, figures.dense_bits) == pytest.approx((5.2 / 26 / math.log(2), 5.0 / 25 / math.log(2)))
    assert astuple(cut_figures(texts, 9, 0.25, 0.5, 0.75)) == pytest.approx((9, 0.25, 0.5, 0.25, 10 / 30, 8 / 6 - 1))
    assert per_byte([*texts, _text(2, 2, 0.0, None)], 3.0, 5.2, 5.0) is None  # a length is not known
