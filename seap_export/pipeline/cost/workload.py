"""What the cost of an export's steps follows from: shapes, tokens and settings."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from converters.format import Format
from converters.hf.format import HfFormat, dtype_name
from converters.onnx.format import OnnxFormat
from seap_export.corpus import Sample
from seap_export.families import ModelSpec
from seap_export.json_file import read_json
from seap_export.layers.halves import HALVES
from seap_export.pipeline.cost.sizes import format_bytes
from seap_export.pipeline.request.export_request import ExportRequest
from seap_export.sources.source import Source
from seap_export.vocabulary.table import Vocabulary
from validation.parity.run import DECODE_STEPS, LONG_TOKENS
from validation.speed.interval import FEWEST_RUNS

__all__ = ["KeptPart", "Task", "Workload", "at_most", "workload"]


@dataclass(frozen=True)
class Task:
    """The tokens of a task, or of all tasks of a mixture.

    Attributes:
        calibration_tokens: Tokens that it is calibrated on.
        held_out_tokens: Tokens that its quality is measured on.
        elsewhere_tokens: Those of them that the quality of all other variants is measured on, too.
    """

    calibration_tokens: int
    held_out_tokens: int
    elsewhere_tokens: int = 0


@dataclass(frozen=True)
class Workload:
    """What the steps of an export depend on.

    Attributes:
        spec: The dense model.
        stored: Dtype of the safetensors files.
        own: The format that is written and compared.
        eliminates: Whether neurons are ranked by elimination rather than by scores.
        refits: Whether layers are refitted one after another.
        passes: Passes over the calibration texts in which they are distilled then.
        trials: Plans that are tried for a variant.
        prompts: Held-out prompts that parity compares.
        decode_steps: Decode steps after each of them.
        long_tokens: Positions of parity's long prompt.
        runs: Runs of each model in the speed step.
        tokenizer_bytes: Size of the tokenizer's files.
        is_folder: Whether the dense model is a folder that transformers loads; if not, it is written as one.
    """

    spec: ModelSpec
    stored: torch.dtype
    own: Format = OnnxFormat("fp32")
    eliminates: bool = True
    refits: bool = True
    passes: float = 1.0
    trials: int = 0
    prompts: int = 4
    decode_steps: int = DECODE_STEPS
    long_tokens: int = LONG_TOKENS
    runs: int = FEWEST_RUNS
    tokenizer_bytes: int = 0
    is_folder: bool = True

    @property
    def hf(self) -> Format:
        """The format of the model folder."""
        return HfFormat(dtype_name(self.stored))

    def with_tokens(self, vocabulary: Vocabulary | None) -> Workload:
        """The same for a variant that keeps these tokens; None: all."""
        if vocabulary is None:
            return self
        size = self.tokenizer_bytes * len(vocabulary) // vocabulary.of
        return replace(self, spec=self.spec.with_tokens(len(vocabulary)), tokenizer_bytes=size)


def workload(source: Source, request: ExportRequest) -> Workload:
    """What an export of a model depends on, but for the format."""
    parity, config = request.parity, source.files[0]
    with tempfile.TemporaryDirectory() as folder:
        source.write_tokenizer(Path(folder))
        tokenizer_bytes = sum(path.stat().st_size for path in Path(folder).iterdir())
    return Workload(
        spec=source.spec,
        stored=source.reader.dtype,
        eliminates=request.plan.score == "elimination",
        refits=request.plan.compensation == "sequential",
        passes=request.plan.passes,
        trials=request.plan.tried,
        prompts=parity.prompts,
        decode_steps=parity.decode_steps,
        long_tokens=min(parity.long_tokens, source.spec.max_position_embeddings),
        tokenizer_bytes=tokenizer_bytes,
        is_folder=config.name == "config.json" and read_json(config).get("model_type") == source.config["model_type"],
    )


def at_most(texts: Mapping[str, Sequence[Sample]], max_length: int) -> dict[str, int]:
    """Tokens that each task's texts have at most, known without a tokenizer."""
    return {
        name: sum(min(max_length, len(sample.text.encode("utf-8")) + 1) for sample in own)
        for name, own in texts.items()
    }


class KeptPart:
    """Sizes of a model of which a fraction of the attention and MLP weights is kept.

    Attributes:
        work: The dense model, and what is done.
        kept: The fraction.
        linear: Attention and MLP weights that are kept.
        dense_linear: The same of the dense model.
        head: Weights of the LM head, and of the embedding.
        squares: Sum of the squares of the widths of all inputs of o_proj and down_proj.
        cubes: Sum of their cubes.
        outputs: Sum of their products with hidden_size.
        bytes: Size of the weights in the format that a decode step reads.
    """

    def __init__(self, work: Workload, kept: float) -> None:
        spec, layers = work.spec, range(len(work.spec.layers))
        widths = [spec.projection_shape(half, layer)[1] for layer in layers for half in HALVES]
        self.work, self.kept = work, kept
        self.dense_linear = sum(spec.prunable_weights(layer) for layer in layers)
        self.linear = kept * self.dense_linear
        self.head = spec.vocab_size * spec.hidden_size
        self.squares = sum((kept * width) ** 2 for width in widths)
        self.cubes = sum((kept * width) ** 3 for width in widths)
        self.outputs = sum(spec.hidden_size * kept * width for width in widths)
        dense_bytes = format_bytes(work.own, spec)
        self.bytes = dense_bytes * (self.linear + self.head) / (self.dense_linear + self.head)
