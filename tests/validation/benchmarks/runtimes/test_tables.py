"""The tables of docs/research/runtimes.md say what was run, and what was not."""

from __future__ import annotations

from pathlib import Path

import pytest

from seap_export.errors import UsageError
from validation.benchmarks.runtimes.cells import Cell, Outcome, all_cells
from validation.benchmarks.runtimes.contest import Entry, Figures, entries, figures
from validation.benchmarks.runtimes.filled import fill
from validation.benchmarks.runtimes.kept import Kept
from validation.benchmarks.runtimes.parity_tables import parity_tables
from validation.benchmarks.runtimes.speed_table import speed_table

PASSED = Outcome("passed", 3e-6, 2e-9, versions=(("xllamacpp", "1.2"),))


def cell(precision: str = "f32", kind: str = "dense", family: str = "llama") -> Cell:
    return Cell("llama.cpp", "gguf", precision, family, kind)  # type: ignore[arg-type]


def test_figures_of_both_models_stand_together() -> None:
    text = parity_tables({cell(): PASSED, cell(kind="pruned"): Outcome("passed", 5e-6, 4e-9)})
    assert "| `llama` | 3e-06 / 5e-06 |" in text
    assert "xllamacpp 1.2" in text


def test_what_rounds_shows_its_divergence() -> None:
    assert "| `llama` | 2e-09 / - |" in parity_tables({cell("q4_0"): PASSED})


def test_reasons_are_listed_once() -> None:
    refused = {cell(kind=kind, family=family): Outcome("refused", reason=f"this {family} model has | caps")
               for family in ("gemma2", "glm") for kind in ("dense", "pruned")}  # fmt: skip
    text = parity_tables(refused)
    assert text.count("refused (1)") == 2
    assert "1. the model has \\| caps" in text
    assert "2. " not in text


def test_a_failure_stands_out() -> None:
    text = parity_tables({cell(): Outcome("failed", 1.0, 1.0, "max_abs 1 is above"), cell(kind="pruned"): PASSED})
    assert "**FAILED** (1) / 3e-06" in text


def test_what_is_missing_is_empty() -> None:
    missing = Outcome("missing", reason="no CUDA")
    assert "| `llama` |  |" in parity_tables({cell(): missing, cell(kind="pruned"): missing})


def test_every_runtime_of_every_format_has_cells() -> None:
    pairs = {(cell.runtime, cell.format) for cell in all_cells()}
    assert {("vllm", "hf"), ("llama.cpp", "gguf"), ("transformers.js", "web"), ("onnxruntime", "onnx")} <= pairs
    assert {cell.runtime for cell in all_cells(["mlx"], ["llama"])} == {"mlx"}
    assert "torch" not in {runtime for runtime, _ in pairs}


def test_results_are_kept(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    assert kept.get("llama.cpp", "a/b") is None
    kept.put(PASSED.to_json(), "llama.cpp", "a/b")
    assert Outcome.from_json(Kept(tmp_path).get("llama.cpp", "a/b") or {}) == PASSED
    assert kept.get("llama.cpp", "a/c") is None


def test_medians_of_rounds(tmp_path: Path) -> None:
    kept, entry = Kept(tmp_path), Entry("dense", tmp_path, "gguf", "q4_0", "llama.cpp")
    kept.put({"size": 2_000_000, "mean_kl": 0.25}, entry.name)
    assert figures(entry, kept) == Figures(2_000_000, 0.25)
    for number, (first, step) in enumerate(((0.1, 0.02), (0.5, 0.08), (0.2, 0.01))):
        kept.put({"first_s": first, "steps_s": [step, step, 9.0]}, entry.name, "round", number)
    assert figures(entry, kept) == Figures(2_000_000, 0.25, 0.2, pytest.approx(50.0), 3)
    row = speed_table({entry: figures(entry, kept)}).splitlines()[-1]
    assert row == "| llama.cpp | `gguf:q4_0` | dense | 2.0 | 200.0 | 50.0 | 0.2500 |"


def test_their_own_file_stands_beside_ours(tmp_path: Path) -> None:
    models = {"dense": tmp_path, "pruned": tmp_path}
    rows = entries(models, [("gguf", "q4_0"), ("onnx", "fp32")], ["llama.cpp"])
    assert [(row.model, bool(row.maker)) for row in rows] == [("dense", False), ("pruned", False), ("dense", True)]
    assert "llama.cpp's own" in speed_table({rows[-1]: Figures(reason="no program")})


def test_a_page_is_filled_between_its_comments(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- speed -->\nold\n<!-- end of speed -->\nb\n")
    for text in ("new \\1", "newer"):
        fill(page, "speed", text)
        assert page.read_text() == f"a\n<!-- speed -->\n\n{text}\n\n<!-- end of speed -->\nb\n"
    with pytest.raises(UsageError, match="parity"):
        fill(page, "parity", "text")
