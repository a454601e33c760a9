"""Precisions in which a graph computes and stores its weights."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

import onnx_ir as ir
import torch

from seap_export.common.providers import PROVIDERS, DialectName, Dtype
from seap_export.common.toml_file import either
from seap_export.errors import UsageError
from seap_export.pruning.rounding.grid import BlockQuantization

PrecisionName = Literal["fp32", "fp16", "bf16", "int8", "int4"]
PRECISIONS: tuple[PrecisionName, ...] = get_args(PrecisionName)

#: The usual number of quantised weights that share a scale.
BLOCK_SIZE = 32
_BITS: dict[str, int] = {"int8": 8, "int4": 4}
_NAMES: dict[int, PrecisionName] = {8: "int8", 4: "int4"}
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
        """The name that users give it, which describes the weights."""
        return self.dtype if self.quantization is None else _NAMES[self.quantization.bits]

    @property
    def torch_dtype(self) -> torch.dtype:
        """The torch dtype that `dtype` names."""
        return _TORCH[self.dtype]

    @property
    def onnx_dtype(self) -> ir.DataType:
        """The ONNX data type that `dtype` names."""
        return _ONNX[self.dtype]

    @property
    def dtype_bytes(self) -> int:
        """Bytes of a number in `dtype`."""
        return self.torch_dtype.itemsize

    @property
    def weight_bytes(self) -> float:
        """Bytes of a weight in a linear layer, including its share of scale and zero point."""
        how = self.quantization
        if how is None:
            return float(self.dtype_bytes)
        zero_point = 0 if how.symmetric else how.bits / 8
        return how.bits / 8 + (self.dtype_bytes + zero_point) / how.block_size


def arithmetic_of(precision: str) -> Precision:
    """The `Precision` that a precision's name in any format, such as "q4_k_m", stands for; see `Format.arithmetic`."""
    bits = int(re.sub(r"\D*(\d+).*", r"\1", precision) or 0)
    names: dict[int, PrecisionName] = {32: "fp32", 16: "bf16" if "bf16" in precision else "fp16", 8: "int8"}
    name = names.get(bits, "int4")
    return Precision(name) if name in ("fp32", "fp16", "bf16") else choose_precision(name)  # type: ignore[arg-type]


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
        name: A floating-point precision, or int8 or int4.
        provider: The provider that will run the graph.
        dialect: The graph's set of operators.
        activations: Dtype in which int8 and int4 compute; None: the provider's first.
        block_size: Block size of int8 and int4.
        symmetric: Whether int8 and int4 are symmetric.
        embeddings: Whether int8 and int4 include the embedding and the LM head.

    Raises:
        UsageError: The provider cannot run this precision; the message lists those that it can.
    """
    dtypes = PROVIDERS[provider].computes[dialect]
    if name in _BITS:
        dtype = activations or dtypes[0]
        if dtype not in dtypes:
            raise UsageError(
                f"the {provider} provider cannot run {name} with {dtype} activations; use {either(dtypes)}"
            )
        return Precision(dtype, BlockQuantization(_BITS[name], block_size, symmetric, embeddings))
    if name not in dtypes:
        others = either(dtypes if dialect == "standard" else [*dtypes, *_BITS])
        standard = ", or the dialect standard" if name in PROVIDERS[provider].computes["standard"] else ""
        raise UsageError(f"the {provider} provider cannot run {name}; use {others}{standard}")
    return Precision(name)  # type: ignore[arg-type]
