from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.editing import edit_weights, set_json
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
Head = Callable[[torch.Tensor], torch.Tensor]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`dense`, a neighbour of it, `other`, and `onnx`, of the other."""
    folder = tmp_path_factory.mktemp("quality")
    write_micro_model(folder / "dense", model_type="llama")
    noise = torch.Generator().manual_seed(1)
    _with_head(
        folder / "dense",
        folder / "other",
        lambda head: head + 0.3 * head.std() * torch.randn(head.shape, generator=noise),
    )
    (folder / "onnx").mkdir()
    write_onnx(folder / "other", folder / "onnx")
    return folder


def _with_head(folder: Path, out: Path, change: Head) -> Path:
    shutil.copytree(folder, out)
    edit_weights(out, lambda weights: weights.update({"lm_head.weight": change(weights["lm_head.weight"])}))
    return out


@contextmanager
def dense_reference(folder: Path, texts: Sequence[Any] = TEXTS, **options: Any) -> Iterator[DenseReference]:
    with DenseAnswers(folder, ONE_THREAD) as answers:
        answers.run(texts, **options)
        yield answers.reference(texts)


def _logits(folder: Path, texts: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    """Of each text, by transformers, in float64."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return [model(torch.tensor([ids])).logits[0].double() for ids in texts]


def _losses(logits: list[torch.Tensor], texts: Sequence[Sequence[int]]) -> list[float]:
    pairs = zip((one.log_softmax(-1) for one in logits), texts, strict=True)
    return [-float(log_p[index, ids[index + 1]]) for log_p, ids in pairs for index in range(len(ids) - 1)]


def _kl(p: torch.Tensor, q: torch.Tensor) -> list[float]:
    log_p, log_q = p.log_softmax(-1), q.log_softmax(-1)
    divergences: list[float] = (log_p.exp() * (log_p - log_q)).sum(-1).tolist()
    return divergences


def test_the_figures_are_those_of_a_plain_loop(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense_side, "_CHUNK_ELEMENTS", 2 * 96)  # two tokens a block
    dense, other = (_logits(models / name, TEXTS) for name in ("dense", "other"))
    kl = np.concatenate([_kl(p, q) for p, q in zip(dense, other, strict=True)])
    agreement = np.concatenate([p.argmax(-1) == q.argmax(-1) for p, q in zip(dense, other, strict=True)]).mean()
    dense_perplexity, perplexity = (math.exp(np.mean(_losses(logits, TEXTS))) for logits in (dense, other))
    lines: list[str] = []
    with dense_reference(models / "dense", on_progress=lines.append) as reference:
        itself = measure_divergence(reference, models / "dense", execution=ONE_THREAD, on_progress=lines.append)
        of_forms = [
            measure_divergence(reference, models / name, RUN_BY[form], execution=ONE_THREAD)
            for name, form in (("other", "hf"), ("other", "hf"), ("onnx", "onnx"))
        ]
    assert (itself.kl.mean, itself.kl.max, itself.top1_agreement) == (0.0, 0.0, 1.0)
    assert itself.perplexity == itself.dense_perplexity
    assert lines[3:5] == ["dense: text 4 of 4", "torch: text 1 of 4"]
    assert of_forms[0] == of_forms[1] != of_forms[2]
    assert 0 < agreement < 1
    for figures in of_forms:
        assert figures.tokens == len(kl) == 17
        assert (figures.kl.mean, figures.kl.max) == pytest.approx((kl.mean(), kl.max()), rel=1e-4)
        assert (figures.perplexity, figures.dense_perplexity) == pytest.approx(
            (perplexity, dense_perplexity), rel=1e-4
        )
        assert figures.top1_agreement == pytest.approx(agreement)
        assert figures.loss is not None
        assert figures.loss.mean == pytest.approx(math.log(perplexity / dense_perplexity), abs=1e-4)


def test_several_sets_are_measured_in_one_pass(models: Path) -> None:
    """Each text runs once; the figures of each set are those that it has alone."""
    sets = [TEXTS[:2], TEXTS, TEXTS[1:2], (TEXTS[1], TEXTS[3], TEXTS[1])]
    lines: list[str] = []
    given: Any = (models / "onnx", "onnxruntime")
    with DenseAnswers(models / "dense", ONE_THREAD) as answers:
        answers.run(TEXTS)
        pairs = [(answers.reference(of_set), tuple(map(same_cut, of_set))) for of_set in sets]
        measured = measure_divergences(pairs, *given, execution=ONE_THREAD, on_progress=lines.append)
        alone = [measure_divergence(reference, *given, execution=ONE_THREAD) for reference, _ in pairs]
    assert len(lines) == len(TEXTS)
    for of_set, other in zip(measured, alone, strict=True):
        assert (of_set.per_byte, of_set.cut) == (other.per_byte, other.cut) == (None, None)
        kl, wanted = ((of.kl.mean, of.kl.stderr or 0.0) for of in (of_set, other))
        assert kl == pytest.approx(wanted, rel=1e-6)
        assert astuple(of_set)[1:4] == pytest.approx(astuple(other)[1:4], rel=1e-6)
    assert [figures.tokens for figures in measured] == [9, 17, 3, 13]
    assert len({figures.kl.mean for figures in measured}) == len(sets)


def test_nan_and_another_vocabulary_are_refused_and_named(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoilt = _with_head(models / "other", tmp_path / "spoilt", lambda head: head / 0.0)
    larger = write_micro_model(tmp_path / "larger", vocab_size=97, model_type="llama")
    words = r"logits of shape \[6, 97\], expected \[6, 96\] for text 0"
    with dense_reference(models / "dense") as reference:
        for folder, says in ((spoilt, r"(NaN|infinite) logits for text 0"), (larger, words)):
            with pytest.raises(ArtifactError, match=says):
                measure_divergence(reference, folder, execution=ONE_THREAD)
    with pytest.raises(InputError, match="the dense model gives NaN or infinite logits"), dense_reference(spoilt):
        pass
    # NaN may be between the places that are compared, too
    text, logits = PairedText((4, 5, 6), (0, 1, 50, 60), np.asarray([[0, 0], [1, 3]])), np.zeros((4, 92), np.float32)
    logits[1] = np.nan
    monkeypatch.setattr(measure, "_logits", lambda *arguments: nullcontext(iter([logits])))
    with (
        dense_reference(models / "dense", [text.dense]) as reference,
        pytest.raises(ArtifactError, match="NaN or infinite logits for text 0"),
    ):
        measure_divergence(reference, models / "other", texts=[text], kept=np.arange(4, 96))


@pytest.mark.parametrize("texts", [[], [(4,)]])
def test_texts_without_a_token_to_predict_are_refused(models: Path, texts: list[tuple[int, ...]]) -> None:
    with pytest.raises(InputError, match="no token to predict"), dense_reference(models / "dense", texts):
        pass


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
    measured = []
    with dense_reference(models / "dense") as reference:
        for dialect, logits in (("fused", "all"), ("fused", "last"), ("standard", "last")):
            folder = tmp_path / f"{dialect} {logits}"
            folder.mkdir()
            write_onnx(models / "other", folder, OnnxForm(dialect=dialect, logits=logits))  # type: ignore[arg-type]
            figures = measure_divergence(reference, folder, "onnxruntime", execution=ONE_THREAD)
            measured.append((figures.tokens, figures.kl.mean))
    assert measured == [pytest.approx(measured[0], rel=1e-4)] * 3


def test_with_fewer_tokens_the_probability_of_the_others_is_in_the_divergence(models: Path, tmp_path: Path) -> None:
    """The variant has no rows for the tokens below 4, and cuts the first text's 6 into two tokens of its own."""
    kept, cut = np.arange(4, 96), _with_head(models / "other", tmp_path / "cut", lambda head: head[4:])
    edit_weights(cut, lambda of: of.update({"model.embed_tokens.weight": of["model.embed_tokens.weight"][4:]}))
    set_json(cut / "config.json", vocab_size=len(kept))
    texts = (
        PairedText((4, 5, 6, 7), (0, 1, 50, 60, 3), np.asarray([[0, 0], [1, 1], [2, 3], [3, 4]]), 0.4, Bytes(9, 8, 7)),
        replace(same_cut((10, 4, 11)), variant=(6, 0, 7), bytes=Bytes(6, 5, 4)),
    )
    of_dense, of_variant = [text.dense for text in texts], [text.variant for text in texts]
    with dense_reference(models / "dense", of_dense) as reference:
        figures = measure_divergence(reference, cut, texts=texts, kept=kept, execution=ONE_THREAD)
    dense, variant = _logits(models / "dense", of_dense), _logits(cut, of_variant)
    kl, lost = [], []
    for text, p, q in zip(texts, dense, variant, strict=True):
        positions, variant_positions = text.positions.T.tolist()
        lost += p.softmax(-1)[positions][:, :4].sum(-1).tolist()
        kl += _kl(p[positions][:, kept], q[variant_positions])
    gone = [-math.log1p(-mass) for mass in lost]
    both = np.add(kl, gone)
    assert figures.tokens == len(kl) == 7
    assert (figures.kl.mean, figures.kl.max) == pytest.approx((both.mean(), both.max()), rel=1e-4)
    assert figures.per_byte is not None
    assert figures.cut is not None
    bits = sum(_losses(variant, of_variant)) / 11 / math.log(2), sum(_losses(dense, of_dense)) / 13 / math.log(2)
    assert (figures.per_byte.bits, figures.per_byte.dense_bits) == pytest.approx(bits, rel=1e-5)
    assert figures.per_byte.kl == pytest.approx(sum(both) / 15, rel=1e-4)
    parts = np.mean(lost), np.mean(gone), np.mean(kl)
    assert astuple(figures.cut) == pytest.approx((92, *parts, 0.4 * 9 / 15, 8 / 7 - 1), rel=1e-4)
    assert 0.01 < figures.cut.lost_mass < 0.5


#: Bytes of the tokens 0 to 5 of both models.
SIZES = np.asarray([1, 2, 3, 4, 5, 6])
CUTS = (2, 0, 3, 1), (0, 0, 0, 0, 2, 0, 1)
CROSSING = (1, 1), (0, 1, 0)


@pytest.mark.parametrize(
    ("cuts", "limit", "places", "split", "taken"),
    [
        # abc|d|efgh|ij and a|b|c|d|efg|h|ij: the first token of the dense model, and the third, are cut smaller
        (CUTS, 100, [[0, 2], [1, 3], [2, 5], [3, 6]], (3 + 4) / 10, CUTS),
        (CUTS, 5, [[0, 2], [1, 3]], 3 / 4, ((2, 0), (0, 0, 0, 0))),  # up to the last place within the limit
        (CROSSING, 9, [[1, 2]], 1.0, CROSSING),  # ab|cd and a|bc|d share only the end
        (CROSSING, 2, None, None, None),
    ],
)
def test_places_are_where_both_have_seen_the_same_text(
    cuts: Any, limit: int, places: Any, split: float | None, taken: Any
) -> None:
    pair = pair_cuts(cuts[0], cuts[1], SIZES, SIZES, limit)
    assert (pair and (pair.positions.tolist(), pair.split, (pair.dense, pair.variant))) == (
        places and (places, split, taken)
    )


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
