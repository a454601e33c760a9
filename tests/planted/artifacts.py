"""Good artifacts to plant faults in, made by the command line: all families, dialects and precisions of the CPU."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from planted.editing import Artifact
from support.corpora import write_task_corpora
from support.editing import set_json
from support.models import write_micro_model
from support.variations import VARIATIONS

from seap_export.cli import main

CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
_FEW = ("--no-quality", "--no-speed", "--set", "samples=24", "--set", "held_out=6", "--set", "prompts=1")
_EXACT = (("--precision", "fp32"), ("--logits", "all"))
_STANDARD = ("--set", "dialect=standard")
_WINDOW = {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}
_LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


@dataclass(frozen=True)
class Base:
    """A good artifact: a model's config, and the options of its export.

    Attributes:
        ratios: Of the variants, of which the first is tampered with; 0 leaves all layers alike.
        options: Of the export, which otherwise is in fp32 with all logits.
        tasks: One, or two and with them a router.
    """

    config: dict[str, Any] = field(hash=False)
    ratios: tuple[str, ...] = ("0.2",)
    options: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ("a",)

    @property
    def variant(self) -> str:
        return f"{self.tasks[0]}-{self.ratios[0]}"

    @property
    def precision(self) -> str:
        asked = dict(zip(self.options, self.options[1:], strict=False))
        return "mixed" if "--format" in asked else asked.get("--precision", "fp32")


BASES: dict[str, Base] = {
    # Layers that are all alike, so that what belongs to one fits another.
    "whole": Base({"model_type": "llama", "rope_scaling": _LLAMA3}, ratios=("0",)),
    "routed": Base({"model_type": "llama", "attention_bias": True, "mlp_bias": True}, tasks=("a", "b")),
    "tied": Base(
        {"model_type": "llama", "tie_word_embeddings": True}, ratios=("0.2", "0.4"), options=("--logits", "last")
    ),
    "standard": Base({"model_type": "mistral", "sliding_window": 5}, options=(*_STANDARD, "--layout", "uniform")),
    "window": Base(
        {"model_type": "mistral", "sliding_window": 5}, options=("--precision", "int8", "--logits", "last")
    ),
    "half": Base({"model_type": "llama"}, options=("--precision", "fp16", *_STANDARD)),
    "int4": Base({"model_type": "llama"}, options=("--precision", "int4")),
    "rows": Base({"model_type": "llama"}, options=("--precision", "w8a8")),
    "steps": Base({"model_type": "llama"}, options=("--precision", "w4a8")),
    "mixed": Base(
        {"model_type": "llama", "vocab_size": 1100}, options=("--format", "onnx:mixed-3.5", "--logits", "last")
    ),
    "points": Base({"model_type": "qwen2", **_WINDOW}, options=("--precision", "int4", "--set", "asymmetric=true")),
    "gemma3": Base(VARIATIONS["gemma3-all"]),
    "gemma2 standard": Base(VARIATIONS["gemma2-all"], options=_STANDARD),
    "phi3": Base(VARIATIONS["phi3-all"], options=("--logits", "last")),
    "experts": Base(VARIATIONS["gpt_oss"], options=("--precision", "fp16")),
}


def make(name: str, folder: Path) -> Artifact:
    """Exports a base into `folder`/out; its dense model stands at `folder`/m."""
    base = BASES[name]
    model = write_micro_model(folder / "m", **base.config)
    set_json(model / "tokenizer_config.json", chat_template=CHAT_TEMPLATE)
    write_task_corpora(folder)
    tasks = [part for task in base.tasks for part in ("--task", f"{task}={folder / task}.jsonl")]
    ratios = [part for ratio in base.ratios for part in ("--ratio", ratio)]
    usual = [part for option in _EXACT if option[0] not in base.options for part in option]
    usual = [] if "--format" in base.options else usual
    arguments = ["export", str(model), *tasks, *ratios, *_FEW, *usual, *base.options]
    result = CliRunner().invoke(main, [*arguments, "--threads", "1", "--quiet", "--out", str(folder / "out")])
    assert result.exit_code == 0, result.stderr
    return Artifact(folder / "out", base.variant)
