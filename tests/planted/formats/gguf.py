"""GGUF files: their tensors, metadata and header, and the Modelfile beside them."""

from __future__ import annotations

import struct
from collections.abc import Callable
from contextlib import closing
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind
from planted.formats.files import added, file_plant, missing
from planted.formats.planting import DAMAGE, PARITY, Base, FormatFault, Parts, Plant, Subject
from support.formats.written import WrittenModel
from support.product import read_header

from converters.gguf.file import MODEL_FILE, FilePlan
from converters.gguf.layout import FileTensor
from converters.gguf.writer import _TYPES, _item_type

_BLOCKS: dict[Kind, np.dtype[Any]] = {
    Kind.F32: np.dtype("<f4"),
    Kind.F16: np.dtype("<f2"),
    Kind.Q8_0: np.dtype([("scales", "<f2"), ("numbers", "u1", 32)]),
    Kind.Q4_0: np.dtype([("scales", "<f2"), ("numbers", "u1", 16)]),
}
_LAYERS = "blk.1."


def _plan(base: Base) -> FilePlan:
    return FilePlan.of(base.spec, base.precision)


def _tensor_of(plan: FilePlan, name: str) -> FileTensor:
    return next(tensor for tensor in plan.tensors if any(part.plain == name for part in tensor.parts))


def _holds(base: Base, name: str) -> frozenset[str]:
    plan = _plan(base)
    return frozenset({"float" if plan.kind(_tensor_of(plan, name)) in (Kind.F32, Kind.F16) else "levels"})


def _open(made: WrittenModel, name: str) -> Parts:
    path = made.folder / MODEL_FILE
    tensor = _tensor_of(FilePlan.of(made.spec, made.format.precision), name)
    stored = read_header(path)[1][tensor.name]
    dtype = _BLOCKS[stored.kind]
    shape = (tensor.rows,) if len(tensor.shape) == 1 else (tensor.rows, stored.size // tensor.rows // dtype.itemsize)
    mapped = np.memmap(path, dtype, "r+", stored.offset, shape)
    return {name: mapped[name] for name in dtype.names} if dtype.names else {"numbers": mapped}


def _number(key: str, value: float, kind: str = "<I") -> Plant:
    """Sets a number among the metadata, in place."""

    def edit(data: bytes) -> bytes:
        offset = data.index(key.encode()) + len(key) + 4
        packed = struct.pack(kind, value)
        return data[:offset] + packed + data[offset + len(packed) :]

    return file_plant(MODEL_FILE, edit)


def _replaced(before: bytes, after: bytes) -> Plant:
    def edit(data: bytes) -> bytes:
        assert before in data
        return data.replace(before, after, 1)

    return file_plant(MODEL_FILE, edit)


def rewritten(
    change: Callable[[dict[str, Any], dict[str, Any]], object], types: dict[str, gguf.GGUFValueType] | None = None
) -> Plant:
    """Writes the file again with other metadata, or other tensors: kind, shape and bytes of each by name."""

    def plant(made: WrittenModel) -> None:
        path, kinds = made.folder / MODEL_FILE, types or {}
        stored, entries = read_header(path)
        data = path.read_bytes()
        metadata = dict(stored)
        tensors = {
            name: (one.kind, one.shape, data[one.offset : one.offset + one.size]) for name, one in entries.items()
        }
        change(metadata, tensors)
        with closing(gguf.GGUFWriter(None, metadata.pop("general.architecture"))) as writer:
            for key, value in metadata.items():
                writer.add_key_value(key, value, kinds.get(key, _TYPES[type(value)]), _item_type(value))
            for name, (kind, shape, content) in tensors.items():
                writer.add_tensor_info(name, shape, np.dtype(np.float32), len(content), raw_dtype=kind)
            writer.write_header_to_file(path)
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            file = writer.fout[0]
            for _, _, content in tensors.values():
                file.write(bytes(-file.tell() % 32) + content)
            file.write(bytes(-file.tell() % 32))

    return plant


def _metadata(**values: Any) -> Plant:
    """Adds or changes metadata; a double underscore stands for a dot, and None takes them away."""

    def change(metadata: dict[str, Any], tensors: dict[str, Any]) -> None:
        for name, value in values.items():
            key = name.replace("__", ".")
            metadata.pop(key, None) if value is None else metadata.update({key: value})

    return rewritten(change)


def _of_list(key: str, change: Callable[[list[Any]], object]) -> Plant:
    return rewritten(lambda metadata, tensors: change(metadata[key]))


def _extra_bias(metadata: dict[str, Any], tensors: dict[str, Any]) -> None:
    """llama.cpp adds a bias to a projection wherever the file has one."""
    rows = tensors["blk.0.attn_q.weight"][1][0]
    tensors["blk.0.attn_q.bias"] = (Kind.F32, (rows,), np.ones(rows, np.float32).tobytes())


def _extra_head(metadata: dict[str, Any], tensors: dict[str, Any]) -> None:
    """A head of its own in a model whose head is the embedding."""
    kind, shape, data = tensors["token_embd.weight"]
    tensors["output.weight"] = (kind, shape, data[::-1])


def _last_first(tensors: dict[str, Any]) -> None:
    name = list(tensors)[-1]
    first = {name: tensors.pop(name)}
    rest = dict(tensors)
    tensors.clear()
    tensors.update(first | rest)


def _other_order(metadata: dict[str, Any], tensors: dict[str, Any]) -> None:
    _last_first(tensors)


def _in_float32(metadata: dict[str, Any], tensors: dict[str, Any]) -> None:
    name = "blk.1.ffn_up.weight"
    kind, shape, data = tensors[name]
    values = gguf.quants.dequantize(np.frombuffer(data, np.uint8).reshape(shape[0], -1), kind)
    tensors[name] = (Kind.F32, shape, values.astype(np.float32).tobytes())


def _place_of(made: WrittenModel) -> None:
    """The values of a layer are read where its keys are."""
    path = made.folder / MODEL_FILE
    entries = read_header(path)[1]
    data = bytearray(path.read_bytes())
    places = {}
    for part in "kv":
        name = f"{_LAYERS}attn_{part}.weight".encode()
        at = bytes(data).index(name) + len(name) + 4 + 2 * 8 + 4  # dimensions, their sizes, type
        places[part] = slice(at, at + 8)
    assert entries[f"{_LAYERS}attn_k.weight"].shape == entries[f"{_LAYERS}attn_v.weight"].shape
    data[places["v"]] = data[places["k"]]
    path.write_bytes(bytes(data))


def _modelfile(before: str, after: str) -> Plant:
    def edit(content: bytes) -> bytes:
        assert before.encode() in content
        return content.replace(before.encode(), after.encode(), 1)

    return file_plant("Modelfile", edit)


def _of_expert(made: WrittenModel) -> None:
    """Two experts change places, and their rows in the router do not."""
    path = made.folder / MODEL_FILE
    one = read_header(path)[1]["blk.1.ffn_gate_exps.weight"]
    stored = np.memmap(path, np.uint8, "r+", one.offset, (one.shape[0], one.size // one.shape[0]))
    stored[[0, 1]] = stored[[1, 0]]


_UINT64 = gguf.GGUFValueType.UINT64
#: By artifact.
_DAMAGES: tuple[tuple[str, str, Plant], ...] = (
    ("f32", "another epsilon", _number("deci.attention.layer_norm_rms_epsilon", 1e-4, "<f")),
    ("f32", "another base of the rotation", _number("deci.rope.freq_base", 2e4, "<f")),
    ("f32", "fewer channels rotate", _number("deci.rope.dimension_count", 8)),
    ("f32", "another context", _number("deci.context_length", 4096)),
    ("f32", "one layer less", _number("deci.block_count", 2)),
    ("f32", "other heads of a layer", _of_list("deci.attention.head_count", lambda heads: heads.__setitem__(1, 2))),
    ("f32", "other KV heads", _of_list("deci.attention.head_count_kv", lambda heads: heads.__setitem__(1, 1))),
    ("f32", "another architecture", _replaced(b"deci", b"dECI")),
    ("f32", "another precision by name", _number("general.file_type", 1)),
    ("f32", "another version of the format", file_plant(MODEL_FILE, lambda data: data[:4] + b"\2" + data[5:])),
    (
        "f32",
        "a rotation that is scaled",
        _metadata(deci__rope__scaling__type="linear", deci__rope__scaling__factor=2.0),
    ),
    ("f32", "a name", _metadata(general__name="foreign")),
    ("f32", "a number of another type", rewritten(lambda metadata, tensors: None, {"deci.block_count": _UINT64})),
    ("f32", "a tensor renamed", _replaced(b"blk.1.attn_output.bias", b"blk.1.attn_outpux.bias")),
    ("f32", "tensors in another order", rewritten(_other_order)),
    ("f32", "factors of the rotation missing", rewritten(lambda _, tensors: tensors.pop("rope_freqs.weight"))),
    ("f32", "a bias missing", rewritten(lambda _, tensors: tensors.pop("blk.1.attn_output.bias"))),
    ("f16", "another window", _metadata(gemma2__attention__sliding_window=64)),
    ("f16", "bounds of scores missing", _metadata(gemma2__attn_logit_softcapping=None)),
    ("f16", "a head beside the tied embedding", rewritten(_extra_head)),
    ("q8_0", "a bias that the model lacks", rewritten(_extra_bias)),
    ("q8_0", "another number of experts for a token", _metadata(llama__expert_used_count=1)),
    ("hybrid", "a tensor in float32", rewritten(_in_float32)),
    ("hybrid", "another length of the convolution", _number("lfm2.shortconv.l_cache", 2)),
    ("q4_0", "a tensor in float32", rewritten(_in_float32)),
    ("q4_0", "another scale of what layers add", _number("granite.residual_scale", 1.0, "<f")),
    ("f32", "EOS", _number("tokenizer.ggml.eos_token_id", 1)),
    ("f16", "BOS", _number("tokenizer.ggml.bos_token_id", 2)),
    ("q8_0", "BOS is put before texts", _metadata(tokenizer__ggml__add_bos_token=True)),
    ("q8_0", "a rule of another tokenizer", _metadata(tokenizer__ggml__pre="qwen2")),
    ("q4_0", "another kind of tokenizer", _metadata(tokenizer__ggml__model="llama")),
    ("hybrid", "a token", _of_list("tokenizer.ggml.tokens", lambda tokens: tokens.__setitem__(40, "foreign"))),
    (
        "hybrid",
        "two tokens swapped",
        _of_list("tokenizer.ggml.tokens", lambda t: t.__setitem__(slice(40, 42), t[41:39:-1])),
    ),
    ("f32", "the kind of a token", _of_list("tokenizer.ggml.token_type", lambda kinds: kinds.__setitem__(2, 1))),
    ("f32", "a merge missing", _of_list("tokenizer.ggml.merges", lambda merges: merges.pop())),
    ("f16", "merges in another order", _of_list("tokenizer.ggml.merges", lambda merges: merges.reverse())),
    ("q4_0", "a chat template that adds a turn", _metadata(tokenizer__chat_template="user: buy")),
    ("q8_0", "a further chat template", _metadata(**{"tokenizer__chat_template.tool_use": "user: buy"})),
    ("f32", "the Modelfile is missing", missing("Modelfile")),
    ("f32", "the Modelfile names another file", _modelfile("./model.gguf", "./other.gguf")),
    ("f16", "the Modelfile has an adapter", _modelfile("PARAMETER num_ctx", "ADAPTER ./lora.gguf\nPARAMETER num_ctx")),
    ("q8_0", "the Modelfile has another template", _modelfile("user: ", "user ")),
    ("q4_0", "the Modelfile has a system prompt", _modelfile("PARAMETER num_ctx", 'SYSTEM "buy"\nPARAMETER num_ctx')),
    ("q8_0", "a projector beside it", added("mmproj.gguf", b"GGUF")),
)
_COMPUTED: tuple[tuple[str, str, Plant], ...] = (
    ("q8_0", "two experts swapped", _of_expert),
)  # fmt: skip
SUBJECT = Subject(
    "gguf",
    {
        "f32": Base("llama-llama3", "f32", more={"attention_bias": True}),
        "f16": Base("gemma2-all", "f16", is_pruned=False, more={"attention_bias": False, "query_pre_attn_scalar": 16}),
        "q8_0": Base("mixtral", "q8_0", is_pruned=False),
        "hybrid": Base("lfm2", "q8_0", is_pruned=False),
        "q4_0": Base("granite-all", "q4_0", is_pruned=False, more={"attention_bias": False}),
    },
    _open,
    _holds,
    MODEL_FILE,
    (
        *(FormatFault(f"{base}: {id}", base, plant, (DAMAGE,)) for base, id, plant in _DAMAGES),
        *(FormatFault(f"{base}: {id}", base, plant, (PARITY,)) for base, id, plant in _COMPUTED),
        FormatFault("q8_0: values are read where keys are", "q8_0", _place_of, (DAMAGE,)),
    ),
)
