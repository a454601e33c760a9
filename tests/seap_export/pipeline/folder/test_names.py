from __future__ import annotations

from pathlib import Path

import pytest

from seap_export.pipeline.folder.names import output_named_after


@pytest.mark.parametrize(
    "model", ["m", "x/m/", "../m", "x/m.gguf", "m.GGUF", "OWNER/m", "OWNER/m@main", "OWNER/m@refs/pr/1", "x/.."]
)
def test_an_output_folder_is_named_after_the_model(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "m").mkdir()
    monkeypatch.chdir(tmp_path / "m")
    assert output_named_after(model) == Path("m-export")
