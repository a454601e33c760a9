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


def test_what_is_unknown_or_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="onnxruntime"):
        require_runtime("ollama")
    install_fake_format(monkeypatch)
    name = "support.formats.fake_format:FakeRunner"
    monkeypatch.setitem(RUNTIMES, "faked", Runtime(name, extra="plots"))  # type: ignore[arg-type]
    monkeypatch.setattr("seap_export.common.extras.missing_packages", lambda extra: ["some-package"])
    with pytest.raises(EnvironmentFailure, match=r'faked needs some-package; run: pip install "matplotlib'):
        open_runtime("faked", tmp_path)
    monkeypatch.setitem(RUNTIMES, "faked", Runtime(name, check="elsewhere:missing"))  # type: ignore[arg-type]
    monkeypatch.setattr("validation.runtimes.table.resolve_name", lambda name: missing)
    with pytest.raises(EnvironmentFailure, match=r"Node\.js"):
        require_runtime("faked")
    assert FakeRunner.opened == 0


@pytest.mark.parametrize(
    ("runtime", "file"),
    [
        pytest.param(runtime, file, marks=pytest.mark.needs("mlx-lm" if runtime == "mlx" else runtime))
        for runtime, file in {
            "llama.cpp": "model.gguf",
            "openvino": "openvino_model.xml",
            "litert": "model.litertlm",
            "executorch": "model.pte",
            "transformers.js": "onnx/model.onnx",
            "mlx": "config.json",
        }.items()
    ],
)
def test_a_damaged_file_is_refused(runtime: str, file: str, tmp_path: Path) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_bytes(b"GGUF" + bytes(64))
    with pytest.raises((ArtifactError, ParityFailure)):
        open_runtime(runtime, tmp_path)
