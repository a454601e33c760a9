"""What an output folder and a variant's folder say about themselves, whole and damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from seap_export.errors import ArtifactError, InputError
from seap_export.pipeline.folder.contents import Export, Variant, open_folder
from seap_export.pipeline.folder.manifest import Manifest


@pytest.fixture
def variant(tmp_path: Path) -> Variant:
    folder = tmp_path / "gsm8k-0.2"
    for name in ("web", "onnx", "hf", "onnx-int4", "gguf-q8_0", "notes", "gguf-q4_0"):
        (folder / name).mkdir(parents=True)
    (folder / "mlx").write_text("a file is no folder of a format", "utf-8")
    return Variant(folder)


def test_folders_of_formats_stand_in_one_order(variant: Variant) -> None:
    assert list(variant.folders) == ["hf", "onnx", "onnx-int4", "gguf-q4_0", "gguf-q8_0", "web"]
    assert [folder.name for folder in variant.formats] == ["onnx", "onnx-int4", "gguf-q4_0", "gguf-q8_0", "web"]
    assert [folder.parity_file.name for folder in variant.formats][:2] == ["parity.json", "parity-onnx-int4.json"]
    first = {runtime: variant.run_by(runtime) for runtime in ("torch", "onnxruntime", "llama.cpp", "openvino")}
    assert [folder and folder.name for folder in first.values()] == ["hf", "onnx", "gguf-q4_0", None]


def test_a_damaged_variant_fails_only_where_it_is_read(variant: Variant, tmp_path: Path) -> None:
    assert variant.vocabulary is None  # there is no plan
    none, export = Variant(tmp_path / "none"), Export(tmp_path / "none")
    assert not any((none.folders, export.exists, export.variants, export.performance.speed))
    for read, error, message in (
        (lambda: variant.plan, ArtifactError, r"plan\.json"),
        (lambda: variant.spec, InputError, r"config\.json"),
        (variant.calibrations, ArtifactError, r"plan\.json is missing; give --prompt-file"),
        (lambda: variant.require("hf", "gguf"), ArtifactError, "gguf is missing; give a variant's folder"),
        (none.require, ArtifactError, "no such folder"),
    ):
        with pytest.raises(error, match=message):
            read()


def test_an_export_knows_its_variants_and_their_parts(variant: Variant) -> None:
    out = variant.path.parent
    assert open_folder(out) is open_folder(variant.path) is None
    steps = dict.fromkeys(["calibration/gsm8k", "gsm8k-0.2/hf", "gsm8k-0.2/onnx", "gsm8k-0.25/hf", "router"], "key")
    Manifest(steps=steps).write(out)
    (variant.path / "plan.json").write_text("{}", "utf-8")
    assert isinstance(open_folder(variant.path), Variant)
    export = open_folder(out)
    assert isinstance(export, Export)
    assert not export.variants
    assert export.parts_of("gsm8k-0.2") == ["hf", "onnx"]
    assert export.parts_of("gsm8k") == []
    assert export.variant("gsm8k-0.2").export is export
