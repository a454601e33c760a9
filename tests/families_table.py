"""Writes the tables of families.md and research/families.md: what was checked for each family, on random micro models.

    python tests/families_table.py docs

Every family's models go through the command line as a user's would. A figure is the worst over the family's models:
the largest difference of a logit between a runtime and torch, or for what rounds the mean KL divergence in nats.
What this machine cannot run is written, and marked so.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # before this folder, which has a `converters` of its own

from click.testing import CliRunner  # noqa: E402
from support.corpora import micro_texts  # noqa: E402
from support.models import one_thread, write_micro_model  # noqa: E402
from support.product import (  # noqa: E402
    OnnxForm,
    OnnxFormat,
    ParitySettings,
    Variant,
    choose_precision,
    convert_folder,
    families,
    prompts_of,
    refused_models,
)
from support.variations import VARIATIONS, micro_config  # noqa: E402

from converters.format import Format  # noqa: E402
from converters.formats import format_class  # noqa: E402
from seap_export.cli import main  # noqa: E402
from seap_export.model.families import Experts, Family, Sublayer, model_spec  # noqa: E402
from seap_export.pipeline.gate.parity import check_parity  # noqa: E402

VARIANT = "a-0.3"
#: Column, format, and the figure that is shown.
FORMS: dict[str, tuple[Format, str]] = {
    "fused": (OnnxFormat.of(OnnxForm()), "max_abs"),
    "standard": (OnnxFormat.of(OnnxForm(dialect="standard")), "max_abs"),
    "fp16": (OnnxFormat("fp16"), "mean_kl_nats"),
    "int8": (OnnxFormat("int8"), "mean_kl_nats"),
    "int4": (OnnxFormat("int4"), "mean_kl_nats"),
    "LiteRT fp32": (format_class("litert")("fp32"), "max_abs"),
    "LiteRT int8": (format_class("litert")("int8"), "mean_kl_nats"),
}
#: For CUDA; the CPU has no kernel.
BF16 = OnnxForm(choose_precision("bf16", "cuda"))
_GENAI = """
import sys
import onnxruntime_genai as og
model = og.Model(sys.argv[1])
params = og.GeneratorParams(model)
params.set_search_options(do_sample=False, max_length=12)
generator = og.Generator(model, params)
generator.append_tokens([5, 6, 7, 8])
while not generator.is_done():
    generator.generate_next_token()
"""
_STOCK = """
import sys
from transformers import AutoConfig, AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], local_files_only=True)
assert not type(model).__name__.startswith("Seap")
"""


class Checked:
    """The results of one family: the worst figure of each column, or a word."""

    def __init__(self) -> None:
        self.cells: dict[str, str] = {}
        self._worst: dict[str, float] = {}

    def add(self, column: str, figure: float) -> None:
        self._worst[column] = max(self._worst.get(column, 0.0), figure)
        self.cells[column] = f"{self._worst[column]:.0e}"

    def note(self, column: str, word: str) -> None:
        self.cells[column] = "no" if self.cells.get(column) == "no" else word


def check(model_type: str) -> dict[str, str]:
    checked = Checked()
    for name, values in VARIATIONS.items():
        if values["model_type"] != model_type:
            continue
        print(f"{model_type}: {name}", file=sys.stderr)
        with tempfile.TemporaryDirectory() as folder, one_thread():
            _check_model(Path(folder), values, checked)
    return checked.cells


def _check_model(folder: Path, values: dict[str, object], checked: Checked) -> None:
    model = write_micro_model(folder / "m", **values)
    # "a" is a token by itself, also where transformers rebuilds the tokenizer of a plain qwen2 model.
    corpus = "".join(json.dumps({"text": f"a {text}"}) + "\n" for text in micro_texts(60))
    (folder / "a.jsonl").write_text(corpus, "utf-8")
    for layout in ("per-layer", "uniform"):
        out = folder / layout
        arguments = ["export", model, "--task", f"a={folder}/a.jsonl", "--ratio", "0.3", "--layout", layout]
        arguments += ["--no-quality", "--no-speed", "--threads", "1", "--quiet", "--out", out]
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        if layout == "uniform" and "differ in shape" in result.stderr:
            return  # some layers have experts, others an MLP
        if result.exit_code:
            raise SystemExit(f"{values}: {result.stderr}")
        for column, (format, figure) in FORMS.items():
            if layout == "uniform" and column != "fused":
                continue
            if format.refusal(Variant(out / VARIANT).spec, out / VARIANT / "hf") is not None:
                continue
            report = _parity(out / VARIANT, folder / f"{layout}-{column}", format)
            checked.add("uniform" if layout == "uniform" else column, report[figure])
    spec = model_spec(micro_config(**values))
    if not any(spec.all(Experts)):  # which GPUs do not run yet
        (folder / "bf16").mkdir()
        convert_folder(folder / "per-layer" / VARIANT / "hf", folder / "bf16", BF16)
    alike = any(map(_must_be_alike, spec.sublayers))
    layout, word = ("uniform", "uniform") if alike else ("per-layer", "yes")
    _run_elsewhere(checked, "GenAI", ".venv-genai", _GENAI, folder / layout / VARIANT / "onnx", word)
    hf = folder / "uniform" / VARIANT / "hf"
    _run_elsewhere(checked, "stock class", ".venv", _STOCK, hf)
    _run_elsewhere(checked, "stock class, 4.57", ".venv-transformers4", _STOCK, hf)


def _must_be_alike(sublayer: Sublayer) -> bool:
    """Whether GenAI gives all layers the same states as the first, which pruning could change."""
    return bool({"conv", "recurrent"} & set(sublayer.states)) and not getattr(sublayer, "has_fixed_width", False)


def _parity(exported: Path, variant: Path, format: Format) -> dict[str, float]:
    (variant / format.name).mkdir(parents=True)
    (variant / "hf").symlink_to(exported / "hf")
    format.write(variant / "hf", variant / format.name, lambda layer: None)
    prompts, settings = prompts_of(Variant(exported), None, 2), ParitySettings(threads=1)
    report = check_parity(Variant(variant), format.name, format.runtimes[0], prompts, settings).to_json()
    if report["verdict"] != "passed":
        raise SystemExit(f"{variant}: {report['failure']}")
    return report


def _run_elsewhere(
    checked: Checked, column: str, environment: str, script: str, folder: Path, word: str = "yes"
) -> None:
    python = ROOT / environment / "bin" / "python"
    done = subprocess.run([python, "-I", "-c", script, folder], capture_output=True, text=True, check=False, cwd="/")
    checked.note(column, "no" if done.returncode else word)


def write_pages(docs: Path) -> None:
    known = sorted(families(), key=lambda family: family.model_type)
    with ProcessPoolExecutor(max_workers=2) as pool:  # each with one thread
        results = list(pool.map(check, [family.model_type for family in known]))
    for family, cells in zip(known, results, strict=True):
        cells |= {"GGUF": _gguf(family)}
    rows = list(zip(known, results, strict=True))
    refused = ["| part | families |", "| --- | --- |"]
    for part, model_types in refused_models().items():
        refused.append(f"| {part} | {', '.join(f'`{model_type}`' for model_type in model_types)} |")
    _write_tables(docs / "families.md", _groups(rows, ("stock class", "stock class, 4.57", "GenAI", "GGUF")))
    _write_tables(docs / "research" / "families.md", _table(rows, (*FORMS, "uniform")), refused)


def _write_tables(page: Path, *tables: Iterable[str]) -> None:
    """Replaces the tables of a page, and its sentence on multimodal models."""
    left, text = iter(tables), page.read_text("utf-8")
    text = re.sub(r"(?:^\|.*\n)+", lambda old: "\n".join(next(left)) + "\n", text, flags=re.MULTILINE)
    assert next(left, None) is None, "the page has fewer tables"
    known = sorted(families(), key=lambda family: family.model_type)
    wrappers = (f"`{family.model_type}` of `{one.model_type}`" for family in known for one in family.wrappers)
    sentence = f"Of multimodal models, the language model is taken: {', '.join(wrappers)}."
    page.write_text(re.sub(r"^Of multimodal models.*", sentence, text, flags=re.MULTILINE), "utf-8")


def _gguf(family: Family) -> str:
    if family.gguf is None:
        return "no"
    return "yes" if family.gguf.is_read else "written"


def _table(rows: Sequence[tuple[Family, Mapping[str, str]]], columns: Sequence[str]) -> Iterator[str]:
    yield f"| family | {' | '.join(columns)} |"
    yield "| --- " * (len(columns) + 1) + "|"
    for family, cells in rows:
        yield f"| `{family.model_type}` | {' | '.join(cells.get(column, '-') for column in columns)} |"


def _groups(rows: Sequence[tuple[Family, Mapping[str, str]]], columns: Sequence[str]) -> Iterator[str]:
    """A table with a row for all families that have the same cells, the largest group first."""
    groups = defaultdict[tuple[str, ...], list[str]](list)
    for family, cells in rows:
        groups[tuple(cells.get(column, "-") for column in columns)].append(f"`{family.model_type}`")
    yield f"| {' | '.join(columns)} | families |"
    yield "| --- " * (len(columns) + 1) + "|"
    for alike, names in sorted(groups.items(), key=lambda group: (-len(group[1]), group)):
        yield f"| {' | '.join(alike)} | {', '.join(names)} |"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python tests/families_table.py DOCS")
    write_pages(Path(sys.argv[1]))
