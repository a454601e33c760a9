"""The steps of a variant in one format: its files, and their parity."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from converters.format import Format
from converters.formats import row_of
from seap_export.model.families import Attention
from seap_export.pipeline.cost.cost import Cost, Disk, Rates, quantization_factor
from seap_export.pipeline.cost.workload import GRAPH_BYTES, KeptPart, TokenCounts
from seap_export.pipeline.folder.contents import Export
from seap_export.pipeline.folder.keys import RELEASE
from seap_export.pipeline.folder.names import parity_file
from seap_export.pipeline.folder.rounded import write_format
from seap_export.pipeline.gate.parity import check_parity, held_out_prompts, write_report
from seap_export.pipeline.progress import Advance
from seap_export.pipeline.request.settings import ParitySettings
from seap_export.pipeline.steps.planned_work import PlannedWork
from seap_export.pipeline.steps.single.rounding import RoundingStep
from seap_export.pipeline.steps.single.variant import OfVariant, ShrinkStep
from seap_export.pipeline.steps.step import StepContext
from seap_export.pruning.rounding.grid import BlockQuantization
from validation.parity.report import SCHEMA as PARITY_SCHEMA
from validation.parity.run import MAX_PROMPT_TOKENS
from validation.prompts import BATCH_ROWS, CALL_TOKENS, KEPT_TOKENS, RANDOM_TOKENS
from validation.runtimes.table import runtime_row, runtime_title

#: Increased when the same inputs give another report than before.
_PARITY = 8
#: Tokens that parity runs besides its long prompt, and decode steps.
_PARITY_TOKENS, _DECODE_STEPS = 1000, 150


@dataclass(frozen=True)
class FormatStep(OfVariant):
    """Writes the files of a format."""

    cost = Cost(
        "",
        lambda model, tokens, rates: 4 * (model.linear + model.head) / rates.memory_bytes,  # read once, in float32
        effort=100.0,
        format_factor=quantization_factor,
        count_disk=lambda model, tokens: Disk(
            model.folder_bytes(model.work.format) + GRAPH_BYTES * len(model.work.spec.layers)
        ),
        # A layer of the variant, or the embedding, as it is stored and in float32.
        count_memory=lambda model, tokens: max(8 * model.kept * model.layer_weights, 8 * model.head),
    )

    before: ShrinkStep | RoundingStep
    folder: str
    format: Format

    @property
    def name(self) -> str:
        return f"{self.variant}/{self.folder}"

    @property
    def planned_work(self) -> PlannedWork:
        return replace(super().planned_work, format=self.format)

    @property
    def label(self) -> str:
        return f"{self.variant}: writing {row_of(self.format).title}"

    @property
    def units(self) -> int:
        return self.plan.ranking.units

    def _inputs(self) -> dict[str, Any]:
        settings = self.format.settings()
        release = settings.pop("version")
        return {"format": self.format.name, **settings, "weights": self.before.key, RELEASE: release}

    def make(self, work: StepContext, path: Path, advance: Advance) -> None:
        write_format(self.format, work.folder / self.before.name, path, advance)


def format_step(hf: ShrinkStep, folder: str, format: Format, grid: BlockQuantization | None) -> FormatStep:
    return FormatStep(hf if grid is None else RoundingStep(hf, grid), folder, format)


def _parity_seconds(model: KeptPart, tokens: TokenCounts, rates: Rates) -> float:
    run = 2 * (_PARITY_TOKENS + model.work.long_tokens)
    return run * (model.active + model.head / 2) / rates.operations + (
        2 * _DECODE_STEPS * model.bytes / rates.memory_bytes
    )


def _parity_factor(format: Format) -> float:
    """For quantised weights torch runs twice; ONNX Runtime makes up for that with fewer cases."""
    other = runtime_row(format.runtimes[0]).parity_factor
    return 1.0 if other is None else other * quantization_factor(format)


def _parity_disk(model: KeptPart, tokens: TokenCounts) -> Disk:
    """Torch's logits and caches, in float32, of the prompts, the batch's rows and the other cases."""
    work, spec = model.work, model.work.spec
    rows = work.prompts + max(0, BATCH_ROWS - work.prompts)
    short = rows * MAX_PROMPT_TOKENS + 1 + RANDOM_TOKENS + (rows + 2) * work.decode_steps
    logits = 4 * spec.vocab_size * (short + KEPT_TOKENS + work.decode_steps)
    cached = model.kept * sum(2 * 4 * one.num_key_value_heads * one.head_dim for one in spec.all(Attention))
    return Disk(temporary=logits + round(cached * (short + work.long_tokens)))


def _parity_memory(model: KeptPart, tokens: TokenCounts) -> float:
    """ONNX Runtime's mapped file, the copies of its matrices that kernels pack, and the logits of a call."""
    file = model.weight_bytes(model.work.format)
    copies = file * model.linear / (model.linear + model.head)
    return file + copies + 4 * model.work.spec.vocab_size * CALL_TOKENS


@dataclass(frozen=True)
class ParityStep(OfVariant):
    """Compares the files of a format, in the first of its runtimes, with torch."""

    cost = Cost(
        "parity",
        _parity_seconds,
        effort=1.4,
        always=6.0,
        format_factor=_parity_factor,
        count_disk=_parity_disk,
        count_memory=_parity_memory,
    )
    is_folder = False

    before: FormatStep
    settings: ParitySettings

    @property
    def runtime(self) -> str:
        """The runtime that is compared with torch: the first of the format."""
        return self.before.format.runtimes[0]

    @property
    def name(self) -> str:
        return f"{self.variant}/{parity_file(self.before.folder)}"

    @property
    def planned_work(self) -> PlannedWork:
        return replace(super().planned_work, format=self.before.format)

    @property
    def label(self) -> str:
        return f"{self.variant}: comparing {runtime_title(self.runtime)} with torch"

    @property
    def reused(self) -> str:
        return f"{self.variant}: reused"

    @property
    def prompts(self) -> list[str]:
        """The held-out prompts that both runtimes are given."""
        splits = [step.split for step in self.plan.ranking.calibrations]
        held_out = [[(sample.prompt, sample.completion) for sample in split.held_out] for split in splits]
        return held_out_prompts(held_out, self.settings.prompts)

    def _inputs(self) -> dict[str, Any]:
        settings = self.settings
        return {
            self.before.name: self.before.key,
            "runtime": self.runtime,
            **{name: getattr(settings, name) for name in ("provider", "decode_steps", "long_tokens")},
            "limits": [list(limit) for limit in settings.limits.given],
            "prompts": self.prompts,
            RELEASE: [PARITY_SCHEMA, _PARITY],
        }

    def make(self, work: StepContext, path: Path, advance: Advance) -> None:
        """Writes the parity report, whatever its verdict."""
        variant = Export(work.folder).variant(self.variant)
        report = check_parity(
            variant,
            self.before.folder,
            self.runtime,
            self.prompts,
            self.settings,
            advance,
            work.compute,
            work.progress.say,
        )
        write_report(report, path)
