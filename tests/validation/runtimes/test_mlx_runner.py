"""mlx-lm computes what torch computes with the weights that are written, for models of every family."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.chosen import VARIED_FOR_MLX
from support.editing import edit_json
from support.execution import ONE_THREAD
from support.formats.written import WrittenModel
from support.models import write_source
from support.plans import write_pruned_micro_model
from support.product import States
from support.variations import VARIATIONS

from converters.mlx import MlxFormat
from seap_export.common.json_file import read_json
from seap_export.errors import ArtifactError, EnvironmentFailure
from validation.runtimes import mlx_runner
from validation.runtimes.mlx_runner import MlxRunner, open_mlx
from validation.runtimes.runner import Opening

Logits = Callable[..., list[np.ndarray]]
PRECISIONS = ("fp16", "bf16", "8bit", "4bit")


def written(folder: Path, variation: str, precision: str = "fp32", *, pruned: bool = True) -> WrittenModel:
    source = (write_pruned_micro_model if pruned else write_source)(folder / "hf", variation)
    return WrittenModel.of(MlxFormat(precision), source)


def largest(pairs: object) -> float:
    """The largest difference of logits within pairs of arrays."""
    return max(float(np.abs(ours - wanted).max()) for ours, wanted in pairs)  # type: ignore[attr-defined]


@pytest.mark.needs("mlx-lm")
@pytest.mark.parametrize("variation", VARIED_FOR_MLX)
@pytest.mark.parametrize("is_pruned", [pytest.param(False, marks=pytest.mark.full), True], ids=["dense", "pruned"])
def test_equals_torch(
    tmp_path: Path, variation: str, is_pruned: bool, prompts: list[list[int]], padded: np.ndarray, torch_logits: Logits
) -> None:
    """Each prompt alone; all in a batch; in parts with a cache; and two rows that go on together."""
    made = written(tmp_path, variation, pruned=is_pruned)
    runner = MlxRunner(made.folder)
    wanted, lengths = torch_logits(made.source, prompts), list(map(len, prompts))
    alone = [runner.prefill(np.array([prompt]), [len(prompt)])[0] for prompt in prompts]
    assert largest(zip(alone, wanted, strict=True)) <= 1e-3
    batch = runner.prefill(padded, lengths)
    assert largest((row[:length], whole) for row, length, whole in zip(batch, lengths, wanted, strict=True)) <= 1e-3
    one, other = prompts[-1], prompts[-2]
    (truth,) = torch_logits(made.source, [one], [6])
    parts = [runner.prefill(np.array([one[:6]]), [6])[0], *(runner.step([token]) for token in one[6:])]
    assert np.abs(np.concatenate(parts) - truth).max() <= 1e-3
    truths = torch_logits(made.source, [one, other], [9, 5])
    runner.prefill(np.array([one[:9], [*other[:5], 0, 0, 0, 0]]), [9, 5])
    for index in range(28):
        first, second = runner.step([one[9 + index], other[5 + index]])
        assert largest([(first, truths[0][9 + index]), (second, truths[1][5 + index])]) <= 1e-3


@pytest.mark.needs("mlx-lm")
@pytest.mark.parametrize("variation", VARIED_FOR_MLX)
def test_equals_torch_with_the_weights_that_are_written(
    tmp_path: Path, variation: str, prompts: list[list[int]], torch_logits: Logits
) -> None:
    precision = PRECISIONS[list(VARIATIONS).index(variation) % len(PRECISIONS)]
    made = written(tmp_path, variation, precision)
    wanted = torch_logits(made.with_stored_weights(tmp_path / "again"), prompts[-3:])
    assert_equals_torch(made.folder, precision, prompts[-3:], wanted)


def assert_equals_torch(folder: Path, precision: str, prompts: list[list[int]], wanted: list[np.ndarray]) -> None:
    """To rounding in float32, and to that of activations in the dtype of the folder."""
    exact = MlxRunner(folder, in_float32=True)
    has_experts = any("experts" in layer for layer in read_json(folder / "config.json")["decoder"]["layers"])
    runner = open_mlx(folder, Opening(ONE_THREAD)) if has_experts else MlxRunner(folder)
    for prompt, truth in zip(prompts, wanted, strict=True):
        assert np.abs(exact.prefill(np.array([prompt]), [len(prompt)])[0] - truth).max() <= 1e-3
        error = runner.prefill(np.array([prompt]), [len(prompt)])[0] - truth
        rounding = {"bf16": 0.2, "8bit": 0.04}.get(precision, 0.03)
        assert np.sqrt(np.square(error).mean()) <= rounding * np.sqrt(np.square(truth).mean())


@pytest.mark.needs("mlx-lm")
def test_keys_and_values_are_those_of_torch(tmp_path: Path, prompts: list[list[int]]) -> None:
    from validation.runtimes.pytorch.torch_runner import Run, open_torch_runner

    made = written(tmp_path, "llama-biases")
    runner = MlxRunner(made.folder)
    first, second = prompts[3], prompts[5]
    ids = np.array([[*first, 0, 0, 0, 0], second])
    runner.prefill(ids, [5, 9])
    caches: dict[int, list[States]] = {0: [], 1: []}
    with open_torch_runner(made.source, ONE_THREAD) as reference:
        runs = [Run([prompt], 1) for prompt in (first, second)]
        list(reference.run(runs, lambda index, states: caches[index].append(states)))
    for row, wanted in caches.items():
        cache = runner.cache(row)
        assert cache is not None
        for layer, truth in zip(cache, wanted, strict=True):
            for state, whole in truth.items():
                assert layer[state].shape == whole.shape
                assert np.abs(layer[state] - whole).max() <= 1e-3


@pytest.mark.needs("mlx-lm")
def test_a_folder_that_cannot_be_loaded_is_refused(tmp_path: Path) -> None:
    folder = written(tmp_path, "llama-gqa").folder
    edit_json(folder / "config.json", lambda config: config["decoder"]["layers"].pop(2))
    with pytest.raises(ArtifactError, match="mlx-lm cannot load it"):
        MlxRunner(folder)


@pytest.mark.needs("mlx-lm")
def test_the_code_in_the_folder_is_not_run(tmp_path: Path) -> None:
    folder = written(tmp_path, "llama-gqa").folder
    (folder / "modeling_mlx.py").write_text("raise SystemExit('run')")
    MlxRunner(folder).close()


@pytest.mark.needs("mlx-lm")
@pytest.mark.parametrize(
    ("variation", "precision", "dtype"),
    [("llama-gqa", "fp16", "float16"), ("llama-gqa", "4bit", "float32"), ("qwen3_moe", "fp16", "float32")],
)
def test_on_the_cpu_quantised_weights_and_experts_meet_float32(
    tmp_path: Path, variation: str, precision: str, dtype: str
) -> None:
    import mlx.core as mx

    folder = written(tmp_path, variation, precision).folder
    runner = open_mlx(folder, Opening(ONE_THREAD))
    if mx.default_device() != mx.cpu:
        pytest.skip("MLX computes on a GPU")
    runner.prefill(np.array([[3, 4, 5]]), [3])
    assert runner._cache[0].keys.dtype == getattr(mx, dtype)


def test_a_missing_mlx_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(f"No module named '{name}'")

    monkeypatch.setattr(mlx_runner.importlib, "import_module", missing)
    with pytest.raises(EnvironmentFailure, match=r'pip install "mlx-lm'):
        MlxRunner(tmp_path)
