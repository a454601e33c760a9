"""GGUF files of llama.cpp as a model source: their weights in the layout of Hugging Face, and a config.json.

The header is walked before the gguf library reads it: the library trusts the counts it finds, so that a
damaged file would cost it minutes or all memory.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import gguf
import numpy as np
import torch
from gguf.constants import GGML_QUANT_SIZES

from seap_export.errors import InputError
from seap_export.families import Family, family_of_gguf

__all__ = ["GgufFile", "GgufReader", "GgufTensor", "gguf_config"]

_STRING, _ARRAY = int(gguf.GGUFValueType.STRING), int(gguf.GGUFValueType.ARRAY)
#: Bytes of each scalar metadata type (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
_SCALAR_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_MAX_ENTRIES, _MAX_ITEMS, _MAX_DIMENSIONS = 100_000, 4_000_000, 4
_DAMAGED = (ValueError, LookupError, struct.error, ArithmeticError, MemoryError, TypeError)
#: What a GGUF tensor is called in `Family.names`; projections carry a suffix, `.weight` or `.bias`.
_OUTER = {"token_embd.weight": "embed_tokens", "output_norm.weight": "norm", "output.weight": "lm_head"}
_LAYER = {
    "attn_norm.weight": "input_layernorm",
    "attn_q_norm.weight": "q_norm",
    "attn_k_norm.weight": "k_norm",
    "ffn_norm.weight": "post_attention_layernorm",
}
_PROJECTIONS = {
    "attn_q": "q_proj",
    "attn_k": "k_proj",
    "attn_v": "v_proj",
    "attn_output": "o_proj",
    "ffn_gate": "gate_proj",
    "ffn_up": "up_proj",
    "ffn_down": "down_proj",
}
_ROPE_FACTORS = "rope_freqs.weight"
#: Context lengths that models with llama3 scaling were trained on before it; a file does not tell.
_LLAMA3_CONTEXTS = (8192, 4096, 2048)
_NARROW = {"F16": torch.float16, "BF16": torch.bfloat16}


class _HeaderWalk:
    """Steps over the header of a GGUF file without building anything; raises if it leads out of the file."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = 0

    def check(self) -> None:
        if self._data[:4] != b"GGUF":
            raise ValueError("it does not begin with 'GGUF'")
        self._skip(4)
        version = self._number("<I")
        if version not in (2, 3):
            raise ValueError(f"version {version}, supported are 2 and 3 in little-endian order")
        tensors, entries = self._number("<Q"), self._number("<Q")
        if max(tensors, entries) > _MAX_ENTRIES:
            raise ValueError(f"it announces {tensors} tensors and {entries} metadata entries")
        for _ in range(entries):
            self._text()
            self._value(self._number("<I"))
        for _ in range(tensors):
            self._tensor()

    def _number(self, form: str) -> int:
        (value,) = struct.unpack_from(form, self._data, self._at)
        self._at += struct.calcsize(form)
        return int(value)

    def _skip(self, size: int) -> None:
        if size > len(self._data) - self._at:
            raise ValueError(f"{size} bytes announced at byte {self._at} of {len(self._data)}")
        self._at += size

    def _text(self) -> None:
        self._skip(self._number("<Q"))

    def _value(self, kind: int) -> None:
        if kind == _STRING:
            self._text()
        elif kind != _ARRAY:
            self._skip(self._scalar_bytes(kind))
        else:
            item, count = self._number("<I"), self._number("<Q")
            if count > _MAX_ITEMS:
                raise ValueError(f"it announces an array of {count} items")
            if item == _STRING:
                for _ in range(count):
                    self._text()
            else:
                self._skip(count * self._scalar_bytes(item))

    @staticmethod
    def _scalar_bytes(kind: int) -> int:
        if kind not in _SCALAR_BYTES:
            raise ValueError(f"metadata of unknown type {kind}")
        return _SCALAR_BYTES[kind]

    def _tensor(self) -> None:
        self._text()
        dimensions = self._number("<I")
        if not 1 <= dimensions <= _MAX_DIMENSIONS:
            raise ValueError(f"it announces a tensor of {dimensions} dimensions")
        self._skip(8 * dimensions + 4 + 8)


@dataclass(frozen=True)
class GgufTensor:
    """Where a tensor lies: its encoding, its shape (out x in), its first byte in the file and its bytes."""

    kind: gguf.GGMLQuantizationType
    shape: tuple[int, ...]
    offset: int
    size: int


@dataclass(frozen=True)
class GgufFile:
    """The header of a GGUF file; nothing of the file stays mapped.

    Attributes:
        path: The file.
        metadata: Its key/value pairs; arrays are lists.
        tensors: Its tensors, by the name they have in the file.
        family: The family of its architecture.
    """

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, GgufTensor]
    family: Family

    @classmethod
    def open(cls, path: Path) -> GgufFile:
        """Reads and checks the header.

        Raises:
            InputError: The file is missing, truncated, not a GGUF file, one shard of many, or of an
                architecture that is not supported.
        """
        metadata, tensors = _read_header(path)
        if metadata.get("split.count", 0) not in (0, 1):
            raise InputError(
                f"{path}: one of {metadata['split.count']} shards; join them with 'llama-gguf-split --merge' first"
            )
        architecture = str(metadata.get("general.architecture", "(not stated)"))
        return cls(path, metadata, tensors, family_of_gguf(architecture))

    def get(self, key: str, default: Any = None) -> Any:
        """The metadata value `{architecture}.{key}`."""
        return self.metadata.get(f"{self.family.gguf_architecture}.{key}", default)

    def whole(self, key: str, default: int | None = None) -> int:
        """The same, which must be one positive whole number.

        Raises:
            InputError: It is missing without a default, or is a list with one value a layer.
        """
        value = self.get(key, default)
        if isinstance(value, list):
            raise InputError(f"{self.path}: '{key}' differs by layer; only models of uniform layers are supported")
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InputError(f"{self.path}: metadata '{key}' must be a positive whole number, not {value!r}")
        return value

    def read(self, name: str) -> np.ndarray:
        """A tensor by its name in the file, dequantised to float32.

        Raises:
            InputError: Its encoding is not supported, or the file has changed since it was opened.
        """
        tensor = self.tensors[name]
        try:
            raw = np.fromfile(self.path, np.uint8, tensor.size, offset=tensor.offset)
            values: np.ndarray = gguf.quants.dequantize(raw.reshape(math.prod(tensor.shape[:-1]), -1), tensor.kind)
        except NotImplementedError as error:
            raise InputError(
                f"{self.path}: tensor '{name}' is encoded as {tensor.kind.name}, which is not supported; "
                "use a file of another quantisation"
            ) from error
        except (OSError, ValueError) as error:
            raise InputError(f"{self.path}: tensor '{name}' cannot be read ({error}); download it again") from error
        return values.reshape(tensor.shape)


def _read_header(path: Path) -> tuple[Mapping[str, Any], Mapping[str, GgufTensor]]:
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            _HeaderWalk(data).check()
        reader = gguf.GGUFReader(path)
        metadata = {name: field.contents() for name, field in reader.fields.items()}
        tensors = {tensor.name: _tensor(tensor, path.stat().st_size) for tensor in reader.tensors}
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except OSError as error:
        raise InputError(f"{path}: not a readable file ({error.strerror})") from error
    except _DAMAGED as error:
        reason = str(error).replace("\n", " ") or type(error).__name__
        raise InputError(f"{path}: truncated or not a GGUF file ({reason}); download it again") from error
    return MappingProxyType(metadata), MappingProxyType(tensors)


def _tensor(tensor: gguf.ReaderTensor, file_size: int) -> GgufTensor:
    shape = tuple(int(size) for size in reversed(tensor.shape.tolist()))
    block, block_bytes = GGML_QUANT_SIZES[tensor.tensor_type]
    size = math.prod(shape) // block * block_bytes
    if not size or shape[-1] % block:
        raise ValueError(f"tensor '{tensor.name}' of shape {list(shape)} is no whole number of blocks")
    if int(tensor.data_offset) + size > file_size:
        raise ValueError(f"tensor '{tensor.name}' ends after the file")
    return GgufTensor(tensor.tensor_type, shape, int(tensor.data_offset), size)


class GgufReader:
    """A `WeightReader` of a GGUF file: Hugging Face names, rotary rows in Hugging Face order."""

    def __init__(self, file: GgufFile) -> None:
        """Raises `InputError` if the head counts are missing or do not fit the query and key rows."""
        self._file = file
        self._source = {_model_name(file.family, name): name for name in file.tensors if name != _ROPE_FACTORS}
        heads = file.whole("attention.head_count")
        self._heads = {"attn_q": heads, "attn_k": file.whole("attention.head_count_kv", heads)}
        for name in self._source.values():
            heads = self._permuted_heads(name)
            if heads and file.tensors[name].shape[0] % (2 * heads):
                raise InputError(f"{file.path}: rows of '{name}' do not divide into {heads} heads of rotary pairs")
        kinds = {file.tensors[name].kind.name for name in self._source.values()}
        self._dtype = _NARROW.get(next(iter(kinds)), torch.float32) if len(kinds) == 1 else torch.float32

    @property
    def dtype(self) -> torch.dtype:
        """float16 or bfloat16 if all tensors have it, float32 otherwise."""
        return self._dtype

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape (out x in) of every tensor; one the family does not know keeps its GGUF name."""
        return {name: self._file.tensors[source].shape for name, source in self._source.items()}

    def read(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """The named tensors, dequantised.

        Raises:
            InputError: An encoding is not supported, or the file has changed since it was opened.
        """
        return {name: self._read(self._source[name]) for name in names}

    def _read(self, source: str) -> torch.Tensor:
        values = torch.from_numpy(self._file.read(source))
        heads = self._permuted_heads(source)
        if heads:
            # The file holds each head's rows as (pair, half); Hugging Face rotates (half, pair).
            values = values.reshape(heads, -1, 2, *values.shape[1:]).transpose(1, 2).flatten(0, 2)
        return values.to(self._dtype).contiguous()

    def _permuted_heads(self, source: str) -> int:
        """The heads whose rows are interleaved; 0 for a tensor in plain order."""
        part = source.split(".")[-2] if self._file.family.gguf_rotary_rows_permuted else ""
        return self._heads.get(part, 0)


def _model_name(family: Family, name: str) -> str:
    """The Hugging Face name of a GGUF tensor, or the name itself where there is none."""
    prefix, _, rest = name.partition(".")
    if name in _OUTER:
        return family.tensor(_OUTER[name])
    index, _, inner = rest.partition(".")
    stem, _, suffix = inner.partition(".")
    if prefix != "blk" or not index.isdecimal():
        return name
    if _LAYER.get(inner) in family.names:
        return family.tensor(_LAYER[inner], int(index))
    if stem in _PROJECTIONS and suffix in ("weight", "bias"):
        return family.tensor(_PROJECTIONS[stem], int(index)) + f".{suffix}"
    return name


def gguf_config(file: GgufFile) -> dict[str, Any]:
    """The config.json that describes a GGUF file, in the spelling transformers 4.57 and 5 share.

    Raises:
        InputError: Metadata are missing, differ by layer, or ask for something no supported family does.
    """
    family = file.family
    _refuse_unsupported(file)
    if "token_embd.weight" not in file.tensors:
        raise InputError(f"{file.path}: no token embedding; give the GGUF file of a whole language model")
    vocab_size = file.tensors["token_embd.weight"].shape[0]
    hidden_size, heads = file.whole("embedding_length"), file.whole("attention.head_count")
    head_dim = file.whole("attention.key_length", hidden_size // heads)
    theta = _number(file, "rope.freq_base", 10000.0)
    if {file.whole(key, head_dim) for key in ("rope.dimension_count", "attention.value_length")} != {head_dim}:
        raise InputError(f"{file.path}: partial rotation or values of another width than keys are not supported")
    return {
        "architectures": [family.architecture],
        "model_type": family.model_type,
        "vocab_size": vocab_size,
        "hidden_size": hidden_size,
        "intermediate_size": file.whole("feed_forward_length"),
        "num_hidden_layers": file.whole("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": file.whole("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "max_position_embeddings": file.whole("context_length"),
        "rms_norm_eps": _number(file, "attention.layer_norm_rms_epsilon", 1e-6),
        "rope_theta": theta,
        "rope_scaling": _rope_scaling(file, theta, head_dim),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "hidden_act": "silu",
        **_bias_switches(file),
        **_special_ids(file),
        "dtype": str(GgufReader(file).dtype).removeprefix("torch."),
    }


def _number(file: GgufFile, key: str, default: float) -> float:
    """A number, as the shortest decimal that is the same float32: 1e-05 for 9.999999747378752e-06."""
    value = file.get(key, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise InputError(f"{file.path}: metadata '{key}' must be a number, not {value!r}")
    return float(str(np.float32(value)))


def _refuse_unsupported(file: GgufFile) -> None:
    if file.get("expert_count"):
        raise InputError(f"{file.path}: mixtures of experts are not supported; give a dense model")
    if file.get("attention.sliding_window") and file.family.sliding_window == "never":
        raise InputError(f"{file.path}: sliding-window attention is not supported in a GGUF file; give the folder")


def _bias_switches(file: GgufFile) -> dict[str, bool]:
    """The config keys that switch biases on, from the tensors present."""
    present = {name.split(".")[-2] for name in file.tensors if name.startswith("blk.") and name.endswith(".bias")}
    switches: dict[str, bool] = {}
    for part, projection in _PROJECTIONS.items():
        key = file.family.biases.get(projection)
        if isinstance(key, str):
            switches[key] = switches.get(key, False) or part in present
    return switches


def _special_ids(file: GgufFile) -> dict[str, int | None]:
    keys = {"bos_token_id": "bos_token_id", "eos_token_id": "eos_token_id", "pad_token_id": "padding_token_id"}
    return {key: file.metadata.get(f"tokenizer.ggml.{source}") for key, source in keys.items()}


def _rope_scaling(file: GgufFile, theta: float, head_dim: int) -> dict[str, Any] | None:
    factor = _number(file, "rope.scaling.factor", _number(file, "rope.scale_linear", 1.0)) or 1.0
    kind = file.get("rope.scaling.type", "linear")
    if _ROPE_FACTORS in file.tensors:
        if factor != 1.0:
            raise InputError(f"{file.path}: '{_ROPE_FACTORS}' beside a rope scaling factor is not supported")
        return _llama3_scaling(file, theta, head_dim)
    if kind == "none" or (kind == "linear" and factor == 1.0):
        return None
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if kind != "yarn":
        raise InputError(f"{file.path}: rope scaling '{kind}' is not supported; supported: linear, yarn, llama3")
    return _yarn_scaling(file, factor)


def _yarn_scaling(file: GgufFile, factor: float) -> dict[str, Any]:
    usual = {"attn_factor": 1.0, "yarn_attn_factor": 1.0, "yarn_ext_factor": 1.0, "yarn_log_multiplier": 0.0}
    for key, value in usual.items():
        if _number(file, f"rope.scaling.{key}", value) != value:
            raise InputError(f"{file.path}: yarn with 'rope.scaling.{key}' other than {value} is not supported")
    return {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": file.whole(
            "rope.scaling.original_context_length", file.whole("context_length")
        ),
        "beta_fast": _number(file, "rope.scaling.yarn_beta_fast", 32.0),
        "beta_slow": _number(file, "rope.scaling.yarn_beta_slow", 1.0),
    }


def _llama3_scaling(file: GgufFile, theta: float, head_dim: int) -> dict[str, Any] | None:
    """The llama3 parameters behind the factors that a GGUF file stores a frequency."""
    stored = file.read(_ROPE_FACTORS).reshape(-1).astype(np.float64)
    if np.all(stored == 1.0):
        return None
    factor = float(str(np.float32(stored.max())))
    for original in _LLAMA3_CONTEXTS:
        factors = _llama3_factors(theta, head_dim, factor, original)
        if factors.shape == stored.shape and np.allclose(factors, stored, rtol=1e-4, atol=0.0):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": original,
            }
    raise InputError(
        f"{file.path}: the factors in '{_ROPE_FACTORS}' are not those of llama3 rope scaling; other factors a "
        "frequency are not supported; give the Hugging Face folder"
    )


def _llama3_factors(theta: float, head_dim: int, factor: float, original: int) -> np.ndarray:
    """What llama3 scaling (low 1, high 4) divides each frequency by (head_dim / 2)."""
    wavelengths = 2 * math.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
    smooth = np.clip((original / wavelengths - 1.0) / (4.0 - 1.0), 0.0, 1.0)
    return 1.0 / ((1.0 - smooth) / factor + smooth)
