"""Both classes give what the harness's own class gives for the model that they run, in every runtime."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.execution import ONE_THREAD, RUN_BY
from support.formats.fake_format import FakeFormat, FakeRunner, install_fake_format
from support.product import Compute, OnnxForm, OnnxFormat

from converters.formats import parse_format
from seap_export.errors import ArtifactError
from validation.zero_shot.models import open_model
from validation.zero_shot.tasks import quiet_harness

TAIL = " the cat sat on the mat and then it ran far from home to see one more time" * 8
PAIRS = [
    ("the cat", " sat on the mat"),
    ("the cat", " sat on a"),
    ("the cat", " sat on the"),
    ("the cat ", "ran"),
    ("", "a dog ran"),
    ("", "<s>a dog"),
    ("<s>one", " more time"),
    ("a dog" + TAIL, " far from home"),
    ("é ☃", " ☃"),
]


def _requests() -> list[Any]:
    from lm_eval.api.instance import Instance

    return [
        Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=index) for index, pair in enumerate(PAIRS)
    ]


def _answers(folder: Path, form: Any, batch_size: int, compute: Compute | None) -> list[tuple[float, bool]]:
    options: Any = {"batch_size": batch_size, "on_sequences": lambda done, total: None}
    options["execution"] = replace(ONE_THREAD, compute=compute)
    with quiet_harness(), open_model(folder / form, RUN_BY[form], tokenizer_folder=folder / form, **options) as model:
        answers: list[tuple[float, bool]] = model.loglikelihood(_requests(), disable_tqdm=True)
    return answers


@pytest.fixture
def written(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the runtimes of the tests take; one of them gives log-probabilities up to a constant."""
    install_fake_format(monkeypatch)
    FakeFormat().write(model / "hf", tmp_path, lambda layer: None)
    return tmp_path


@pytest.fixture(scope="module")
def of_the_harness(model: Path) -> list[tuple[float, bool]]:
    from lm_eval.models.huggingface import HFLM

    with quiet_harness():
        lm = HFLM(pretrained=str(model / "hf"), device="cpu", dtype="float32", batch_size=1, backend="causal")
        answers: list[tuple[float, bool]] = lm.loglikelihood(_requests(), disable_tqdm=True)
    return answers


@pytest.mark.parametrize(
    ("form", "batch_size", "compute"),
    [("onnx", 4, None), ("hf", 4, None), ("hf", 2, Compute(memory=1))],
)
def test_log_likelihoods_are_those_of_the_harness(
    model: Path, of_the_harness: list[tuple[float, bool]], form: str, batch_size: int, compute: Compute | None
) -> None:
    """Trailing spaces, no prompt, special tokens in texts, more tokens than positions, bytes."""
    expected, answers = of_the_harness, _answers(model, form, batch_size, compute)
    assert [value for value, _ in answers] == pytest.approx([value for value, _ in expected], abs=1e-4)
    assert [greedy for _, greedy in answers] == [greedy for _, greedy in expected]
    assert len({value for value, _ in expected}) == len(PAIRS)


@pytest.mark.parametrize(("runtime", "batch_size"), [("faked", 1), ("faked-too", 4)])
def test_a_runtime_gives_the_same(
    model: Path, written: Path, of_the_harness: list[tuple[float, bool]], runtime: str, batch_size: int
) -> None:
    options: Any = {"batch_size": batch_size, "execution": ONE_THREAD, "on_sequences": lambda done, total: None}
    with quiet_harness(), open_model(written, runtime, tokenizer_folder=model / "hf", **options) as lm:
        assert lm.max_length == 64
        answers = lm.loglikelihood(_requests(), disable_tqdm=True)
    assert [value for value, _ in answers] == pytest.approx([value for value, _ in of_the_harness], abs=1e-4)
    assert [greedy for _, greedy in answers] == [greedy for _, greedy in of_the_harness]
    assert FakeRunner.opened == 0


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("gguf:f32", marks=pytest.mark.needs("llama.cpp")),
        pytest.param("openvino:fp32", marks=[pytest.mark.full, pytest.mark.needs("openvino")]),
        pytest.param("litert:fp32", marks=pytest.mark.needs("litert")),
        pytest.param("executorch:fp32", marks=[pytest.mark.full, pytest.mark.needs("executorch")]),
        pytest.param("web:fp32", marks=[pytest.mark.full, pytest.mark.needs("transformers.js")]),
        pytest.param("mlx:fp32", marks=[pytest.mark.full, pytest.mark.needs("mlx-lm")]),
    ],
)
def test_a_real_runtime_gives_the_same(
    model: Path, tmp_path: Path, of_the_harness: list[tuple[float, bool]], name: str
) -> None:
    format, precision = parse_format(name)
    format(str(precision)).write(model / "hf", tmp_path, lambda layer: None)
    options: Any = {"batch_size": 4, "execution": ONE_THREAD, "on_sequences": lambda done, total: None}
    with quiet_harness(), open_model(tmp_path, format.runtimes[0], tokenizer_folder=model / "hf", **options) as lm:
        answers = lm.loglikelihood(_requests(), disable_tqdm=True)
    assert [value for value, _ in answers] == pytest.approx([value for value, _ in of_the_harness], abs=2e-3)


def test_a_graph_that_returns_the_last_logits_scores_whole_choices(
    model: Path, tmp_path: Path, of_the_harness: list[tuple[float, bool]]
) -> None:
    (tmp_path / "onnx").mkdir()
    OnnxFormat.of(OnnxForm(logits="last")).write(model / "hf", tmp_path / "onnx", lambda layer: None)
    answers = _answers(tmp_path, "onnx", 4, None)
    assert [value for value, _ in answers] == pytest.approx([value for value, _ in of_the_harness], abs=1e-4)


def test_a_tokenizer_without_an_end_of_text_is_refused(model: Path, tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>")).save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    options: Any = {"batch_size": 1, "execution": ONE_THREAD, "on_sequences": lambda done, total: None}
    with (
        pytest.raises(ArtifactError, match="neither a BOS nor an EOS token"),
        open_model(model / "onnx", "onnxruntime", tokenizer_folder=tmp_path, **options),
    ):
        pass
