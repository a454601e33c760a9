"""What rounding is predicted to cost is what it costs, whatever the family."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.calibration import TOKEN_IDS
from support.models import micro_source, transformers_model
from support.product import Source, StoredForm

from seap_export.model.families import names
from seap_export.pruning.rounding.information import Information, _frequencies, information

CPU = torch.device("cpu")
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
