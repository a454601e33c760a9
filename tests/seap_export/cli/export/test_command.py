from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import huggingface_hub
import pytest
from support.exports import CARD, Outcome, Run, tree
from support.models import write_micro_model
from support.product import read_manifest, read_plan

from seap_export.common.checksums import SUMS
from seap_export.common.json_file import read_json
from seap_export.model.families import model_spec

ONE = ("export", "m", "--task", "a=a.jsonl", "--ratio", "0.2", "--out", "out")
ALL = ("export", "m", "--task", "a=a.jsonl", "--task", "b=b.jsonl", "--ratio", "0.2", "--ratio", "0.4", "--out", "out")
MADE = ("planning", "shrinking", "writing ONNX", "comparing ONNX Runtime with torch")
STEPS = [
    *("calibrating a", "calibrating b"),
    *(
        step
        for task in "ab"
        for step in (f"ranking {task}", *(f"{task}-{ratio}: {what}" for ratio in ("0.2", "0.4") for what in MADE))
    ),
    *("router: fitting a, b", "validating the variants"),
]
ROUTED = "router: 43.8% of 32 held-out prompts go to their task"
VARIANTS = [f"{task}-{ratio}" for task in "ab" for ratio in ("0.2", "0.4")]


def rows(table: str) -> list[list[str]]:
    """The cells of the lines that begin with a variant."""
    return [line.split() for line in table.splitlines() if re.split("[ /]", line)[0] in VARIANTS]


def test_export_says_what_it_does_and_what_came_of_it(exported: tuple[Path, Outcome]) -> None:
    said = exported[1]
    assert [[row[0], *row[6:8]] for row in rows(said.out)] == [
        [f"{task}-{ratio}/onnx", removed, left]
        for task in "ab"
        for ratio, removed, left in (("0.2", "20.2%", "85.5%"), ("0.4", "40.4%", "71.4%"))
    ]
    assert all("passed" in row for row in rows(said.out))
    lines = said.err.splitlines()
    assert [line.partition("] ")[2] for line in lines if line.startswith("[")] == STEPS
    assert lines[:2] == ["hashing m", f"[1/{len(STEPS)}] calibrating a"]
    assert ROUTED in lines


def test_an_export_holds_these_files_and_no_others(pristine: Path) -> None:
    hf = {"config.json", "configuration_seap.py", "generation_config.json", "model.safetensors", "modeling_seap.py"}
    hf |= CARD
    onnx = {"genai_config.json", "model.onnx", "model.onnx.data", SUMS}
    tokenizer = {"tokenizer.json", "tokenizer_config.json"}
    expected = {".seap-export.lock", "manifest.json", "validation.json", "validation.html"}
    expected |= {f"router/{name}" for name in {"router.json", "router.onnx", SUMS} | tokenizer}
    for task in "ab":
        layers = {f"layer-0000{layer}" for layer in range(3)}
        statistics = {f"{name}.safetensors" for name in {"sensitivity", "tokens"} | layers}
        expected |= {f"ranking/{task}/{name}.safetensors" for name in {"sensitivity"} | layers}
        expected |= {f"calibration/{task}/{name}" for name in {"calibration.json"} | statistics}
        for ratio in ("0.2", "0.4"):
            expected |= {f"{task}-{ratio}/{name}" for name in ("plan.json", "parity.json", SUMS)}
            expected |= {f"{task}-{ratio}/hf/{name}" for name in hf | tokenizer}
            expected |= {f"{task}-{ratio}/onnx/{name}" for name in onnx | tokenizer}
    assert tree(pristine).keys() == expected


def test_a_second_export_says_what_it_reuses_and_json_is_all_of_stdout(run: Run, done: Path) -> None:
    outcome = run(*ALL)
    assert outcome.code == 0
    assert [row[0] for row in rows(outcome.out)] == [f"{name}/onnx" for name in VARIANTS]
    reused = {"calibration of a: reused", "calibration of b: reused", "router: reused", ROUTED}
    assert {f"{name}: reused" for name in VARIANTS} | reused <= set(outcome.err.splitlines())

    outcome = run(*ALL, "--json", "--quiet")
    assert outcome.err == ""
    variants = json.loads(outcome.out)["variants"]
    recorded = json.loads((done / "manifest.json").read_text())["variants"]
    assert variants == {name: {**variant, "speed": None, "beaten_by": None} for name, variant in recorded.items()}
    assert (variants["a-0.2"]["requested_ratio"], variants["a-0.2"]["method"]) == (0.2, "reconstruct")
    assert (variants["a-0.2"]["task"], variants["a-0.2"]["weights"]) == ("a", {"a": 1.0})
    assert variants["a-0.2"]["bytes"]["hf"] == sum(
        path.stat().st_size for path in (done / "a-0.2" / "hf").iterdir() if path.name not in CARD
    )
    assert variants["a-0.2"]["parity"]["onnx"]["verdict"] == "passed"


def test_the_folder_is_named_after_the_model_and_may_be_deep_or_a_link(
    run: Run, work: Path, pristine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first command that people type: the file's name is the task's, and nothing of others is overwritten."""
    monkeypatch.setenv("HOME", str(work / "home"))
    (work / "link").symlink_to(work / "m-export")
    (work / "m-export").mkdir()
    (work / "m-export" / "mine").touch()
    first = ("export", "m", "--task", "a.jsonl", "--ratio", "0.2")
    run(*first, "--quiet").refused(2, "m-export is not empty", "'mine'")
    (work / "m-export" / "mine").unlink()
    outcome = run(*first)
    assert outcome.code == 0, outcome.err
    assert "m-export" in outcome.err.splitlines()[0]
    assert tree(work / "m-export" / "a-0.2") == tree(pristine / "a-0.2")
    assert "calibration of a: reused" in run(*first, "--out", "link").err
    assert (work / "link").is_symlink()
    assert run("calibrate", *first[1:4], "--out=~/deep down/out", "--quiet").code == 0
    assert (work / "home" / "deep down" / "out" / "calibration" / "a").is_dir()


def test_a_folder_of_another_model_is_refused(run: Run, done: Path, work: Path) -> None:
    write_micro_model(work / "other", seed=1, model_type="llama")
    before = tree(done)
    words = ("export", "other", "--task", "c=a.jsonl", "--ratio", "0.2", "--out", "out", "--quiet")
    for command in (words, (*words, "--dry-run"), ("calibrate", *words[1:4], *words[6:])):
        run(*command).refused(2, "another model ('m')")
    for options in ((), ("--dry-run",)):  # it would leave a-0.4 of model m behind
        run("export", "other", *ONE[2:], "--quiet", "--force", *options).refused(2, "use another --out", "a-0.4")
    assert tree(done) == before


def test_a_damaged_manifest_is_noticed_and_force_replaces_it(run: Run, done: Path) -> None:
    before = tree(done)
    for content in (b"[]", b'{"schema": "seap-export/manifest/3"}', b'{"schema": "seap', b"\xff\0\x80"):
        (done / "manifest.json").write_bytes(content)
        for command in (ALL, ("calibrate", *ALL[1:6], "--out", "out")):
            run(*command, "--quiet").refused(7, "out/manifest.json: ", "damaged", "--force")
    for name in ("performance.json", "validation.json", "validation.html"):  # which no hash is kept of
        (done / name).write_bytes(b"\xff\0\x80")
    assert run(*ALL, "--quiet", "--force").code == 0
    assert tree(done) == before


def test_a_model_of_the_hub_is_kept_at_its_commit(run: Run, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commits = [digit * 40 for digit in "ab"]
    asked: list[str | None] = []
    for commit in commits:
        shutil.copytree(work / "m", work / "snapshots" / commit)

    def snapshot_download(model: str, revision: str | None, **patterns: object) -> str:
        asked.append(revision)
        return str(work / "snapshots" / (revision or commits[min(len(asked), 2) - 1]))  # it has moved on since

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    for task in "ab":
        assert run("calibrate", "owner/name", "--task", f"{task}={task}.jsonl", "--out", "out", "--quiet").code == 0
    assert asked == [None, commits[0]]
    assert read_manifest(work / "out").source["hub"] == f"owner/name@{commits[0]}"
    assert run("calibrate", f"owner/name@{commits[1]}", "--task", "b=b.jsonl", "--out", "out", "--quiet").code == 0
    assert asked[2:] == [commits[1]]


def limits(work: Path, max_abs: float) -> tuple[str, str]:
    (work / "limits.toml").write_text(f"[int8]\nmax_abs = {max_abs}\n")
    return "--set", "limits=limits.toml"


def test_a_parity_failure_stays_one(run: Run, work: Path) -> None:
    outcome = run(*ONE, *limits(work, 1e-9))

    assert outcome.code == 3
    assert "failed" in rows(outcome.out)[0]
    message = outcome.err.splitlines()[-1]
    assert re.match(r"Error: a-0\.2: parity: max abs \S+ > 1e-09 at case '[a-z0-9 ]+, in float32', row \d, ", message)
    report = json.loads((work / "out" / "a-0.2" / "parity.json").read_text())
    assert report["verdict"] == "failed"
    told = json.loads((work / "out" / "validation.json").read_text())
    assert (told["verdict"], told["exit_code"], "Error: " + told["failure"]) == ("failed", 3, message)
    assert told["variants"]["a-0.2"]["parity"]["onnx"] == report
    before = tree(work / "out")

    again = run(*ONE, *limits(work, 1e-9), "--quiet", "--json")
    assert again.code == 3
    said = json.loads(again.out)
    assert said["error"] == {"message": message.removeprefix("Error: "), "exit_code": 3}
    assert said["report"]["variants"]["a-0.2"]["parity"]["onnx"]["verdict"] == "failed"
    assert tree(work / "out") == before

    smallest = report["smallest_passing_limits"]["max_abs"]
    assert run(*ONE, *limits(work, smallest), "--force").code == 0


def test_a_variant_is_pruned_again(run: Run, done: Path) -> None:
    words = ("--task", "a=a.jsonl", "--ratio", "0.3", "--precision", "int4", "--out", "again")
    assert run("export", "out/a-0.4/hf", *words).code == 0
    variant = Path("again/a-0.3")
    once, twice = (model_spec(read_json(folder / "config.json")) for folder in (Path("out/a-0.4/hf"), variant / "hf"))
    assert twice.num_parameters() < once.num_parameters()
    assert read_plan(variant / "plan.json").shrunk_spec(once).layers == twice.layers
    answer, figures = ("generate", variant, "the cat"), ("plot", "again", "--out", "p")
    for command in (("validate", "again"), ("inspect", "again"), answer, figures):
        assert run(*command).code == 0, command
