"""Artifacts that are right pass: models with every feature, each precision, dialect and ratio, other seeds."""

from __future__ import annotations

import shutil
from pathlib import Path
from zlib import crc32

import pytest
from support.chosen import FEATURED, JOINT
from support.corpora import write_corpus
from support.exports import run_here
from support.models import write_micro_model
from support.product import OnnxForm, ParitySettings, Precision, choose_precision, convert_folder
from support.variations import VARIATIONS

from seap_export.common.checksums import write_checksums
from seap_export.pipeline.gate.request import ValidationRequest
from seap_export.pipeline.gate.validate import validate

pytestmark = pytest.mark.release
#: But for the model of which less can be removed.
RATIOS, LARGEST = ("0", "0.2", "0.5"), {"bamba-all": "0.45"}
#: All that the CPU runs, but for fp32 in the fused dialect, which `export` writes; graphs for CUDA, too.
OTHER_FORMS = (
    OnnxForm(dialect="standard"),
    OnnxForm(Precision("fp16")),
    OnnxForm(Precision("fp16"), dialect="standard"),
    OnnxForm(Precision("fp16"), logits="last", provider="cuda"),
    OnnxForm(choose_precision("int8"), logits="last"),
    OnnxForm(choose_precision("int4", symmetric=False)),
)


@pytest.mark.parametrize("name", FEATURED)
def test_good_artifacts_pass(tmp_path: Path, name: str) -> None:
    """Two forms of each of the models that have every feature between them, at one ratio."""
    seed = crc32(name.encode())
    accepted = [form for form in OTHER_FORMS if form.provider == "cpu" or name in JOINT]
    ratio = (*RATIOS[:-1], LARGEST.get(name, RATIOS[-1]))[seed % len(RATIOS)]
    model = write_micro_model(tmp_path / "m", seed=seed, **VARIATIONS[name])
    task = f"a={write_corpus(tmp_path / 'a.jsonl', seed=seed)}"
    outcome = run_here(
        "export", model, "--task", task, "--ratio", ratio, "--out", tmp_path / "out", "--threads", "1", "-q"
    )
    assert outcome.code == 0, outcome.err
    for at in range(2):
        form = accepted[(seed + at) % len(accepted)]
        variant = tmp_path / f"form-{at}" / f"a-{ratio}"
        (variant / "onnx").mkdir(parents=True)
        shutil.copytree(tmp_path / "out" / f"a-{ratio}" / "hf", variant / "hf")
        shutil.copyfile(tmp_path / "out" / f"a-{ratio}" / "plan.json", variant / "plan.json")
        shutil.copytree(tmp_path / "out" / "calibration", variant.parent / "calibration")
        convert_folder(variant / "hf", variant / "onnx", form)
        write_checksums(variant / "onnx")
        report = validate(variant, ValidationRequest(parity=ParitySettings(threads=1, prompts=2)))
        assert report.passed, (form, report.failure)
