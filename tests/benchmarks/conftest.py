"""A dense micro model and its graphs, in a folder as `--work` leaves them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
from benchmarks.peers.artifacts import Written
from click.testing import CliRunner
from support.models import write_micro_model

from seap_export.cli import main

HERE = Path(__file__).parent
#: `convert(model, home, *options)` writes home/onnx and the record that it was written; gives the graph.
Convert = Callable[..., Path]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """CI guards the product; what measures it is tested by `make test-all`, but for the model that others use, too."""
    for item in items:
        if HERE in item.path.parents and item.path.name != "test_random_model.py":
            item.add_marker(pytest.mark.full)


@pytest.fixture(scope="session")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_micro_model(tmp_path_factory.mktemp("dense"), model_type="llama")


@pytest.fixture(scope="session")
def convert() -> Convert:
    def run(model: Path, home: Path, *options: str) -> Path:
        home.mkdir(parents=True)
        out = home / "onnx"
        logits = () if "--logits" in options else ("--logits", "all")
        words = ["convert", str(model), "--out", str(out), "--precision", "fp32", *logits, *options]
        done = CliRunner().invoke(main, words, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        written = Written(str(model.resolve()), 1.0, 2_000_000, 3_000_000, is_reused=False)
        (home / "written.json").write_text(json.dumps(asdict(written)), "utf-8")
        return out / "model.onnx"

    return run


@pytest.fixture(scope="session")
def graphs(dense: Path, convert: Convert, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same model written in three ways, and another one in the place of a wrong export."""
    work = tmp_path_factory.mktemp("graphs")
    other = write_micro_model(work / "model", seed=1, model_type="llama")
    return {
        "ours": convert(dense, work / "ours"),
        "last": convert(dense, work / "last", "--logits", "last"),
        "standard": convert(dense, work / "standard", "--dialect", "standard"),
        "wrong": convert(other, work / "wrong"),
    }
