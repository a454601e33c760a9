"""The shapes, tokens and settings from which the cost of an export's steps follows."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from converters.format import Format
from converters.formats import format_class
from converters.hf.format import HfFormat, dtype_name
from seap_export.common.json_file import read_json
from seap_export.common.providers import OWN_FORMAT
from seap_export.corpus import Sample
from seap_export.model.families import LayerSpec, ModelSpec
from seap_export.model.layers.compute import Compute
from seap_export.model.layers.working_memory import working_bytes
from seap_export.model.sources.source import Source
from seap_export.model.vocabulary.table import Vocabulary
from seap_export.pipeline.request.export_request import ExportRequest
from seap_export.pruning.plan.settings import PlanSettings
from seap_export.pruning.plan.sublayers import options_type
from validation.parity.run import DECODE_STEPS, LONG_TOKENS
from validation.speed.interval import FEWEST_RUNS

#: Bytes of a graph for each layer, and of an artifact's small files.
GRAPH_BYTES, _SMALL = 5000, 20_000


@dataclass(frozen=True)
class TokenCounts:
    """The tokens of a task, or of all tasks of a mixture.

    Attributes:
        written_tokens: Tokens of the answers that it writes.
    """

    calibration_tokens: int
    held_out_tokens: int
    shared_tokens: int = 0
    tasks: int = 1
    asked_tokens: int = 0
    written_tokens: int = 0


@dataclass(frozen=True)
class Workload:
    """The model and the settings that the cost of every step depends on.

    Attributes:
        is_folder: Whether the dense model is a folder that transformers loads; if not, it is written as one.
    """

    spec: ModelSpec
    stored: torch.dtype
    format: Format = format_class(OWN_FORMAT)("fp32")
    plan: PlanSettings = PlanSettings(min_tokens=0)
    prompts: int = 4
    decode_steps: int = DECODE_STEPS
    long_tokens: int = LONG_TOKENS
    runs: int = FEWEST_RUNS
    tokenizer_bytes: int = 0
    is_folder: bool = True

    @property
    def hf(self) -> Format:
        """The format of the model folder, in the dtype of the dense model."""
        return HfFormat(dtype_name(self.stored))

    def beside_weights(self, format: Format) -> int:
        """About how many bytes a written folder takes besides its `size`: tokenizer, graph and settings."""
        return self.files(format) + GRAPH_BYTES * len(self.spec.layers)

    def files(self, format: Format) -> int:
        """About how many bytes the small files of a folder take, unless `size` counts them."""
        return _SMALL + (0 if format.size_has_tokenizer else self.tokenizer_bytes)

    def with_tokens(self, vocabulary: Vocabulary | None) -> Workload:
        """The workload of a variant that keeps these tokens; None: all."""
        if vocabulary is None:
            return self
        size = self.tokenizer_bytes * len(vocabulary) // vocabulary.of
        return replace(self, spec=self.spec.with_tokens(len(vocabulary)), tokenizer_bytes=size)


def workload(source: Source, request: ExportRequest) -> Workload:
    """The workload of an export, in the default format, which each `PlannedWork` replaces by its own."""
    parity, config = request.parity, source.files[0]
    with tempfile.TemporaryDirectory() as folder:
        source.write_tokenizer(Path(folder))
        tokenizer_bytes = sum(path.stat().st_size for path in Path(folder).iterdir())
    return Workload(
        spec=source.spec,
        stored=source.dtype,
        plan=request.plan,
        prompts=parity.prompts,
        decode_steps=parity.decode_steps,
        long_tokens=min(parity.long_tokens, source.spec.max_position_embeddings),
        tokenizer_bytes=tokenizer_bytes,
        is_folder=config.name == "config.json" and read_json(config).get("model_type") == source.config["model_type"],
    )


def at_most(texts: Mapping[str, Sequence[Sample]], max_length: int) -> dict[str, int]:
    """Tokens that each task's texts have at most, known without a tokenizer."""
    return {
        name: sum(min(max_length, len(sample.text.encode("utf-8")) + 1) for sample in samples)
        for name, samples in texts.items()
    }


class KeptPart:
    """Sizes of a model of which a fraction of the prunable weights is kept.

    Attributes:
        work: The dense model, and the settings of the work.
        kept: The fraction of the prunable weights that is kept.
        linear: Prunable weights that are kept.
        dense_linear: Prunable weights of the dense model.
        active: Prunable weights that are kept and compute a token: of experts, the chosen ones.
        dense_active: Prunable weights of the dense model that compute a token.
        head: Weights of the LM head, and of the embedding.
        squares: Sum of the squares of the widths of all inputs of output projections.
        cubes: Sum of the cubes of these widths.
        outputs: Sum of the products of these widths and hidden_size: the weights of all output projections.
        bytes: Size of the weights in the format that a decode step reads.
    """

    def __init__(self, work: Workload, kept: float) -> None:
        spec, widths = work.spec, work.spec.channels
        self.work, self.kept = work, kept
        self.dense_linear = sum(spec.prunable_weights(layer) for layer in range(len(spec.layers)))
        self.linear = kept * self.dense_linear
        self.dense_active = sum(sublayer.active_weights(spec.hidden_size) for sublayer in spec.sublayers)
        self.active = kept * self.dense_active
        self.head = spec.vocab_size * spec.hidden_size
        self.squares = sum((kept * width) ** 2 for width in widths)
        self.cubes = sum((kept * width) ** 3 for width in widths)
        self.outputs = sum(spec.hidden_size * kept * width for width in widths)
        dense_bytes = work.format.size(spec)
        self.bytes = dense_bytes * (self.linear + self.head) / (self.dense_linear + self.head)

    @property
    def is_whole(self) -> bool:
        """Whether nothing is removed, so that there is nothing to plan, and nothing to make up for."""
        return self.kept == 1.0

    @property
    def is_refitted(self) -> bool:
        """Whether a refit makes up for what is removed."""
        return self.work.plan.is_refitted and not self.is_whole

    @property
    def refit_systems(self) -> float:
        """Multiply-adds that solve the systems of a refit, in float64."""
        return self.cubes / 3 + 2 * self.work.spec.hidden_size * self.squares

    @property
    def single_channels(self) -> int:
        """Channels of the dense model that go one by one, such as neurons."""
        spec = self.work.spec
        return sum(sublayer.channels for sublayer in spec.sublayers if sublayer.unit == 1 or sublayer.blocks > 1)

    @property
    def channels(self) -> int:
        """Inputs of all output projections of the dense model."""
        return sum(self.work.spec.channels)

    @property
    def widest(self) -> int:
        """Inputs of the widest output projection of the dense model."""
        return max(self.work.spec.channels)

    @property
    def layer_weights(self) -> int:
        """Weights of the largest layer of the dense model."""
        spec = self.work.spec
        return max(sum(map(math.prod, spec.layer_tensors(layer).values())) for layer in range(len(spec.layers)))

    @property
    def working_bytes(self) -> int:
        """Bytes of memory that calibration and refit need besides hidden states."""
        return working_bytes(self.work.spec, Compute().batch_tokens)

    def hidden_bytes(self, tokens: TokenCounts) -> int:
        """Bytes of the hidden states of the calibration texts, in float32."""
        return 4 * self.work.spec.width * tokens.calibration_tokens

    def weight_bytes(self, format: Format) -> int:
        """About how many bytes the weight files of a format take."""
        spec, removed = self.work.spec, self.dense_linear - self.linear
        whole = format.size(spec)
        if not removed:
            return whole
        thinner = spec.with_layers(tuple(_thinner(layer) for layer in spec.layers))
        per_weight = (whole - format.size(thinner)) / max(1, spec.num_parameters() - thinner.num_parameters())
        return round(whole - removed * per_weight)

    def folder_bytes(self, format: Format) -> int:
        """About how many bytes the folder of a format takes, without a graph."""
        return self.weight_bytes(format) + self.work.files(format)

    @property
    def dense_folder_bytes(self) -> int:
        """Bytes of the dense model if it is written as a folder that transformers loads; else 0."""
        return 0 if self.work.is_folder else KeptPart(self.work, 1.0).folder_bytes(self.work.hf)


def _thinner(layer: LayerSpec) -> LayerSpec:
    """The layer with half of its last sublayer that can be cut."""
    last = [sublayer for sublayer in layer.sublayers if sublayer.whole_because is None][-1:]
    return LayerSpec(
        tuple(
            options_type(sublayer).about(sublayer, 0.5) if sublayer in last else sublayer
            for sublayer in layer.sublayers
        )
    )
