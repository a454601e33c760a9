"""ONNX folders whose files are damaged, stale or of another variant, or say something else than the graph is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
from planted.editing import Artifact, flip_byte
from planted.fault import Change, Fault, damage, quiet
from support.editing import edit_json

_MODEL, _DATA, _GENAI = "model.onnx", "model.onnx.data", "genai_config.json"
_FORM = "seap_export.form"


def _cut(name: str, by: int) -> Change:
    def change(artifact: Artifact) -> None:
        path = artifact.onnx / name
        path.write_bytes(path.read_bytes()[:-by])

    return change


def _longer(artifact: Artifact) -> None:
    with (artifact.onnx / _DATA).open("ab") as file:
        file.write(b"left over" * 100)


def _of(variant: str, *names: str) -> Change:
    def change(artifact: Artifact) -> None:
        for name in names:
            shutil.copyfile(artifact.out / variant / "onnx" / name, artifact.onnx / name)

    return change


def _flip(name: str, fraction: float) -> Change:
    return lambda artifact: flip_byte(artifact.onnx / name, fraction)


def _missing(name: str) -> Change:
    return lambda artifact: (artifact.onnx / name).unlink()


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


def _offsets_moved(proto: onnx.ModelProto) -> None:
    """One tensor reads what lies four bytes further."""
    tensor = next(t for t in proto.graph.initializer if t.name.endswith("layers.1.mlp.up_proj.weight.transposed"))
    for entry in tensor.external_data:
        if entry.key == "offset":
            entry.value = str(int(entry.value) + 4)


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


def _output_lost(proto: onnx.ModelProto) -> None:
    del proto.graph.output[-1]


def _genai(change: Callable[[dict[str, Any]], Any]) -> Change:
    return lambda artifact: edit_json(artifact.onnx / _GENAI, change)


def _model(**values: Any) -> Change:
    return _genai(lambda config: config["model"].update(values))


def _decoder(**values: Any) -> Change:
    return _genai(lambda config: config["model"]["decoder"].update(values))


def _search(**values: Any) -> Change:
    return _genai(lambda config: config["search"].update(values))


def _rounding(**grid: Any) -> Change:
    return lambda artifact: edit_json(artifact.onnx / "rounding.json", lambda note: note["grid"].update(grid))


def _setting_twice(artifact: Artifact) -> None:
    """Python takes the last value, others the first."""
    path = artifact.onnx / _GENAI
    path.write_text(path.read_text("utf-8").replace('"search": {', '"search": {"max_length": 1,', 1), "utf-8")


def _stale(name: str) -> Change:
    def change(artifact: Artifact) -> None:
        path: Path = artifact.onnx / name
        path.write_bytes((artifact.onnx / _DATA).read_bytes())

    return change


_INT4 = {"dtype": "fp32", "quantization": {"bits": 4, "block_size": 32, "symmetric": True, "embeddings": True}}
_INT8 = {"dtype": "fp32", "quantization": {"bits": 8, "block_size": 32, "symmetric": True, "embeddings": True}}
_HALF = {"dtype": "fp16", "quantization": None}

FAULTS: tuple[Fault, ...] = (
    damage("data cut", "whole", _cut(_DATA, 4096)),
    damage("data with something behind it", "whole", _longer),
    damage("data of another variant", "routed", _of("b-0.2", _DATA)),
    damage("data missing", "tied", _missing(_DATA)),
    damage("data with another byte", "points", _flip(_DATA, 0.5)),
    damage("graph of another variant", "tied", _of("a-0.4", _MODEL)),
    damage("graph with another byte", "whole", _flip(_MODEL, 0.5)),
    damage("graph cut", "standard", _cut(_MODEL, 100)),
    damage("graph missing", "half", _missing(_MODEL)),
    damage("genai config missing", "int4", _missing(_GENAI)),
    damage("stale file beside the graph", "whole", _stale("model_old.onnx.data")),
    quiet("data cut, recorded", "whole", _cut(_DATA, 4096)),
    quiet("data with something behind it, recorded", "whole", _longer),
    quiet("graph and data of another variant, recorded", "tied", _of("a-0.4", _MODEL, _DATA), codes=(3, 7)),
    quiet("data of another variant, recorded", "routed", _of("b-0.2", _DATA), codes=(3, 7)),
    quiet("graph cut, recorded", "standard", _cut(_MODEL, 100)),
    quiet("data under another name", "whole", _proto(_located("weights.bin"))),
    quiet("data outside the folder", "whole", _outside),
    quiet("a tensor that reads from a place further on", "routed", _proto(_offsets_moved), codes=(3, 7)),
    quiet("form: claims int4", "whole", _form(precision=_INT4), codes=(3, 7)),
    quiet("form: claims int8 for int4", "int4", _form(precision=_INT8), codes=(3, 7)),
    quiet("form: claims fp16", "routed", _form(precision=_HALF), codes=(3, 7)),
    quiet("form: claims the standard dialect", "whole", _form(dialect="standard")),
    quiet("form: claims the last logits only", "whole", _form(logits="last")),
    quiet("form: lost", "tied", _note(_FORM, None)),
    quiet("rounding: claims int8", "int4", _rounding(bits=8)),
    quiet("rounding: claims another average", "mixed", _rounding(average=4.5)),
    quiet("rounding: claims the same bits for all matrices", "mixed", _rounding(others=[])),
    quiet("cache: claims to be appended", "whole", _note("seap_export.cache", "appended"), codes=(3, 7)),
    quiet("cache: claims to be shared", "standard", _note("seap_export.cache", "shared"), codes=(3, 7)),
    quiet("cache: does not say", "standard", _note("seap_export.cache", None), codes=(3, 7)),
    quiet("graph declares other KV heads", "whole", _declared("past_key_values.1.key", 1, 4), codes=(3, 7)),
    quiet("graph declares another vocabulary", "whole", _declared("logits", 2, 97), codes=(3, 7)),
    quiet("graph lacks a cache", "routed", _proto(_output_lost)),
    quiet("genai: heads", "whole", _decoder(num_attention_heads=7)),
    quiet("genai: KV heads", "routed", _decoder(num_key_value_heads=6)),
    quiet("genai: head size", "standard", _decoder(head_size=32)),
    quiet("genai: layers", "int4", _decoder(num_hidden_layers=2)),
    quiet("genai: hidden size", "half", _decoder(hidden_size=64)),
    quiet("genai: file", "tied", _decoder(filename="decoder.onnx")),
    quiet("genai: name of the caches", "whole", _decoder(inputs={"input_ids": "input_ids"})),
    quiet("genai: context", "qwen3", _model(context_length=2048)),
    quiet("genai: end of sequence", "whole", _model(eos_token_id=5)),
    quiet("genai: padding", "points", _model(pad_token_id=2)),
    quiet("genai: vocabulary", "window", _model(vocab_size=100)),
    quiet("genai: type", "points", _model(type="llama")),
    quiet("genai: shared buffers", "standard", _search(past_present_share_buffer=True)),
    quiet("genai: longest text", "whole", _search(max_length=4096)),
    quiet("genai: a setting twice", "whole", _setting_twice),
    quiet("genai: 1 for true", "whole", _search(early_stopping=1)),
    quiet("genai: no JSON", "routed", lambda artifact: (artifact.onnx / _GENAI).write_text("[]", "utf-8")),
)
