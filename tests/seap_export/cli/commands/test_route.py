from __future__ import annotations

import codecs
import json
import re
import shutil
from pathlib import Path

import pytest
from support.corpora import task_texts
from support.editing import list_again, set_json
from support.exports import Run, export_with_router
from support.tokenizers import add_chat_template, name_all_tokens

from seap_export import runtime
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
    outcome = run("route", "out", PROMPT, "--ratio", "0.2")
    assert (outcome.code, outcome.err) == (0, "")
    assert re.fullmatch(r"b, confidence 0\.\d{3}: out/b-0\.2\n", outcome.out)
    assert run("route", "out", PROMPT, "--ratio", "0.40").out.endswith(": out/b-0.4\n")
    assert run("route", "out", PROMPT, "--ratio", "0.2", "--quiet").out == "out/b-0.2\n"


def test_in_json(run: Run, out: Path) -> None:
    answer = json.loads(run("route", "out", PROMPT, "--ratio", "0.2", "--json", "--quiet").out)
    route = RoutedModel(out, ratio=0.2).route(PROMPT)
    assert answer == {
        "task": "b",
        "confidence": pytest.approx(route.confidence),
        "variant": "out/b-0.2",
        "is_fallback": False,
        "is_uncertain": False,
        "probabilities": pytest.approx(dict(route.probabilities)),
    }


def test_below_the_threshold(run: Run, out: Path) -> None:
    command = ("route", "out", PROMPT, "--ratio", "0.2", "--threshold", "1")
    assert re.fullmatch(r"no clear task \(b, confidence 0\.\d{3}\): out/general-0\.2\n", run(*command).out)
    set_json(out / "router" / "router.json", fallback={"0.2": None, "0.4": None})
    list_again(out / "router")
    text = r"no clear task and no general variant; most likely b, confidence 0\.\d{3}: out/b-0\.2\n"
    assert re.fullmatch(text, run(*command).out)


def test_it_generates(run: Run, out: Path) -> None:
    name_all_tokens(out / "b-0.4" / "onnx")
    text = RoutedModel(out, ratio=0.4).generate(PROMPT, 6)
    command = ("route", "out", PROMPT, "--ratio", "0.4", "--generate", "6")
    assert run(*command).out.split("\n", 1)[1] == text + "\n"
    assert json.loads(run(*command, "--json").out)["text"] == text
    assert run(*command, "--quiet").out == text + "\n"
    assert run(*command, "--quiet", "--stop", text[3:]).out == text[:3] + "\n"


def test_the_variant_runs_on_the_provider(run: Run, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[str, int | None]] = []

    def opened(folder: Path, ratio: float, provider: str, threads: int | None, threshold: float | None) -> RoutedModel:
        given.append((provider, threads))
        return RoutedModel(folder, ratio, threshold=threshold)

    monkeypatch.setattr(runtime, "RoutedModel", opened)
    command = ("route", "out", PROMPT, "--ratio", "0.4", "--generate", "1")
    assert run(*command, "--provider", "cuda", "--threads", "1").code == 0
    assert given == [("cuda", 1)]


def test_a_chat_model_answers_in_its_template(run: Run, out: Path) -> None:
    raw = RoutedModel(out, ratio=0.4).generate(PROMPT, 6)
    add_chat_template(out / "b-0.4" / "onnx")
    command = ("route", "out", PROMPT, "--ratio", "0.4", "--generate", "6", "--json")
    answer = json.loads(run(*command).out)["text"]
    assert answer == RoutedModel(out, ratio=0.4).generate(PROMPT, 6) != raw
    assert json.loads(run(*command, "--raw").out)["text"] == raw


def test_a_prompt_from_a_file(run: Run, out: Path) -> None:
    expected = run("route", "out", PROMPT, "--ratio", "0.2", "--json").out
    Path("prompt.txt").write_bytes(codecs.BOM_UTF8 + PROMPT.encode() + b"\r\n")
    assert run("route", "out", "--prompt-file", "prompt.txt", "--ratio", "0.2", "--json").out == expected
    Path("prompt.txt").write_bytes(b"\xff")
    run("route", "out", "--prompt-file", "prompt.txt", "--ratio", "0.2").refused(
        8, "prompt.txt: not UTF-8 text; save it as UTF-8"
    )
    outcome = run("route", "out", "--prompt-file", "none.txt", "--ratio", "0.2")
    message = "Error: none.txt: cannot be read (No such file or directory); give a text file\n"
    assert (outcome.code, outcome.err) == (2, message)


@pytest.mark.parametrize("given", [["--prompt-file", "-"], ["-"]])
def test_a_prompt_from_stdin(run: Run, out: Path, given: list[str]) -> None:
    from click.testing import CliRunner

    from seap_export.cli import main

    command = ["route", "out", *given, "--ratio", "0.2", "--json"]
    piped = CliRunner().invoke(main, command, input=PROMPT + "\n")
    assert piped.stdout == run("route", "out", PROMPT, "--ratio", "0.2", "--json").out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["out", PROMPT], 2, "0.2, 0.4 with --ratio"),
        (["out", PROMPT, "--ratio", "0.3"], 2, "ratio 0.3"),
        (["out", "--ratio", "0.2"], 2, "give either a prompt or --prompt-file"),
        (["out", PROMPT, "--prompt-file", "x"], 2, "give either a prompt or --prompt-file"),
        (["out", PROMPT, "--ratio", "0.2", "--generate", "0"], 2, "--generate 0"),
        (["out", PROMPT, "--ratio", "0.2", "--raw"], 2, "--raw has no effect without --generate"),
        (["out", PROMPT, "--ratio", "0.2", "--template"], 2, "--template has no effect without --generate"),
        (["out", PROMPT, "--ratio", "0.2", "--stop", "a"], 2, "--stop has no effect without --generate"),
        (["out", PROMPT, "--ratio", "0.2", "--provider", "webgpu"], 2, "--provider has no effect without --generate"),
        (["out", PROMPT, "--ratio", "0.2", "--threshold", "2"], 2, "threshold 2"),
        (["none", PROMPT], 2, "none: no such file or folder"),
        (["out/a-0.2", PROMPT], 2, "out/a-0.2: there is no router here; give out"),
        (["out", " ", "--ratio", "0.2", "--generate", "1"], 8, "the prompt has no token"),
    ],
)  # fmt: skip
def test_bad_input(run: Run, out: Path, arguments: list[str], code: int, message: str) -> None:
    run("route", *arguments, "--json").refused_in_json(code, message)


@pytest.mark.parametrize("name", ["router.json", "router.onnx", "tokenizer.json"])
@pytest.mark.parametrize("is_missing", [True, False])
def test_a_damaged_router(run: Run, out: Path, name: str, is_missing: bool) -> None:
    path = out / "router" / name
    path.unlink() if is_missing else path.write_bytes(path.read_bytes()[:40])
    run("route", "out", PROMPT, "--ratio", "0.2").refused(7, f"out/router/{name} ")


def test_a_variant_that_is_missing(run: Run, out: Path) -> None:
    shutil.rmtree(out / "b-0.2")
    outcome = run("route", "out", PROMPT, "--ratio", "0.2")
    message = "Error: out/b-0.2: this variant is missing; export again, or copy its folder there\n"
    assert (outcome.code, outcome.err) == (7, message)
