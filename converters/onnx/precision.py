"""Precisions in which a graph computes and stores its weights."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, get_args

import onnx_ir as ir
import torch

from converters.mixed import MIXED
from seap_export.common.providers import OWN_FORMAT, PROVIDERS, DialectName, Dtype
from seap_export.common.toml_file import either
from seap_export.errors import UsageError
from seap_export.pruning.rounding.grid import BITS, BlockQuantization, Way

PrecisionName = Literal["fp32", "fp16", "bf16", "int8", "int4", "w8a8", "w4a8"]
PRECISIONS: tuple[PrecisionName, ...] = get_args(PrecisionName)
#: The bits of weights in precisions whose products are of integers: each row of a weight has one step, each token one
#: scale.
INTEGERS: Mapping[str, int] = MappingProxyType({"w8a8": 8, "w4a8": 4})
#: How a matrix may be rounded where each has bits of its own. Experts are read as they are stored, so that a kernel
#: must have their bits.
WAYS = (
    *(Way(bits, size, of_experts=False) for bits in BITS for size in (32, 64) if (bits, size) != (8, 32)),
    *(Way(bits, 32, of_experts=True) for bits in (4, 8)),
)

#: The usual number of quantised weights that share a scale.
BLOCK_SIZE = 32
_SCALE_BYTES = 2
_BITS: dict[str, int] = {"int8": 8, "int4": 4, **INTEGERS}
_TORCH: dict[Dtype, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_ONNX: dict[Dtype, ir.DataType] = {
    "fp32": ir.DataType.FLOAT,
    "fp16": ir.DataType.FLOAT16,
    "bf16": ir.DataType.BFLOAT16,
}


@dataclass(frozen=True)
class Precision:
    """How a graph computes and what it stores.

    Attributes:
        dtype: Dtype of activations, caches and unquantised weights. Logits are always float32.
        quantization: Quantisation of the weight matrices; None: they are stored in `dtype`.
    """

    dtype: Dtype = "fp32"
    quantization: BlockQuantization | None = None

    def __post_init__(self) -> None:
        if self.dtype not in _TORCH:
            raise ValueError(f"dtype must be one of {', '.join(_TORCH)}, not {self.dtype}")

    @property
    def name(self) -> PrecisionName:
        """The usual name, which describes the weights; where matrices have different bits, that of the most usual."""
        grid = self.quantization
        if grid is None:
            return self.dtype
        return next(name for name in PRECISIONS if _BITS.get(name) == grid.bits and (name in INTEGERS) == grid.rows)

    @property
    def label(self) -> str:
        """The name that users give it: `name`, or `mixed-3.5`."""
        average = None if self.quantization is None else self.quantization.average
        return self.name if average is None else f"{MIXED}{average:g}"

    @property
    def torch_dtype(self) -> torch.dtype:
        return _TORCH[self.dtype]

    @property
    def onnx_dtype(self) -> ir.DataType:
        """The ONNX data type that `dtype` names."""
        return _ONNX[self.dtype]

    @property
    def scale_dtype(self) -> ir.DataType:
        """The ONNX data type of the scales of quantised weights: 16 bits, which hold all that there are."""
        return self.onnx_dtype if self.dtype_bytes == _SCALE_BYTES else ir.DataType.FLOAT16

    @property
    def dtype_bytes(self) -> int:
        return self.torch_dtype.itemsize

    @property
    def read_bytes(self) -> float:
        """Bytes that a product reads of a weight: in the bits of its kernel, with scales in `dtype`."""
        grid = self.quantization
        if grid is None:
            return float(self.dtype_bytes)
        bits = grid.bits if grid.average is None else grid.average - 8 * _SCALE_BYTES / grid.block_size
        if grid.rows:
            return 1.0
        zero_point = 0 if grid.symmetric else grid.bits / 8
        return (
            max(bits, kernel_bits(math.ceil(bits)) if grid.average is None else 4) / 8
            + (self.dtype_bytes + zero_point) / grid.block_size
        )

    @property
    def weight_bytes(self) -> float:
        """Bytes of a weight in a linear layer, including its share of scale and zero point."""
        grid = self.quantization
        if grid is None:
            return float(self.dtype_bytes)
        if grid.average is not None:
            return grid.average / 8
        if grid.rows:  # scales of rows are a thousandth
            return 1.0 if grid.bits == _BITS["w8a8"] else grid.bits / 8 + 1 / grid.block_size
        zero_point = 0 if grid.symmetric else grid.bits / 8
        return grid.bits / 8 + (_SCALE_BYTES + zero_point) / grid.block_size


def kernel_bits(bits: int) -> int:
    """The bits of a weight in the products that a runtime has kernels for: 4, or 8 if there are more."""
    return 4 if bits <= 4 else 8


def arithmetic_of(precision: str, average: float | None = None) -> Precision:
    """The `Precision` that a precision's name in any format, such as "q4_k_m", stands for; see `Format.arithmetic`.

    Args:
        average: See `Format.average`.
    """
    if average is not None:
        return Precision("fp32", BlockQuantization(4, average=average))
    bits = int(re.sub(r"\D*(\d+).*", r"\1", precision) or 0)
    names: dict[int, PrecisionName] = {32: "fp32", 16: "bf16" if "bf16" in precision else "fp16", 8: "int8"}
    name = names.get(bits, "int4")
    return Precision(name) if name in ("fp32", "fp16", "bf16") else choose_precision(name)  # type: ignore[arg-type]


def refuse_dialect(provider: str, dialect: DialectName) -> None:
    """Refuses a set of operators that a provider has no kernels for."""
    if dialect not in PROVIDERS[provider].computes:
        others = either(PROVIDERS[provider].computes)
        raise UsageError(f"the {provider} provider has no attention of the dialect {dialect}; use --dialect {others}")


def mixed_precision(average: float, provider: str = "cpu", dialect: DialectName = "fused") -> Precision:
    """The precision whose matrices have bits of their own."""
    if not PROVIDERS[provider].mixes_bits:
        able = either(name for name, row in PROVIDERS.items() if row.mixes_bits)
        raise UsageError(f"the {provider} provider cannot run {MIXED}{average:g}; use int8 or int4, or {able}")
    rounding = BlockQuantization(4, average=average, mix=OWN_FORMAT, ways=WAYS, splits_tables=True)
    return Precision(PROVIDERS[provider].computes[dialect][0], rounding)


def choose_precision(
    name: PrecisionName,
    provider: str = "cpu",
    dialect: DialectName = "fused",
    *,
    activations: Dtype | None = None,
    block_size: int = BLOCK_SIZE,
    symmetric: bool = True,
    embeddings: bool = True,
) -> Precision:
    """The precision of the given name for a provider.

    Args:
        name: A floating-point precision, or int8, int4, w8a8 or w4a8.
        provider: The provider that will run the graph.
        dialect: The graph's set of operators.
        activations: Dtype in which int8 and int4 compute; None: the provider's first.
        block_size: Block size of int8 and int4.
        symmetric: Whether int8 and int4 are symmetric.
        embeddings: Whether int8 and int4 include the embedding and the LM head.

    Raises:
        UsageError: The provider cannot run this precision; the message lists those that it can.
    """
    refuse_dialect(provider, dialect)
    dtypes = PROVIDERS[provider].computes[dialect]
    if name in _BITS:
        dtype = activations or dtypes[0]
        if dtype not in dtypes:
            raise UsageError(
                f"the {provider} provider cannot run {name} with {dtype} activations; use {either(dtypes)}"
            )
        if name in INTEGERS and not PROVIDERS[provider].multiplies_int8:
            able = either(other for other, row in PROVIDERS.items() if row.multiplies_int8)
            raise UsageError(
                f"the {provider} provider cannot run {name}; use int{_BITS[name]}, or the provider {able}"
            )
        rounding = BlockQuantization(_BITS[name], block_size, symmetric, embeddings, rows=name in INTEGERS)
        return Precision(dtype, rounding)
    if name not in dtypes:
        quantised = [other for other in _BITS if other not in INTEGERS or PROVIDERS[provider].multiplies_int8]
        others = either(dtypes if dialect == "standard" else [*dtypes, *quantised])
        standard = ", or the dialect standard" if name in PROVIDERS[provider].computes.get("standard", ()) else ""
        raise UsageError(f"the {provider} provider cannot run {name}; use {others}{standard}")
    return Precision(name)  # type: ignore[arg-type]
