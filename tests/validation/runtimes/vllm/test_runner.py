"""vLLM serves the folder hf/ itself, with torch's log-probabilities, alone and in a batch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support import needs
from support.chosen import ATTENDING, RICHEST
from support.models import write_micro_model
from support.plans import write_pruned_micro_model
from support.product import padded
from support.variations import VARIATIONS

from seap_export.common.json_file import read_json
from seap_export.errors import ArtifactError
from seap_export.model.families import family_of_model_type, model_spec
from seap_export.model.families.names import LAYER
from validation.runtimes.vllm.runner import PYTHON, VllmRunner, vllm_refusal
from validation.runtimes.vllm.worker import _Server

Logits = Callable[..., list[np.ndarray]]
#: vLLM's kernel for the CPU takes heads of 32, 64 and more, and not those of 16 that micro models have.
HEAD_DIM = 32
#: Its longrope would take other factors for larger heads, and is refused.
SERVED = tuple(
    name
    for name in RICHEST
    if name in ATTENDING
    and name not in ("gemma4-all", "gemma4_unified", "phi3-all")
    and family_of_model_type(VARIATIONS[name]["model_type"]).names["layer"] == LAYER
)
STEPS = 6


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], VllmRunner]]:
    """Opens a folder in the environment that has vLLM; the process ends with the test."""
    monkeypatch.setenv(PYTHON, needs.find("vllm") or sys.executable)
    with ExitStack() as opened:
        yield lambda folder: opened.enter_context(closing(VllmRunner(folder, max_length=64)))


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    return logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)


@pytest.mark.needs("vllm")
@pytest.mark.parametrize(
    "variation", [name if name == "gemma2-all" else pytest.param(name, marks=pytest.mark.full) for name in SERVED]
)
def test_equals_torch(
    tmp_path: Path, variation: str, vllm: Any, prompts: list[list[int]], torch_logits: Logits
) -> None:
    """Prefill of 16 prompts together, tokens that are appended, and what vLLM decodes itself: together as alone."""
    model = write_pruned_micro_model(tmp_path / "hf", variation, head_dim=HEAD_DIM)
    runner = vllm(model)
    wanted, lengths = list(map(log_probabilities, torch_logits(model, prompts))), list(map(len, prompts))
    batch = runner.prefill(padded(prompts), lengths)
    for row, length, whole in zip(batch, lengths, wanted, strict=True):
        assert np.abs(row[:length] - whole).max() <= 1e-3
    runner.prefill(np.array([prompts[-1][:20]]), [20])
    assert np.abs(runner.step([prompts[-1][20]])[0] - wanted[-1][20]).max() <= 1e-3
    assert np.abs(runner.append(np.array([prompts[-1][21:25]]))[0] - wanted[-1][21:25]).max() <= 1e-3
    tokens, continuations = runner.continuations(prompts, STEPS)
    texts = [[*prompt, *following[:-1]] for prompt, following in zip(prompts, tokens, strict=True)]
    for row, whole in zip(continuations, torch_logits(model, texts), strict=True):
        assert np.abs(row - log_probabilities(whole)).max() <= 1e-3
        assert np.isfinite(row).all()
    assert runner.follow(prompts, STEPS) == tokens
    (alone,), (rows,) = runner.continuations([prompts[7]], STEPS)
    assert alone == tokens[7]
    assert np.abs(rows - continuations[7]).max() <= 1e-4


def test_the_log_probabilities_after_each_token_are_in_the_order_of_token_ids(tmp_path: Path) -> None:
    """vLLM gives those of a token beside the token itself, so nothing for the first one, and sorts them."""

    def flat(*rows: dict[int, float]) -> Any:
        ends = np.cumsum([len(row) for row in rows]).tolist()
        tokens, values = zip(*(pair for row in rows for pair in row.items()), strict=True)
        return SimpleNamespace(start_indices=[0, *ends[:-1]], end_indices=ends, token_ids=tokens, logprobs=values)

    following = SimpleNamespace(token_ids=[0], logprobs=flat({2: -1.0, 1: -2.0, 0: -3.0}))
    output = SimpleNamespace(outputs=[following], prompt_logprobs=flat({}, {0: -4.0, 2: -5.0, 1: -6.0}))
    server = object.__new__(_Server)
    server.vocab_size, server._sampling = 3, SimpleNamespace
    server._llm = SimpleNamespace(generate=lambda given, how, use_tqdm: [output] * len(given))
    path = tmp_path / "scores.npz"
    assert server.score([[1, 2]], 1, str(path)) == [[0]]
    with np.load(path) as arrays:
        assert arrays["0"].tolist() == [[-4.0, -6.0, -5.0], [-3.0, -2.0, -1.0]]


def test_longrope_beyond_its_switch_is_refused_and_scaled_logits_of_an_earlier_release(tmp_path: Path) -> None:
    model = write_micro_model(tmp_path / "hf", **VARIATIONS["phi3-all"])
    config = read_json(model / "config.json")
    assert "--max-model-len 16" in str(vllm_refusal(model_spec(config), config, 64))
    assert vllm_refusal(model_spec(config), config, 16) is None
    with pytest.raises(ArtifactError, match="--max-model-len 16"):
        VllmRunner(model)
    config = read_json(write_pruned_micro_model(tmp_path / "scaled", "granite-all") / "config.json")
    assert vllm_refusal(model_spec(config), config, 64) is None
    del config["logit_scale"]  # vLLM would leave the factor out without a word
    assert "lacks 'logit_scale'; export again" in str(vllm_refusal(model_spec(config), config, 64))
