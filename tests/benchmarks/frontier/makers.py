"""The files of other tools that `frontier_table` measures, and how each is made from the same model and texts."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.written import Artifact

from converters.gguf.choice import choose_architecture, refusal
from converters.gguf.file import MODEL_FILE
from seap_export.model.sources.config import read_spec
from validation.runtimes.table import REFERENCE, runtime_lack

#: What a tool's environment needs, which `--python TOOL=PYTHON` names.
INSTALL: Mapping[str, str] = {
    "llama.cpp": "llama-cpp-python gguf (it is compiled: this takes cmake, a C++ compiler and some minutes)",
    "nncf": "nncf openvino",
    "genai": "onnxruntime-genai onnx-ir torch transformers",
    "auto-round": "auto-round torch transformers",
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
#: Bits of AutoRound's matrices; it leaves the embedding and the head as they are.
AUTO_ROUND_BITS = (4, 3, 2)
_PROGRAMS = Path(__file__).parent / "programs"


@dataclass(frozen=True)
class Peer:
    """A file of another tool.

    Attributes:
        name: Its name in the table.
        runtime: The runtime that runs it, of `validation.runtimes.table`.
        environment: The environment that makes it, of `INSTALL`; None: there is nothing to make.
        steps: What is written, one after the other; the last one is the file.
        made: Its folder, if there is nothing to make.
    """

    name: str
    runtime: str
    environment: str | None = None
    steps: tuple[Artifact, ...] = ()
    made: Path | None = None

    @property
    def folder(self) -> Path:
        return self.made or self.steps[-1].folder

    @property
    def is_made(self) -> bool:
        """Whether it lies there already; then nothing else is needed to make it."""
        return not self.steps or self.steps[-1].record.is_file()

    def lack(self, pythons: Mapping[str, Path]) -> str | None:
        """What is missing to make and to run it, and the command that installs it; None: nothing."""
        if self.environment is not None and self.environment not in pythons and not self.is_made:
            return (
                f"run: python -m venv ENV && ENV/bin/pip install {INSTALL[self.environment]}; then give --python "
                f"{self.environment}=ENV/bin/python"
            )
        return None if self.runtime == REFERENCE else runtime_lack(self.runtime)

    def make(self, model: Path) -> None:
        for step in self.steps[-1:] if self.is_made else self.steps:
            step.write(model)


@dataclass(frozen=True)
class Kitchen:
    """Where the peers of a dense model are made, from the token ids of the calibration texts.

    What was made in `work` from the same texts is used again; `pythons` has the interpreters that there are.
    """

    model: Path
    texts: Sequence[Sequence[int]]
    work: Path
    pythons: Mapping[str, Path]

    @property
    def texts_file(self) -> Path:
        """The file of the texts, which the folder of what is made from them has in its name."""
        text = json.dumps([list(ids) for ids in self.texts])
        folder = self.work / f"texts-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "texts.json"
        if not path.is_file():
            path.write_text(text, "utf-8", newline="\n")
        return path

    def peers(self) -> Iterator[Peer]:
        yield from self._llama()
        yield from self._nncf()
        yield from self._genai()
        yield from self._auto_round()

    def source(self, path: Path) -> Peer:
        folder = self.work / f"source-{hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:12]}"
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / MODEL_FILE).exists():
            (folder / MODEL_FILE).symlink_to(path.resolve())
        return Peer(f"source, {path.name}", "llama.cpp", made=folder)

    def _llama(self) -> Iterator[Peer]:
        whole, spec = self._converted("gguf:f32"), read_spec(self.model)
        architecture = "" if refusal(spec) else choose_architecture(spec).name  # if refused, the first step says so
        importance = self._step(
            "importance", self.texts_file.parent, sys.executable, "importance.py", self.model, self.texts_file,
            "OUT/importance.gguf", "--architecture", architecture,
        )  # fmt: skip
        matrices = (whole.folder / MODEL_FILE, importance.folder / "importance.gguf")
        for kind in LLAMA_TYPES:
            quantised = self._step(
                f"llama.cpp-{kind}", self.texts_file.parent, self._python("llama.cpp"), "llama_quantize.py",
                *matrices, f"OUT/{MODEL_FILE}", *kind.split(),
            )  # fmt: skip
            yield Peer(f"llama.cpp {kind}", "llama.cpp", "llama.cpp", (whole, importance, quantised))

    def _nncf(self) -> Iterator[Peer]:
        whole = self._converted("openvino:fp32")
        for ratio in NNCF_RATIOS:
            compressed = self._step(
                f"nncf-{ratio}", self.texts_file.parent, self._python("nncf"), "nncf_compress.py",
                whole.folder, self.texts_file, "OUT", *ratio.split(),
            )  # fmt: skip
            yield Peer(f"NNCF INT4_ASYM, ratio {ratio}", "openvino", "nncf", (whole, compressed))

    def _genai(self) -> Iterator[Peer]:
        for name, options in GENAI_OPTIONS.items():
            built = self._step(
                f"genai-{name}", self.work, self._python("genai"), "genai_build.py",
                self.model, self.work / "cache", "OUT", *options,
            )  # fmt: skip
            yield Peer(f"GenAI builder int4, {name}", "onnxruntime", "genai", (built,))

    def _auto_round(self) -> Iterator[Peer]:
        for bits in AUTO_ROUND_BITS:
            rounded = self._step(
                f"auto-round-{bits}", self.texts_file.parent, self._python("auto-round"), "auto_round_tune.py",
                self.model, self.texts_file, "OUT", bits,
            )  # fmt: skip
            yield Peer(f"AutoRound, {bits} bits", REFERENCE, "auto-round", (rounded,))

    def _python(self, environment: str) -> str:
        return str(self.pythons.get(environment, environment))

    def _converted(self, format: str) -> Artifact:
        name = format.replace(":", "-")
        folder = self.work / name / "files"
        command = (sys.executable, "-c", "from seap_export.cli import main; main()", "convert", "--quiet")
        return Artifact(name, folder, (*command, str(self.model), "--format", format, "--out", str(folder)))

    def _step(self, name: str, parent: Path, python: str, program: str, *words: object) -> Artifact:
        """What a program writes into its folder, which `OUT` stands for."""
        folder = parent / name.replace(" ", "-") / "files"
        filled = (
            str(word).replace("OUT", str(folder), 1) if str(word).startswith("OUT") else str(word) for word in words
        )
        return Artifact(name, folder, (python, "-I", str(_PROGRAMS / program), *filled))
