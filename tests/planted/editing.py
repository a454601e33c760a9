"""A copied artifact that is changed, and its manifest."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from support.editing import edit_json, list_again

from seap_export.common.hashing import sha256_file
from seap_export.model.families import ModelSpec, model_spec
from seap_export.pipeline.folder.manifest import card_key


@dataclass(frozen=True)
class Artifact:
    """An export's output folder, and the variant in it that is tampered with."""

    out: Path
    name: str

    @property
    def variant(self) -> Path:
        return self.out / self.name

    @property
    def hf(self) -> Path:
        return self.variant / "hf"

    @property
    def onnx(self) -> Path:
        return self.variant / "onnx"

    @property
    def router(self) -> Path:
        return self.out / "router"

    @property
    def manifest(self) -> Path:
        return self.out / "manifest.json"

    @cached_property
    def spec(self) -> ModelSpec:
        return model_spec(json.loads((self.hf / "config.json").read_text("utf-8")))


def flip_byte(path: Path, fraction: float) -> None:
    """Flips a bit of the byte that stands at this fraction of a file."""
    content = bytearray(path.read_bytes())
    content[int(fraction * (len(content) - 1))] ^= 0x40
    path.write_bytes(content)


def re_record(artifact: Artifact) -> None:
    """Writes the sizes and hashes of the files into the lists and the manifest, so that these give nothing away."""
    list_again(artifact.out)

    def change(manifest: dict[str, Any]) -> None:
        paths = (artifact.out / step for step in manifest["steps"])
        files = sorted(file for path in paths for file in ([path] if path.is_file() else path.rglob("*")))
        manifest["files"] = {
            file.relative_to(artifact.out).as_posix(): {"bytes": file.stat().st_size, "sha256": sha256_file(file)}
            for file in files
            if file.is_file()
        }
        for name, variant in manifest["variants"].items():
            for part in variant["bytes"]:
                inside = [path for path in manifest["files"] if path.startswith(f"{name}/{part}/")]
                counted = [path for path in inside if path not in manifest["steps"]]
                variant["bytes"][part] = sum(manifest["files"][path]["bytes"] for path in counted)
            if (card := f"{name}/hf/README.md") in manifest["steps"]:
                manifest["steps"][card] = card_key(variant, manifest["files"][card]["sha256"])

    edit_json(artifact.manifest, change)
