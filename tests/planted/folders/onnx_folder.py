"""ONNX folders whose files are damaged, stale or of another variant, or say something else than the graph is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
from planted.editing import Artifact
from planted.fault import Change, Fault, damage, quiet
from support.editing import edit_json

_MODEL, _DATA, _GENAI = "model.onnx", "model.onnx.data", "genai_config.json"
_FORM = "seap_export.form"


def _of(variant: str, *names: str) -> Change:
    def change(artifact: Artifact) -> None:
        for name in names:
            shutil.copyfile(artifact.out / variant / "onnx" / name, artifact.onnx / name)

    return change


def _proto(change: Callable[[onnx.ModelProto], Any]) -> Change:
    """Edits model.onnx and leaves its data alone."""

    def edit(artifact: Artifact) -> None:
        path = artifact.onnx / _MODEL
        proto = onnx.load(path, load_external_data=False)
        change(proto)
        onnx.save(proto, path)

    return edit


def _located(location: str) -> Callable[[onnx.ModelProto], None]:
    def change(proto: onnx.ModelProto) -> None:
        for tensor in proto.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = location

    return change


def _outside(artifact: Artifact) -> None:
    shutil.move(artifact.onnx / _DATA, artifact.variant / _DATA)
    _proto(_located(f"../{_DATA}"))(artifact)


def _form(**values: Any) -> Change:
    def change(proto: onnx.ModelProto) -> None:
        entry = next(entry for entry in proto.metadata_props if entry.key == _FORM)
        entry.value = json.dumps({**json.loads(entry.value), **values})

    return _proto(change)


def _note(key: str, value: str | None) -> Change:
    def change(proto: onnx.ModelProto) -> None:
        kept = [(entry.key, entry.value) for entry in proto.metadata_props if entry.key != key]
        del proto.metadata_props[:]
        for name, text in [*kept, *([] if value is None else [(key, value)])]:
            proto.metadata_props.add(key=name, value=text)

    return _proto(change)


def _declared(name: str, length: int, value: int) -> Change:
    """A graph input or output that declares another size."""

    def change(proto: onnx.ModelProto) -> None:
        values = [*proto.graph.input, *proto.graph.output]
        next(v for v in values if v.name == name).type.tensor_type.shape.dim[length].dim_value = value

    return _proto(change)


def _genai(change: Callable[[dict[str, Any]], Any]) -> Change:
    return lambda artifact: edit_json(artifact.onnx / _GENAI, change)


def _model(**values: Any) -> Change:
    return _genai(lambda config: config["model"].update(values))


def _rounding(**grid: Any) -> Change:
    return lambda artifact: edit_json(artifact.onnx / "rounding.json", lambda note: note["grid"].update(grid))


def _stale(name: str) -> Change:
    def change(artifact: Artifact) -> None:
        path: Path = artifact.onnx / name
        path.write_bytes((artifact.onnx / _DATA).read_bytes())

    return change


_INT8 = {"dtype": "fp32", "quantization": {"bits": 8, "block_size": 32, "symmetric": True, "embeddings": True}}
_FLOAT = {"dtype": "fp32", "quantization": None}

FAULTS: tuple[Fault, ...] = (
    damage("file", "stale file beside the graph", "steps", _stale("model_old.onnx.data")),
    quiet("file", "graph and data of another variant, recorded", "tied", _of("a-0.4", _MODEL, _DATA), codes=(3, 7)),
    quiet("metadata", "data outside the folder", "whole", _outside),
    quiet("bits", "form: claims int8 for int4", "int4", _form(precision=_INT8), codes=(3, 7)),
    quiet("bits", "rounding: claims another average", "mixed", _rounding(average=4.5)),
    quiet("bits", "form: claims fp32 for fp16", "half", _form(precision=_FLOAT), codes=(3, 7)),
    quiet("bits", "rounding: claims 4 bits", "rows", _rounding(bits=4)),
    quiet("bits", "rounding: claims 8 bits", "steps", _rounding(bits=8)),
    quiet("metadata", "cache: claims to be appended", "rows", _note("seap_export.cache", "appended"), codes=(3, 7)),
    quiet("metadata", "graph declares another vocabulary", "steps", _declared("logits", 2, 97), codes=(3, 7)),
    quiet("config", "genai: end of sequence", "whole", _model(eos_token_id=5)),
)
