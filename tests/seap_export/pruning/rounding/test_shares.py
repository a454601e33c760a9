"""Bits go where they count most, within the average, by what rounding is predicted to cost, which it does cost."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.calibration import TOKEN_IDS
from support.models import micro_source, transformers_model
from support.product import WAYS, Source, StoredForm, open_source

from seap_export.model.families import names
from seap_export.pruning.rounding.grid import BITS, BlockQuantization, Way
from seap_export.pruning.rounding.information import Information, _frequencies, information
from seap_export.pruning.rounding.shares import _cheapest, _Option, _together, groups_of, guess_rounding, shared_out

CPU = torch.device("cpu")
DOWN = "model.layers.0.mlp.down_proj.weight"


def bytes_of(how: BlockQuantization, shapes: dict[str, tuple[int, ...]]) -> tuple[int, int]:
    """The bytes and the weights of the matrices whose bits were chosen."""
    size = weights = 0
    for name, bits, block, _ in how.others:
        rows, columns = shapes[name]
        size += rows * -(-columns // block) * (block * bits // 8 + 2)
        weights += rows * columns
    return size, weights


@pytest.mark.parametrize(
    ("variation", "average"), [("phi3-all", 2.75), ("gemma2-all", 3.5), ("lfm2", 2.75), ("qwen3_moe", 5.0)]
)
def test_the_average_is_kept_and_what_is_joined_has_one_grid(variation: str, average: float, tmp_path: Path) -> None:
    source = micro_source(tmp_path / "model", variation)
    how = shared_out(source, TOKEN_IDS, BlockQuantization(4, average=average, ways=WAYS), tmp_path, CPU)
    size, weights = bytes_of(how, source.reader.shapes())
    is_mixture = any("experts" in name for name, *_ in how.others)
    if not is_mixture or average > 4.5:  # experts have 4 bits at least
        assert size <= average / 8 * weights
    assert {bits for _, bits, *_ in how.others} <= set(BITS)
    for layer in range(len(source.spec.layers)):
        for joined in (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")):
            inside = {
                how.of(name) for name, *_ in how.others if f".{layer}." in name and name.split(".")[-2] in joined
            }
            assert len(inside) <= 1
    assert len({how.of(name) for name, *_ in how.others}) > 1


def test_idle_matrices_leave_their_bits_to_others_and_fewer_bits_cost_more(tmp_path: Path) -> None:
    micro_source(tmp_path / "model", "llama-gqa")
    how = BlockQuantization(4, average=3.5, ways=WAYS)

    def bits() -> dict[str, int]:
        chosen = shared_out(open_source(str(tmp_path / "model")), TOKEN_IDS, how, tmp_path, CPU)
        return {name: bits for name, bits, *_ in chosen.others}

    before = bits()
    weights = load_file(tmp_path / "model" / "model.safetensors")
    weights[DOWN].zero_()
    save_file(weights, tmp_path / "model" / "model.safetensors", {"format": "pt"})
    after = bits()
    idle = {DOWN, *(DOWN.replace("down", other) for other in ("gate", "up"))}
    assert {after[name] for name in idle} == {2}
    assert sum(after[name] - before[name] for name in after.keys() - idle) > 0
    source = open_source(str(tmp_path / "model"))
    guessed = guess_rounding(source, TOKEN_IDS, replace(how, average=4.5), tmp_path, CPU)
    assert [average for average, _ in guessed] == [2.25 + step / 4 for step in range(25)]
    assert all(more >= less for (_, more), (_, less) in itertools.pairwise(guessed))
    assert guessed[0][1] > 10 * guessed[9][1] > 10 * guessed[-1][1] > 0.0


@pytest.mark.parametrize("tied", [True, False])
def test_rows_of_common_tokens_have_more_bits_than_rare_ones(tied: bool, tmp_path: Path) -> None:
    source = micro_source(tmp_path / "model", "llama-gqa", tie_word_embeddings=tied, vocab_size=1100)
    shapes, texts = source.reader.shapes(), [[5, 6, 7, 5, 6, 7] * 3, [6, 5, 7, 8] * 4]
    how = BlockQuantization(4, average=3.0, ways=WAYS, splits_tables=True)
    chosen = shared_out(source, texts, how, tmp_path, CPU)
    assert [table.name for table in chosen.tables] == ["model.embed_tokens.weight", "lm_head.weight"][
        : 1 if tied else 2
    ]
    size, weights = bytes_of(chosen, shapes)
    for table in chosen.tables:
        bits, (rows, columns) = torch.tensor([int(digit) for digit in table.bits]), shapes[table.name]
        assert len(bits) == rows
        assert bits[[5, 6, 7]].min() > bits.float().mean()
        size += int(bits.sum()) * columns // 8 + rows * columns // table.block_size * 2
        weights += rows * columns
    assert 2.8 < 8 * size / weights <= 3.0
    few = micro_source(tmp_path / "few", "llama-gqa", tie_word_embeddings=tied)
    for other, grid in ((source, replace(how, splits_tables=False)), (few, how)):
        whole = shared_out(other, texts, grid, tmp_path, CPU)
        assert not whole.tables
        assert "model.embed_tokens.weight" in {name for name, *_ in whole.others}


def test_the_choice_is_nearly_the_best_of_all() -> None:
    """What is larger and no better is left out."""
    given = [[_Option(Way(2, 32), 3.0, 10), _Option(Way(3, 64), 3.5, 11), _Option(Way(4, 32), 1.0, 20)]]
    assert [option.way for option in _together(given)] == [Way(2, 32), Way(4, 32)]
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        factors = torch.rand(5, generator=generator).tolist()
        options = [
            _together([[_Option(Way(bits, 32), factor * 4.0**-bits, 100 * bits) for bits in BITS]])
            for factor in factors
        ]
        budget = 1900
        chosen = _cheapest(options, budget)
        assert sum(option.size for option in chosen) <= budget
        least = min(
            sum(option.loss for option in every)
            for every in itertools.product(*options)
            if sum(option.size for option in every) <= budget
        )
        assert sum(option.loss for option in chosen) <= 1.1 * least


def test_ways_whose_blocks_do_not_fit_are_none(tmp_path: Path) -> None:
    spec = micro_source(tmp_path / "model", "llama-gqa", hidden_size=64, intermediate_size=96).spec
    how = BlockQuantization(4, 32, whole_blocks=True, average=4.5, ways=(Way(4, 32), Way(4, 64), Way(8, 128)))
    sizes = {name: {way.block_size for way in group.ways} for group in groups_of(spec, how) for name in group.names}
    assert sizes["model.embed_tokens.weight"] == sizes["model.layers.0.mlp.up_proj.weight"] == {32, 64}
    assert sizes[DOWN] == {32}


VARIATIONS = ["phi3-all", "granite-all", "bamba", "lfm2", "qwen3_moe", "gemma4-all"]


def informed(folder: Path, variation: str) -> tuple[Source, dict[str, Information]]:
    source = micro_source(folder / "model", variation)
    (folder / "work").mkdir()
    every: dict[str, Information] = {}
    for layer in information(source, TOKEN_IDS, folder / "work", CPU):
        every |= layer
    assert not list((folder / "work").iterdir())
    return source, every


@torch.no_grad()
def predictions(model: torch.nn.Module) -> torch.Tensor:
    """The logarithms of the probabilities at each token of the texts."""
    return torch.cat([model(torch.tensor([list(ids)])).logits[0].double().log_softmax(-1) for ids in TOKEN_IDS])


@pytest.mark.parametrize("variation", ["llama-gqa", "gemma2-all", "falcon_h1-all"])
def test_small_random_errors_cost_what_is_predicted(variation: str, tmp_path: Path) -> None:
    source, every = informed(tmp_path, variation)
    model, form = transformers_model(tmp_path / "model").requires_grad_(False), StoredForm(source.spec)
    wanted = predictions(model)
    for name in ("model.layers.0.mlp.down_proj.weight", "model.layers.1.self_attn.k_proj.weight"):
        (stored,) = form.holders([name])
        weight, what = model.get_parameter(stored), every[name]
        exact = weight.clone()
        measured = predicted = 0.0
        for seed in range(4):
            error = torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed)) * 0.01 * exact.std()
            weight.copy_(exact + error)
            measured += float((wanted.exp() * (wanted - predictions(model))).sum()) / len(wanted)
            of_rows = torch.einsum("ij,jk,ik->i", error.double(), what.moment, error.double())
            predicted += float(0.5 * what.rows @ of_rows)
        weight.copy_(exact)
        assert predicted == pytest.approx(measured, rel=0.5), name


@pytest.mark.parametrize("variation", VARIATIONS)
def test_every_matrix_of_a_family_has_some(variation: str, tmp_path: Path) -> None:
    source, every = informed(tmp_path, variation)
    for index, layer in enumerate(source.spec.layers):
        for sublayer in layer.sublayers:
            for projection in sublayer.rounded(source.spec.hidden_size, 32):
                what = every[names.weight(projection, index)]
                assert float(what.rows.sum()) > 0
                assert torch.linalg.eigvalsh(what.moment).min() > -1e-6 * what.moment.diagonal().max()
    tables = {name for name in every if ".layers." not in name}
    assert len(tables) == (1 if source.spec.tie_word_embeddings else 2)


def test_tokens_that_no_text_has_share_what_one_text_alone_has() -> None:
    """Of 9 tokens, 3 are in one text only: a third of the next text is new, by the roots of the predictions."""
    predicted = torch.tensor([5.0, 3.0, 1.0, 0.16, 0.04], dtype=torch.float64)
    often = _frequencies([[0, 0, 1], [0, 0, 1], [2, 2, 2]], predicted)
    assert often.tolist() == pytest.approx([2 / 3 * 4 / 9, 2 / 3 * 2 / 9, 2 / 3 * 3 / 9, 1 / 3 * 2 / 3, 1 / 3 * 1 / 3])
    assert _frequencies([[0, 1], [2, 3, 4]], predicted).tolist() == pytest.approx([0.2] * 5)
    alone = _frequencies([[0, 1]], predicted)[:2]  # one text, which is all there is
    assert alone.tolist() == pytest.approx([0.25] * 2)


def test_the_head_and_the_embedding_are_used_as_often_as_tokens_come_up(tmp_path: Path) -> None:
    """Rows that the texts have count more, and no row counts nothing; a tied table has both uses."""
    source = micro_source(tmp_path / "model", "llama-gqa", tie_word_embeddings=True)
    (tmp_path / "work").mkdir()
    texts = [[5, 6, 5, 7] * 4, [5, 6, 8] * 4]
    name = names.tensor("embed_tokens")
    uses = [layer[name] for layer in information(source, texts, tmp_path / "work", CPU) if name in layer]
    assert len(uses) == 2
    for use in uses:
        assert use.rows.min() > 0
        others = [token for token in range(len(use.rows)) if token not in (5, 6, 7, 8)]
        assert use.rows[[5, 6]].min() > 3 * use.rows[others].max()
