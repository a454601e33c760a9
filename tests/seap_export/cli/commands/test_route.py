from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from support.corpora import task_texts
from support.editing import list_again, set_json
from support.exports import Run, export_with_router
from support.tokenizers import add_chat_template, name_all_tokens

from seap_export.runtime import RoutedModel

PROMPT = task_texts("b", 1, seed=9)[0]


@pytest.fixture(scope="module")
def pristine_routed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_with_router(tmp_path_factory.mktemp("routed"), ratios=(0.2, 0.4))


@pytest.fixture
def out(pristine_routed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy at ./out, the current folder being the one above."""
    shutil.copytree(pristine_routed, tmp_path / "out")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "out"


def test_it_names_the_task_and_the_variant(run: Run, out: Path) -> None:
    command = ("route", "out", PROMPT, "--ratio", "0.2")
    outcome = run(*command)
    assert (outcome.code, outcome.err) == (0, "")
    assert re.fullmatch(r"b, confidence 0\.\d{3}: out/b-0\.2\n", outcome.out)
    assert run("route", "out", PROMPT, "--ratio", "0.40").out.endswith(": out/b-0.4\n")
    assert run(*command, "--quiet").out == "out/b-0.2\n"
    unclear = r"no clear task \(b, confidence 0\.\d{3}\): out/general-0\.2\n"
    assert re.fullmatch(unclear, run(*command, "--threshold", "1").out)
    set_json(out / "router" / "router.json", fallback={"0.2": None, "0.4": None})
    list_again(out / "router")
    unclear = r"no clear task and no general variant; most likely b, confidence 0\.\d{3}: out/b-0\.2\n"
    assert re.fullmatch(unclear, run(*command, "--threshold", "1").out)


def test_it_generates(run: Run, out: Path) -> None:
    name_all_tokens(out / "b-0.4" / "onnx")
    text = RoutedModel(out, ratio=0.4).generate(PROMPT, 6)
    command = ("route", "out", PROMPT, "--ratio", "0.4", "--generate", "6")
    assert run(*command).out.split("\n", 1)[1] == text + "\n"
    assert run(*command, "--quiet").out == text + "\n"
    assert run(*command, "--quiet", "--stop", text[3:]).out == text[:3] + "\n"
    add_chat_template(out / "b-0.4" / "onnx")
    answers = [json.loads(run(*command, *options, "--json").out)["text"] for options in ((), ("--raw",))]
    assert answers == [RoutedModel(out, ratio=0.4).generate(PROMPT, 6), text]
    assert answers[0] != text
