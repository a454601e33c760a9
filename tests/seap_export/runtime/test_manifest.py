from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from seap_export.errors import ArtifactError
from seap_export.runtime.manifest import RouterManifest, read_router, write_router

VALUES: dict[str, Any] = {
    "source": {"name": "m", "sha256": "00"},
    "classes": ["a", "b"],
    "seed": 0,
    "max_length": 64,
    "threshold": 0.7,
    "calibration_prompts": {"a": 3, "b": 4},
    "held_out": {"accuracy": 1.0},
    "variants": {"0.2": {"a": "a-0.2", "b": "b-0.2"}},
    "fallback": {"0.2": None},
}


def write(folder: Path, **changes: Any) -> None:
    values = {"schema": "seap-export/router/1", **VALUES, **changes}
    (folder / "router.json").write_text(json.dumps({key: value for key, value in values.items() if value != "drop"}))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    manifest = RouterManifest(**{**VALUES, "classes": ("a", "b")})
    write_router(manifest, tmp_path)
    assert read_router(tmp_path) == manifest
    written = (tmp_path / "router.json").read_bytes()
    write_router(read_router(tmp_path), tmp_path)
    assert (tmp_path / "router.json").read_bytes() == written
    assert json.loads(written) == {"schema": "seap-export/router/1", **VALUES}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": "seap-export/router/9"}, "router schema is 'seap-export/router/9', expected"),
        ({"threshold": "drop"}, "missing 1 required positional argument: 'threshold'"),
        ({"extra": 1}, "unexpected keyword argument 'extra'"),
        ({"classes": ["a"]}, "two or more"),
        ({"classes": ["a", "a"]}, "two or more"),
        ({"classes": ["a", 1]}, "'classes' must be"),
        ({"seed": True}, "'seed' and 'max_length' must be whole numbers"),
        ({"max_length": 0}, "'max_length' must be at least 1"),
        ({"threshold": float("nan")}, "number NaN"),
        ({"threshold": 1.5}, "'threshold' must be a number from 0 to 1"),
        ({"variants": {}, "fallback": {}}, "at least one ratio"),
        ({"variants": {"0.2": {"a": "a-0.2"}}}, "'variants' of 0.2 must name one for each class"),
        ({"variants": {"0.2": {"a": "../a", "b": "b"}}}, "'variants' of 0.2 must be folder names"),
        ({"variants": {"0.2": {"a": ["a"], "b": "b"}}}, "'variants' of 0.2 must be folder names"),
        ({"fallback": {}}, "'fallback' must have the same ratios"),
        ({"fallback": {"0.2": "../general"}}, "'fallback' must be a folder name"),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write(tmp_path)
    assert read_router(tmp_path).classes == ("a", "b")
    write(tmp_path, **changes)
    with pytest.raises(ArtifactError) as caught:
        read_router(tmp_path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path}/router.json: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_json_object_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "router.json").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"router\.json: .*export again$"):
        read_router(tmp_path)
