"""What the making of variants warns of; the commands' tests make them whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from support.corpora import write_corpus
from support.models import write_micro_model
from support.product import (
    CalibrationSettings,
    ExportRequest,
    OnnxForm,
    OnnxFormat,
    ParitySettings,
    Source,
    choose_precision,
    open_recipe,
    open_source,
)
from support.progress import Listening

from seap_export.corpus import parse_tasks
from seap_export.pipeline.export import export
from seap_export.pipeline.preview import preview


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    folder = tmp_path_factory.mktemp("few")
    write_corpus(folder / "a.jsonl")
    return open_source(str(write_micro_model(folder / "m", model_type="llama")))


@pytest.fixture
def request_few(source: Source) -> ExportRequest:
    """Three texts of 37 tokens together, for a model of 96 head channels and 80 neurons."""
    return ExportRequest(
        parse_tasks([f"a={source.files[0].parents[1] / 'a.jsonl'}"]),
        (0.2,),
        calibration=CalibrationSettings(samples=3),
        parity=ParitySettings(prompts=1, decode_steps=1),
    )


def warnings(source: Source, request: ExportRequest, out: Path) -> list[str]:
    progress = Listening()
    export(source, request, out, progress=progress)
    return progress.warnings


def test_fewer_tokens_than_channels_are_worth_a_warning(
    source: Source, request_few: ExportRequest, tmp_path: Path
) -> None:
    lines = warnings(source, replace(request_few, ratios=(0.2, 0.6)), tmp_path / "out")
    assert len(lines) == 1  # whatever the number of variants
    assert lines[0].startswith("task 'a': 37 tokens in 3 calibration texts ")
    assert warnings(source, request_few, tmp_path / "out") == lines  # a variant that is there is no better
    listening = Listening()
    preview(source, request_few, tmp_path / "out", progress=listening)
    assert listening.warnings == lines


@pytest.mark.parametrize("method", ["seap", "wanda-sp"])
def test_nor_does_it_matter_where_nothing_is_refitted(
    source: Source, request_few: ExportRequest, tmp_path: Path, method: str
) -> None:
    assert warnings(source, replace(request_few, plan=open_recipe(method)), tmp_path / "out") == []


def test_sizes_without_a_fast_kernel_are_worth_a_warning(
    source: Source, request_few: ExportRequest, tmp_path: Path
) -> None:
    form = OnnxForm(choose_precision("int8"), provider="cuda")  # what a GPU would compute in cannot run here
    few = replace(request_few, formats=(OnnxFormat.of(form),), plan=open_recipe("seap"), quality=False, speed=False)
    (line,) = warnings(source, few, tmp_path / "out")
    assert line.startswith("a-0.2: CUDA has no fast int8 kernel for ")
    assert "down_proj of layers " in line
