"""The files of other tools that `frontier_table` measures, and how each is made from the same model and texts."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.written import Artifact
from converters.gguf.choice import choose_architecture, refusal
from converters.gguf.file import MODEL_FILE
from seap_export.model.sources.config import read_spec
from validation.runtimes.table import runtime_lack

#: What a tool's environment needs, which `--python TOOL=PYTHON` names.
INSTALL: Mapping[str, str] = {
    "llama.cpp": "llama-cpp-python gguf (it is compiled: this takes cmake, a C++ compiler and some minutes)",
    "nncf": "nncf openvino",
    "genai": "onnxruntime-genai onnx-ir torch transformers",
}
#: llama.cpp's types, with what else its program is told. Where 256 does not divide the columns of a matrix, llama.cpp
#: replaces those with `K` by types of 4 bits or more.
LLAMA_TYPES = ("Q8_0", "Q5_K_M", "Q4_K_M", "IQ4_NL", "IQ4_NL pure", "Q3_K_M", "Q2_K")
#: NNCF's share of the layers' weights in 4 bits, with what else its program is told.
NNCF_RATIOS = ("1", "1 all_layers", "0.8")
#: Options of the builder by the name that they get here.
GENAI_OPTIONS: Mapping[str, tuple[str, ...]] = {
    "default": (),
    "k_quant": ("algo_config=k_quant",),
    "k_quant_mixed": ("algo_config=k_quant_mixed",),
}
_PROGRAMS = Path(__file__).parent / "programs"


@dataclass(frozen=True)
class Peer:
    """The folder of a file, and the steps by which an environment of `INSTALL` makes it; peers may share a step."""

    name: str
    runtime: str
    folder: Path
    environment: str | None = None
    steps: tuple[Artifact, ...] = ()

    def make(self, pythons: Mapping[str, Path]) -> None:
        """Makes it.

        Raises:
            RuntimeError: A step failed, or something is missing to make or to run it, which the message says.
        """
        if self.environment is not None and self.environment not in pythons:
            raise RuntimeError(
                f"run: python -m venv ENV && ENV/bin/pip install {INSTALL[self.environment]}; then give --python "
                f"{self.environment}=ENV/bin/python"
            )
        if (lack := runtime_lack(self.runtime)) is not None:
            raise RuntimeError(lack)
        for step in self.steps:
            if not step.folder.exists():
                step.write()


@dataclass(frozen=True)
class Kitchen:
    """Where peers of a dense model are made, from the token ids of the calibration texts, by these interpreters."""

    model: Path
    texts: Sequence[Sequence[int]]
    work: Path
    pythons: Mapping[str, Path]

    def source(self, path: Path) -> Peer:
        folder = self.work / "source"
        folder.mkdir()
        (folder / MODEL_FILE).symlink_to(path.resolve())
        return Peer(f"source, {path.name}", "llama.cpp", folder)

    def peers(self) -> Iterator[Peer]:
        texts, spec = self.work / "texts.json", read_spec(self.model)
        texts.write_text(json.dumps([list(ids) for ids in self.texts]), "utf-8")
        architecture = "" if refusal(spec) else choose_architecture(spec).name  # if refused, the first step says so
        whole = self._converted("gguf:f32")
        importance = self._step(
            "importance", "", "importance.py", self.model, texts, "OUT/importance.gguf", architecture
        )
        matrices = (whole.folder / MODEL_FILE, importance.folder / "importance.gguf")
        for kind in LLAMA_TYPES:
            words = (*matrices, f"OUT/{MODEL_FILE}", *kind.split())
            made = self._step(f"llama.cpp {kind}", "llama.cpp", "llama_quantize.py", *words)
            yield Peer(made.name, "llama.cpp", made.folder, "llama.cpp", (whole, importance, made))
        whole = self._converted("openvino:fp32")
        for ratio in NNCF_RATIOS:
            words = (whole.folder, texts, "OUT", *ratio.split())
            made = self._step(f"NNCF INT4_ASYM, ratio {ratio}", "nncf", "nncf_compress.py", *words)
            yield Peer(made.name, "openvino", made.folder, "nncf", (whole, made))
        for name, options in GENAI_OPTIONS.items():
            words = (self.model, self.work / "cache", "OUT", *options)
            made = self._step(f"GenAI builder int4, {name}", "genai", "genai_build.py", *words)
            yield Peer(made.name, "onnxruntime", made.folder, "genai", (made,))

    def _converted(self, format: str) -> Artifact:
        folder = self.work / format.replace(":", "-")
        command = (sys.executable, "-c", "from seap_export.cli import main; main()", "convert", "--quiet")
        return Artifact(format, folder, (*command, str(self.model), "--format", format, "--out", str(folder)))

    def _step(self, name: str, environment: str, program: str, *words: object) -> Artifact:
        """What a program writes into its folder, which `OUT` at the start of a word stands for."""
        python, folder = self.pythons.get(environment, sys.executable), self.work / name.replace(" ", "-")
        told = (str(folder) + word[3:] if word.startswith("OUT") else word for word in map(str, words))
        return Artifact(name, folder, (str(python), "-I", str(_PROGRAMS / program), *told))
