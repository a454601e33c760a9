"""Execution providers of ONNX Runtime: one row says all that is known of one.

A further provider is a row here, and a dialect in `converters/onnx/graph/dialects/` if its operators want other
inputs. What only ONNX Runtime can tell, such as whether one works on a machine, is in `seap_export.runtime`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

#: Where the tensors of a session lie, by ONNX Runtime's names.
Device = Literal["cpu", "cuda", "webgpu"]
Dtype = Literal["fp32", "fp16", "bf16"]
#: Sets of operators.
DialectName = Literal["fused", "standard"]
#: The option of the CUDA provider that captures calls as CUDA graphs.
CUDA_GRAPH = "enable_cuda_graph"
#: The entry of a session's configuration with which ONNX Runtime does not add up two products of integers in 16 bits,
#: which may be too few, on x86-64 without VNNI. With AMX, it takes far slower kernels, too; elsewhere nothing changes.
EXACT_INTEGERS: Mapping[str, str] = MappingProxyType({"session.x64quantprecision": "1"})
#: The format that `seap_export.runtime` generates text with, and what runs it there and on these providers. So it is
#: what is written and measured unless something else is asked for, and no other format is named outside its rows.
OWN_FORMAT, OWN_RUNTIME = "onnx", "onnxruntime"
#: Earlier releases run attention of the standard dialect on the CPU, and norms overflow in float16.
_OLDEST_FOR_NVIDIA = "1.31"


@dataclass(frozen=True)
class Plugin:
    """The package that brings a provider to ONNX Runtime, which is installed without it.

    Attributes:
        module: Its Python module, with `get_library_path`.
        requirement: Its name and releases, for pip; the extra of that name in pyproject.toml has the same.
        software: The environment variable that allows an adapter in software, with the value 1.
    """

    module: str
    requirement: str
    software: str


@dataclass(frozen=True)
class Provider:
    """One execution provider.

    Attributes:
        name: On the command line and in saved files.
        ort_name: Of ONNX Runtime.
        device: Where its tensors lie.
        hardware: What it runs on, in words.
        plugin: The package that it comes in; None: it is part of ONNX Runtime.
        oldest: The first release of ONNX Runtime that variants run with; "": any that is allowed.
        fallbacks: The providers that run what it has no operators for.
        libraries: What pip has to install for it.
        error_words: How ONNX Runtime's messages name it or what it needs.
        tells_memory: Whether NVIDIA's driver tells how much memory of its device is free.
        graph_option: The option that captures calls as graphs; None: it cannot, or its results would be wrong.
        computes: The dtypes that it computes in, by dialect; int8 and int4 use the first unless another is asked for.
            Empty: no graphs are written for it, but it runs those for others.
        precision: In which precision a graph is written for it if none is asked for, by dialect.
        rounds_activations: Whether products with int8 and int4 weights round activations to 8 bits.
        accuracy_level: Of products with int8 and int4 weights: 4 lets them round activations to 8 bits, 0 does not.
        narrow_logits: Whether logits of graphs in float16 are in float16.
        caps_scores: Whether its attention has a soft cap of the scores.
        has_addresses: Whether the address of one of its tensors can be calculated with; else it is a handle.
        largest_tensor: Bytes of the largest tensor that can be allocated; None: only memory limits it.
        multiplies_int8: Whether it has products of weights and activations that are integers of 8 bits.
        mixes_bits: Whether matrices of one file may have different numbers of bits.
        longest_call: Tokens of a prompt that run in one call, at most; None: all of them.
        genai_options: Its options in genai_config.json; None: none are needed to choose it.
        product_multiple: What the sizes of an int8 or int4 product must be multiples of for a fast kernel.
        align: What numbers of neurons are multiples of in variants that are made for it.
        group_tolerance: By how much, as a fraction, the loss of a plan may rise for the sake of groups of heads that
            its attention prefers.
    """

    name: str
    ort_name: str
    label: str
    device: Device
    hardware: str = ""
    plugin: Plugin | None = None
    oldest: str = ""
    fallbacks: tuple[str, ...] = ()
    libraries: str = ""
    error_words: tuple[str, ...] = ()
    tells_memory: bool = False
    graph_option: str | None = None
    computes: Mapping[DialectName, tuple[Dtype, ...]] = field(default_factory=dict)
    precision: Mapping[DialectName, str] = field(default_factory=dict)
    rounds_activations: bool = False
    accuracy_level: int = 4
    narrow_logits: bool = False
    caps_scores: bool = True
    has_addresses: bool = True
    largest_tensor: int | None = None
    multiplies_int8: bool = False
    mixes_bits: bool = False
    longest_call: int | None = None
    genai_options: Mapping[str, str] | None = None
    product_multiple: int = 1
    align: int = 1
    group_tolerance: float = 0.0


_CPU = Provider(
    name="cpu",
    ort_name="CPUExecutionProvider",
    label="CPU",
    device="cpu",
    # It casts fp16 matrices to float32: half the file size, but no faster. It has no bf16 product at all.
    computes={"fused": ("fp32", "fp16"), "standard": ("fp32", "fp16")},
    precision={"fused": "int8", "standard": "fp32"},  # see docs/measurements.md
    rounds_activations=True,  # only this makes such weights faster than float32 there; CUDA ignores the level
    multiplies_int8=True,
    mixes_bits=True,
    # Of a call's tokens, attention multiplies each with all others and drops what comes after it.
    longest_call=128,
    align=16,  # measured, see docs/research/measurements.md
)
_CUDA = Provider(
    name="cuda",
    ort_name="CUDAExecutionProvider",
    label="CUDA",
    device="cuda",
    hardware="NVIDIA GPU",
    oldest=_OLDEST_FOR_NVIDIA,
    fallbacks=("cpu",),
    libraries="onnxruntime-gpu[cuda,cudnn]",
    error_words=("CUDA",),
    tells_memory=True,
    graph_option=CUDA_GRAPH,
    # GroupQueryAttention has no float32; Attention, which the standard dialect uses, does.
    computes={"fused": ("fp16", "bf16"), "standard": ("fp16", "bf16", "fp32")},
    precision={"fused": "fp16", "standard": "fp16"},
    narrow_logits=True,  # a cast gains nothing
    # Off, because GenAI then gives prompts a mask as wide as the whole text, which attention takes for one row only.
    genai_options={CUDA_GRAPH: "0"},
    # MatMulNBits of onnxruntime-gpu 1.31 has kernels for up to 5 (int8) or 16 (int4) tokens where the outputs are a
    # multiple of this, and the inputs a multiple of this (int4) or whole blocks (int8).
    product_multiple=8,
    # 128 bytes of float16, which NVIDIA's "Matrix Multiplication Background User's Guide" advises for the A100; its
    # kernels for int4 take multiples of 8, and that for the product of gate and up multiples of 32. No time has been
    # measured there.
    align=64,
    # For what that costs see docs/research/measurements.md. What it gains has not been measured.
    group_tolerance=0.05,
)
_TENSORRT = Provider(
    name="tensorrt",
    ort_name="TensorrtExecutionProvider",
    label="TensorRT",
    device="cuda",
    hardware="NVIDIA GPU",
    oldest=_OLDEST_FOR_NVIDIA,
    fallbacks=("cuda", "cpu"),  # it lacks all operators of com.microsoft
    libraries="onnxruntime-gpu[cuda,cudnn] and tensorrt-cu13, whose folder tensorrt_libs must be on LD_LIBRARY_PATH",
    error_words=("TensorRT", "Tensorrt"),
    tells_memory=True,
)
# What is said of kernels holds for onnxruntime-ep-webgpu 0.4.0; for the smallest cases see docs/research/webgpu.md.
_WEBGPU = Provider(
    name="webgpu",
    ort_name="WebGpuExecutionProvider",
    label="WebGPU",
    device="webgpu",
    hardware="GPU",
    plugin=Plugin("onnxruntime_ep_webgpu", "onnxruntime-ep-webgpu>=0.4,<0.5", "ORT_WEBGPU_EP_ALLOW_SOFTWARE_ADAPTER"),
    oldest="1.31",
    fallbacks=("cpu",),
    error_words=("WebGPU", "webgpu"),
    # Products in float16 are added up in float16, which parity may refuse, and not every adapter has it.
    computes={"fused": ("fp32", "fp16")},
    precision={"fused": "int8"},
    narrow_logits=True,
    accuracy_level=0,  # at 4, products with multiples of 128 inputs round
    caps_scores=False,  # GroupQueryAttention ignores the attribute
    has_addresses=False,
    largest_tensor=(1 << 31) - 4,  # a larger one ends the process
    genai_options={},
    align=64,  # as CUDA; no time has been measured on a GPU
)
PROVIDERS: Mapping[str, Provider] = MappingProxyType({row.name: row for row in (_CPU, _CUDA, _TENSORRT, _WEBGPU)})
#: Those that graphs are written for.
WrittenFor = Literal["cpu", "cuda", "webgpu"]
WRITTEN_FOR = tuple(name for name, row in PROVIDERS.items() if row.computes)
