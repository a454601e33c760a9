"""Runtimes by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.formats.fake_format import FakeRunner, install_fake_format

from seap_export.errors import ArtifactError, EnvironmentFailure, ParityFailure, UsageError
from validation.runtimes.runner import Runtime
from validation.runtimes.table import RUNTIMES, open_runtime, require_runtime


def missing() -> None:
    """A check of a runtime."""
    raise EnvironmentFailure("no node; install Node.js")


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(UsageError, match="onnxruntime"):
        require_runtime("ollama")


def test_what_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_fake_format(monkeypatch)
    monkeypatch.setitem(RUNTIMES, "faked", Runtime("support.formats.fake_format:FakeRunner", extra="plots"))  # type: ignore[arg-type]
    monkeypatch.setattr("seap_export.common.extras.missing_packages", lambda extra: ["some-package"])
    with pytest.raises(EnvironmentFailure, match=r'faked needs some-package; run: pip install "matplotlib'):
        open_runtime("faked", tmp_path)
    runtime = Runtime("support.formats.fake_format:FakeRunner", check=f"{__name__}:missing")
    monkeypatch.setitem(RUNTIMES, "faked", runtime)  # type: ignore[arg-type]
    monkeypatch.setattr("validation.runtimes.table.resolve_name", lambda name: missing)
    with pytest.raises(EnvironmentFailure, match=r"Node\.js"):
        require_runtime("faked")
    assert FakeRunner.opened == 0


@pytest.mark.parametrize(
    ("runtime", "file"),
    [
        pytest.param("llama.cpp", "model.gguf", marks=pytest.mark.needs("llama.cpp")),
        pytest.param("openvino", "openvino_model.xml", marks=pytest.mark.needs("openvino")),
        pytest.param("litert", "model.litertlm", marks=pytest.mark.needs("litert")),
        pytest.param("executorch", "model.pte", marks=pytest.mark.needs("executorch")),
        pytest.param("transformers.js", "onnx/model.onnx", marks=pytest.mark.needs("transformers.js")),
        pytest.param("mlx", "config.json", marks=pytest.mark.needs("mlx-lm")),
    ],
)
def test_a_damaged_file_is_refused(runtime: str, file: str, tmp_path: Path) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_bytes(b"GGUF" + bytes(64))
    with pytest.raises((ArtifactError, ParityFailure)):
        open_runtime(runtime, tmp_path)
