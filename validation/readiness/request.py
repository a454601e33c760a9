"""What is asked of a run: the model, the folders, the programs, and what is tried on each provider."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from validation.shapes import LLAMA_2_7B, Shape

Provider = Literal["cpu", "cuda"]
#: The ratios of the paper.
RATIOS = (0.2, 0.5)
#: For each provider the precision and the dialect of the graphs that are compared with torch.
FORMS: dict[Provider, tuple[tuple[str, str], ...]] = {
    "cuda": (
        ("fp16", "fused"),
        ("bf16", "fused"),
        ("int8", "fused"),
        ("int4", "fused"),
        ("fp16", "standard"),
        ("bf16", "standard"),
    ),
    "cpu": (("fp32", "fused"), ("fp16", "fused"), ("int8", "fused"), ("int4", "fused"), ("fp32", "standard")),
}


@dataclass(frozen=True)
class Programs:
    """The beginnings of the commands.

    Attributes:
        seap_export: The command line.
        python: An interpreter that has this package.
        genai: An interpreter that has ONNX Runtime GenAI for the provider.
        make_genai: Makes that interpreter where it is missing.
        nvidia_smi: Names the card and the driver.
    """

    seap_export: tuple[str, ...]
    python: tuple[str, ...]
    genai: tuple[str, ...]
    make_genai: tuple[str, ...]
    nvidia_smi: tuple[str, ...] = ("nvidia-smi",)


@dataclass(frozen=True)
class Request:
    """A run.

    Attributes:
        programs: What the commands begin with.
        model: The real model.
        texts: Texts that it is calibrated on, which are also parity's prompts.
        provider: "cuda"; "cpu" rehearses the run where there is no GPU.
        out: Folder of the report.
        work: Folder of models and graphs, which nobody has to read.
        large: Shape of the model with random weights.
        depths: Tokens in the timed prompts.
        runs: Timed runs of each model.
        steps: Decode steps of a timed run.
    """

    programs: Programs
    model: str
    texts: Path
    provider: Provider = "cuda"
    out: Path = Path("gpu-report")
    work: Path = Path("gpu-work")
    large: Shape = LLAMA_2_7B
    depths: tuple[int, ...] = (128, 512, 2048)
    runs: int = 9
    steps: int = 64

    @property
    def forms(self) -> tuple[tuple[str, str], ...]:
        """Precision and dialect of each graph that is compared with torch."""
        return FORMS[self.provider]

    @property
    def precisions(self) -> tuple[str, ...]:
        """The precisions that are timed, the default of the provider first."""
        return tuple(dict.fromkeys(precision for precision, _ in self.forms))

    @property
    def profile(self) -> Path:
        """The folder of ONNX Runtime's profiles."""
        return self.work / "profile"

    def result(self, name: str) -> Path:
        """The JSON file that a step leaves for the tables."""
        return self.out / "results" / f"{name}.json"
