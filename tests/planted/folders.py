"""Folders whose files are damaged, stale or of another model, say something else than the graph is, or lead astray."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from planted.editing import Artifact, flip_byte
from planted.fault import Change, Fault, Kind, damage, quiet, recorded
from support.editing import edit_json, edit_weights
from support.formats.graph_faults import STRUCTURE
from support.product import convert_folder

from seap_export.common.checksums import write_checksums

_GRAPH, _DATA = "onnx/model.onnx", "onnx/model.onnx.data"
_TOKENIZER = "tokenizer.json"


def _json(path: str, change: Callable[[Any], object], *parts: str) -> Change:
    """Edits a file of the variant, or the file of that name in some parts of it."""
    paths = [f"{part}/{path}" for part in parts] or [path]
    return lambda artifact: [edit_json(artifact.variant / each, change) for each in paths]


def _config(**values: Any) -> Change:
    return _json("hf/config.json", lambda config: config.update(values))


def _layer_has_more_neurons(config: dict[str, Any]) -> None:
    """In the config alone."""
    settings = config["per_layer_config"].setdefault("1", {})
    settings["intermediate_size"] = settings.get("intermediate_size", config["intermediate_size"]) + 1


def _tensors(change: Callable[[dict[str, torch.Tensor]], Any]) -> Change:
    return lambda artifact: edit_weights(artifact.hf, change)


def _sign(tensors: dict[str, torch.Tensor]) -> None:
    """Of the largest number."""
    flat = tensors["model.layers.1.self_attn.v_proj.weight"].view(-1)
    flat[flat.abs().argmax()] *= -1


def _layer_repeated(artifact: Artifact) -> None:
    """In the model, and in the ONNX file, which is written anew: it computes what the model computes."""

    def change(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if name.startswith("model.layers.2.")]:
            tensors[name] = tensors[name.replace("layers.2.", "layers.1.")].clone()

    edit_weights(artifact.hf, change)
    shutil.rmtree(artifact.onnx)
    artifact.onnx.mkdir()
    convert_folder(artifact.hf, artifact.onnx)
    write_checksums(artifact.onnx)


def _text(path: str, change: Callable[[str], str]) -> Change:
    """Writes a text file of the variant, or changes it."""

    def plant(artifact: Artifact) -> None:
        file = artifact.variant / path
        file.write_text(change(file.read_text("utf-8") if file.exists() else ""), "utf-8")

    return plant


def _without_code(listed: str) -> str:
    return "".join(line for line in listed.splitlines(keepends=True) if "modeling_seap.py" not in line)


def _copied(source: str, *targets: str) -> Change:
    """Files of the export take the place of those of the variant."""

    def change(artifact: Artifact) -> None:
        for target in targets:
            shutil.copyfile(artifact.out / source.format(Path(target).name), artifact.variant / target)

    return change


def _proto(change: Callable[[onnx.ModelProto], object], path: str = _GRAPH) -> Change:
    """Edits a graph, and leaves its data alone."""

    def edit(artifact: Artifact) -> None:
        file = artifact.variant / path
        proto = onnx.load(file, load_external_data=False)
        change(proto)
        onnx.save(proto, file)

    return edit


def _note(key: str, value: Any) -> Change:
    """The graph says something else of itself; a dict changes values of what it says."""

    def change(proto: onnx.ModelProto) -> None:
        entry = next(entry for entry in proto.metadata_props if entry.key == key)
        entry.value = value if isinstance(value, str) else json.dumps(json.loads(entry.value) | value)

    return _proto(change)


def _wider_logits(proto: onnx.ModelProto) -> None:
    proto.graph.output[0].type.tensor_type.shape.dim[2].dim_value = 97


def _grid(**values: Any) -> Change:
    """The note of the rounding has other values."""
    return _json("onnx/rounding.json", lambda note: note["grid"].update(values))


def _plan_keeps_others(plan: dict[str, Any]) -> None:
    """As many neurons, other ones: the shapes do not tell."""
    neurons = plan["layers"][1]["down_proj"]["units"]
    missing = next(index for index in range(80) if index not in neurons)
    plan["layers"][1]["down_proj"]["units"] = sorted([*neurons[1:], missing])


def _rows_shifted(proto: onnx.ModelProto) -> None:
    """The table of logits, which the graph of the router holds."""
    tensor = next(tensor for tensor in proto.graph.initializer if tensor.name == "logits_of_token")
    values = np.roll(numpy_helper.to_array(tensor), 1, axis=0)
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), tensor.name))


def _words_swapped(values: dict[str, Any]) -> None:
    vocabulary = values["model"]["vocab"]
    vocabulary["cat"], vocabulary["dog"] = vocabulary["dog"], vocabulary["cat"]


def _other_template(config: dict[str, Any]) -> None:
    config["chat_template"] = config["chat_template"].replace("content", "role")


def _flipped(path: str, fraction: float) -> Change:
    return lambda artifact: flip_byte(artifact.out / path, fraction)


_ROUTER = {"codes": (4, 7), "options": ("--check", "integrity", "--check", "router")}
_FLOAT = {"dtype": "fp32", "quantization": None}
_SWAPPED_VARIANTS = {"a": "b-0.2", "b": "a-0.2"}
_TOO_FAR = ("--dense", "{dense}", "--max-kl", "0.01")

#: With a manifest that knows nothing of the change.
_DAMAGES: tuple[tuple[Kind, str, str, Change], ...] = (
    ("file", "safetensors with another byte", "mixed", _flipped("a-0.2/hf/model.safetensors", 0.6)),
    ("file", "calibration changed", "half", _flipped("calibration/a/layer-00000.safetensors", 0.9)),
    ("file", "a file of secrets beside the model", "rows", _text("hf/.env", lambda _: "TOKEN=1")),
    ("file", "stale file beside the graph", "steps", _copied("a-0.2/" + _DATA, "onnx/model_old.onnx.data")),
    ("code", "list of files without the code", "mixed", _text("hf/SHA256SUMS", _without_code)),
)
#: With a manifest that agrees with the change, all to be stopped as damage.
_RECORDED: tuple[tuple[Kind, str, str, Change], ...] = (
    ("config", "config: neurons of a layer", "steps", _json("hf/config.json", _layer_has_more_neurons)),
    ("config", "an end of texts", "rows", _json("hf/generation_config.json", lambda v: v.update(eos_token_id=7))),
    ("config", "genai: an end", "half", _json("onnx/genai_config.json", lambda v: v["model"].update(eos_token_id=5))),
    ("code", "modelling code changed", "rows", _text("hf/modeling_seap.py", lambda code: f"{code}\nprint('hello')\n")),
    ("code", "code of one's own", "whole", _text("hf/more.py", lambda _: "print('hello')")),
    ("code", "pickled weights", "window", _text("hf/pytorch_model.bin", lambda _: "pickled")),
    ("code", "code on the hub", "steps", _config(auto_map={"AutoConfig": "else/where--modeling_seap.SeapX"})),
    ("bits", "rounding: claims 4 bits", "rows", _grid(bits=4)),
    ("bits", "rounding: claims 8 bits", "steps", _grid(bits=8)),
    (
        "metadata",
        "plan of another layout",
        "standard",
        _json("plan.json", lambda plan: plan.update(layout="per-layer")),
    ),
    ("metadata", "plan keeps other neurons", "routed", _json("plan.json", _plan_keeps_others)),
    (
        "metadata",
        "classes lead to each other's variants",
        "routed",
        _json("../router/router.json", lambda router: router["variants"]["0.2"].update(_SWAPPED_VARIANTS)),
    ),
    ("tokenizer", "two ids of the router swapped", "routed", _json(f"../router/{_TOKENIZER}", _words_swapped)),
    ("tokenizer", "two ids of onnx swapped", "rows", _json(_TOKENIZER, _words_swapped, "onnx")),
    ("tokenizer", "two ids of both swapped", "whole", _json(_TOKENIZER, _words_swapped, "onnx", "hf")),
    (
        "tokenizer",
        "texts of onnx in lower case",
        "steps",
        _json(_TOKENIZER, lambda values: values.update(normalizer={"type": "Lowercase"}), "onnx"),
    ),
    ("tokenizer", "chat template of onnx changed", "mixed", _json("onnx/tokenizer_config.json", _other_template)),
)
#: Of the faults in the graph itself, which needs not run to tell, one for each kind and precision; the others are
#: planted without an export, in tests/converters/onnx/test_folder.py.
_STRUCTURE: tuple[tuple[Kind, str, str], ...] = (
    *(("wiring", "one token is never chosen", base) for base in ("steps", "mixed")),
    ("wiring", "one token in a prompt changes all", "rows"),
    ("attribute", "a window that no prompt reaches", "steps"),
    *(("attribute", "an epsilon that is a little off", base) for base in ("rows", "mixed")),
    *(("constant", "a constant with another value", base) for base in ("int4", "steps", "half")),
    ("metadata", "an older opset", "mixed"),
)
_EDITS = dict(STRUCTURE)
FAULTS: tuple[Fault, ...] = (
    *(damage(*fault) for fault in _DAMAGES),
    *(quiet(*fault) for fault in _RECORDED),
    *(quiet(kind, f"{id}, {base}", base, _proto(_EDITS[id])) for kind, id, base in _STRUCTURE),
    quiet("weight", "sign in the model, int4", "int4", _tensors(_sign), codes=(3,), layer=1),
    *(
        quiet(kind, id, base, change, codes=(3, 7))
        for kind, id, base, change in (
            ("config", "config: tied", "mixed", _config(tie_word_embeddings=True)),
            ("file", "graph and data of another variant", "tied", _copied("a-0.4/onnx/{}", _GRAPH, _DATA)),
            ("bits", "form: claims fp32 for fp16", "half", _note("seap_export.form", {"precision": _FLOAT})),
            ("metadata", "cache: claims to be appended", "rows", _note("seap_export.cache", "appended")),
            ("metadata", "graph declares another vocabulary", "steps", _proto(_wider_logits)),
        )
    ),
    quiet(
        "metadata",
        "classes in another order",
        "routed",
        _json("../router/router.json", lambda router: router["classes"].reverse()),
        **_ROUTER,
    ),
    quiet("weight", "rows of the table shifted", "routed", _proto(_rows_shifted, "../router/router.onnx"), **_ROUTER),
    Fault(
        "weight",
        "layer repeated on both sides",
        "whole",
        recorded(_layer_repeated),
        True,
        frozenset({4}),
        options=_TOO_FAR,
    ),
)
