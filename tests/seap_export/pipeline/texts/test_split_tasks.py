"""Calibration sees the token ids that the artifact's own tokenizer gives."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from support.models import write_micro_model
from support.product import CalibrationSettings, open_source
from support.progress import Listening
from tokenizers import Tokenizer

from seap_export.corpus import Sample, Split, parse_tasks
from seap_export.pipeline.request.options import CALIBRATION_TOKENS
from seap_export.pipeline.texts.split_tasks import split_tasks, tokenize, warn_of_texts


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """500 texts of 1 to 10 tokens."""
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": f"{index} " + "cat " * (index % 10)}) + "\n" for index in range(500)))
    return path


@pytest.mark.parametrize(("max_length", "positions"), [(512, 128), (3, 128), (512, 4)])
def test_texts_are_taken_up_to_the_number_of_tokens(
    tmp_path: Path, corpus: Path, max_length: int, positions: int
) -> None:
    model = write_micro_model(tmp_path / "m", model_type="llama", max_position_embeddings=positions)
    source = open_source(str(model))
    tasks = parse_tasks([f"a={corpus}"])
    whole = split_tasks(source, tasks, CalibrationSettings(samples=484, max_length=max_length))["a"]
    ids = tokenize(source, {"a": whole.calibration}, max_length)["a"]
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    assert ids == [tokenizer.encode(sample.text).ids[: min(max_length, positions)] for sample in whole.calibration]
    lengths = [len(each) for each in ids]
    assert max(lengths) == min(10, max_length, positions)
    for number in (1, 2, 100, 300, 484):
        for more, taken in ((-1, max(1, number - 1)), (0, number)):
            most = sum(lengths[:number]) + more
            settings = CalibrationSettings(calibration_tokens=most, max_length=max_length)
            assert split_tasks(source, tasks, settings)["a"] == whole.calibrated_on(taken, sum(lengths[:taken]))
            few = min(taken, 90)
            fewer = split_tasks(source, tasks, replace(settings, samples=90))["a"]
            assert fewer == whole.calibrated_on(few, sum(lengths[:few]))
    assert whole.num_tokens == sum(lengths) < CALIBRATION_TOKENS
    assert split_tasks(source, tasks, CalibrationSettings(max_length=max_length))["a"] == whole


@pytest.mark.parametrize(
    ("corpora", "warnings"),
    [
        ({"a": ["1", "2"], "b": ["2", "1"]}, ["tasks 'a' and 'b' have the same texts"]),
        ({"a": ["1", "2"], "b": ["2", "1", "3"]}, []),
        ({"a": ["1", "2"], "b": ["chat 1"]}, []),
        ({"a": ["1", "chat 2", "3"]}, ["task 'a': 1 of its 3 texts are conversations"]),
    ],
)
def test_texts_that_are_hardly_meant_so_are_worth_a_warning(
    tmp_path: Path, corpora: dict[str, list[str]], warnings: list[str]
) -> None:
    spec = open_source(str(write_micro_model(tmp_path / "m", model_type="llama"))).spec
    samples = {
        task: [Sample(f"<{text}>", "", text if "chat" in text else "") for text in texts]
        for task, texts in corpora.items()
    }
    splits = {task: Split(tuple(every[:1]), tuple(every[1:])) for task, every in samples.items()}
    listening = Listening()
    warn_of_texts(splits, spec, listening)
    assert [line[: len(start)] for line, start in zip(listening.warnings, warnings, strict=True)] == warnings
