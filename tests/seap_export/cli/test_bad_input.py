"""Every bad input: one line, an exit code, nothing left and nothing overwritten."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from seap_export.corpus.names import NAME_RULE
from seap_export.pipeline import calibration, checks, export
from seap_export.sources.tensor_writer import SafetensorsWriter

Run = Callable[..., Any]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


def refuse(run: Run, work: Path, *arguments: object, code: int, message: str) -> None:
    """Runs an export of model `m` that must fail, with the last of repeated options, and leave no trace."""
    before = files(work)
    given = [str(argument) for argument in arguments]
    model = [] if given and not given[0].startswith("--") else ["m"]
    defaults = {"--task": "a=a.jsonl", "--ratio": "0.2", "--out": "out"}
    for name, value in defaults.items():
        given += [] if name in given else [name, value]
    outcome = run("export", *model, *given, "--quiet", "--json")

    assert outcome.err == f"Error: {message}\n"
    assert outcome.code == code
    assert json.loads(outcome.out) == {"error": {"message": message, "exit_code": code}}
    assert files(work) == before


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("task", "code", "message"),
    [
        ("a=none.jsonl", 8, "none.jsonl: no such file; give the path of a corpus file"),
        ("a=empty.jsonl", 8, "empty.jsonl: the corpus is empty; it needs at least one text"),
        ("a=m", 8, "m: not a file; give the path of a corpus file, not of a folder"),
        ("a=a.csv", 8, "a.csv: no such file; give the path of a corpus file"),
        ("a.jsonl", 2, "task 'a.jsonl' is malformed; write NAME=FILE, such as maths=maths.jsonl"),
    ],
)
def test_corpus(run: Run, work: Path, task: str, code: int, message: str) -> None:
    (work / "empty.jsonl").touch()
    refuse(run, work, "--task", task, code=code, message=message)


def test_a_field_that_is_not_there(run: Run, work: Path) -> None:
    (work / "task.toml").write_text('corpus = "a.jsonl"\nprompt = "{question}"\n')
    outcome = run("export", "m", "--task", "a=task.toml", "--ratio", "0.2", "--out", "out", "--quiet")
    assert outcome.code == 8
    assert outcome.err.count("\n") == 1
    assert "question" in outcome.err
    assert "a.jsonl" in outcome.err
    assert not (work / "out").exists()


def test_a_corpus_shorter_than_the_sample(run: Run, work: Path) -> None:
    message = (
        "task 'a': the corpus has 60 distinct texts, but 50 calibration + 16 held-out texts were asked for; "
        "use --samples 44 or a larger corpus"
    )
    refuse(run, work, "--samples", 50, code=8, message=message)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ratio", "1"], "ratio 1.0 is out of range; give at least 0 and less than 1, e.g. --ratio 0.2"),
        (["--ratio", "-0.1"], "ratio -0.1 is out of range; give at least 0 and less than 1, e.g. --ratio 0.2"),
        (["--ratio", "nan"], "ratio nan is out of range; give at least 0 and less than 1, e.g. --ratio 0.2"),
        (["--ratio", "inf"], "ratio inf is out of range; give at least 0 and less than 1, e.g. --ratio 0.2"),
        (
            ["--ratio", "0.999"],
            "ratio 0.999 cannot be reached: with 0 protected layers and --align 16 at most 0.788 can be removed; "
            "lower the ratio, --align, --protect-first or --protect-last",
        ),
        (["--ratio", "0.2", "--ratio", "0.20"], "a ratio is given twice"),
        (
            ["--ratio", "much"],
            "Invalid value for '--ratio': 'much' is not a valid float; see 'seap-export export --help'",
        ),
        (["--samples", "-3"], "--samples -3 is out of range; give at least 1"),
        (["--held-out", "0"], "--held-out 0 is out of range; give at least 1"),
        (["--max-length", "1"], "--max-length 1 is out of range; give at least 2"),
        (["--batch-tokens", "0"], "--batch-tokens 0 is out of range; give at least 1"),
        (["--threads", "0"], "--threads 0 is out of range; give at least 1"),
        (["--prompts", "0"], "--prompts 0 is out of range; give at least 1"),
        (["--decode-steps", "0"], "--decode-steps 0 is out of range; give at least 1"),
        (["--long-tokens", "0"], "--long-tokens 0 is out of range; give at least 1"),
        (["--limits", "a.jsonl"], "a.jsonl: cannot be read as TOML (Invalid statement (at line 1, column 1))"),
        (["--align", "0"], "align 0 is out of range; give a positive multiple, e.g. --align 16"),
        (["--out", "m"], "m holds something else ('config.json'); give an empty or a new folder as --out"),
        (["--out", "a.jsonl"], "a.jsonl is not a folder; give a folder as --out"),
        (["--out", "dangling"], "dangling is not a folder; give a folder as --out"),
        (
            ["--reconstruction", "one-shot", "--compensate", "bias"],
            "--reconstruction is a way to --compensate reconstruct; leave one of them out",
        ),
        (
            ["--method", "seap", "--budget", "macs"],
            "budget 'macs' needs --sparsity adaptive; logistic counts weights only",
        ),
        (["--sparsity", "global"], "--sparsity global ranks scores; use it with --score wifv or wifn"),
        (
            ["--method", "flap", "--score", "elimination"],
            "--sparsity global ranks scores; use it with --score wifv or wifn",
        ),
        (["--balance", "alike"], "--sparsity adaptive weighs heads against neurons itself; leave --balance alike out"),
        (
            ["--method", "flap", "--balance", "alike"],
            "--sparsity global weighs heads against neurons itself; leave --balance alike out",
        ),
        (["--ridge", "0"], "--ridge 0 is out of range; give a positive number"),
        (["--ridge", "inf"], "--ridge inf is out of range; give a positive number"),
        (
            ["--budget", "bytes", "--context", "0"],
            "context 0 is out of range; give a positive number of positions",
        ),
        (
            ["--k", "2"],
            "--k and --x0 shape the logistic curve; use them with --sparsity logistic, or leave them out",
        ),
        (
            ["--sparsity", "adaptive", "--context", "512"],
            "--context counts for other budgets than weights; give --budget macs or bytes, too",
        ),
        (
            ["--mix-scores", "plain"],
            "--mix-scores is about scores; use it with --score wifv or wifn, or leave it out",
        ),
        (
            ["--method", "seap", "--ridge", "2"],
            "--ridge is of the refit; use it with --compensate reconstruct, or leave it out",
        ),
        (["--weight", "a=2"], "--weight is for the general variant; give --general too, or use --mix"),
        (["--general", "--weight", "c=2"], "weight 'c=2' names no task of this run; tasks: a"),
        (["--general", "--weight", "a=two"], "weight 'a=two' is malformed; write TASK=WEIGHT"),
        (["--general", "--weight", "a=0"], "weight 0 of task 'a' is out of range; give a positive number"),
        (["--general", "--weight", "a=inf"], "weight inf of task 'a' is out of range; give a positive number"),
        (["--general", "--weight", "a=1", "--weight", "a=2"], "task 'a' has two weights; give one"),
        (["--mix", "x"], "mixture 'x' is malformed; write NAME=TASK:WEIGHT,TASK:WEIGHT"),
        (["--mix", "=a:1"], "mixture '=a:1' is malformed; write NAME=TASK:WEIGHT,TASK:WEIGHT"),
        (["--mix", "x=a:1,b:1"], "weight 'b:1' names no task of this run; tasks: a"),
        (["--mix", "x=a:much"], "weight 'a:much' is malformed; write TASK:WEIGHT"),
        (["--mix", "x=a:-1"], "weight -1 of task 'a' is out of range; give a positive number"),
        (
            ["--mix", "../x=a"],
            f"mixture name '../x' cannot name a folder; use {NAME_RULE}",
        ),
        (["--mix", "A=a:1"], "the name 'A' is taken; rename the task or the mixture"),
        (["--mix", "x=a", "--mix", "x=a:2"], "the name 'x' is taken; rename the task or the mixture"),
        (["--general", "--mix", "General=a"], "the name 'General' is taken; rename the task or the mixture"),
        (["--general", "--task", "general=a.jsonl"], "the name 'general' is taken; rename the task or the mixture"),
        (
            ["--threshold", "0.9", "--no-router"],
            "--threshold is of the router; leave out --no-router, or the threshold",
        ),
        (["--threshold", "1.5"], "threshold 1.5 is out of range; give 0 to 1"),
        (["--zzzzzz"], "No such option '--zzzzzz'; see 'seap-export export --help'"),
    ],
)
def test_usage(run: Run, work: Path, options: list[str], message: str) -> None:
    (work / "dangling").symlink_to("nowhere")
    refuse(run, work, *options, code=2, message=message)


def test_a_family_that_is_not_supported(run: Run, work: Path) -> None:
    config = json.loads((work / "m" / "config.json").read_text())
    (work / "m" / "config.json").write_text(json.dumps(config | {"model_type": "gpt2"}))
    outcome = run("export", "m", "--task", "a=a.jsonl", "--ratio", "0.2", "--out", "out", "--quiet")
    assert outcome.code == 8
    assert outcome.err.count("\n") == 1
    assert "gpt2" in outcome.err
    assert "llama" in outcome.err
    assert not (work / "out").exists()


def test_a_model_that_is_not_there(run: Run, work: Path) -> None:
    refuse(run, work, "./none", code=8, message="./none: no such folder or file")


def test_a_hub_model_that_cannot_be_had(run: Run, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def offline(*args: object, **kwargs: object) -> str:
        raise ConnectionError("offline\nand more")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    message = "some/model: no such folder, and the hub could not provide it (offline); give a local model folder"
    refuse(run, work, "some/model", code=6, message=message)


@pytest.mark.parametrize("left", [4, 100, 50_000])
def test_truncated_safetensors(run: Run, work: Path, left: int) -> None:
    path = work / "m" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:left])
    outcome = run("export", "m", "--task", "a=a.jsonl", "--ratio", "0.2", "--out", "out", "--quiet")
    assert outcome.code == 8
    assert outcome.err.startswith("Error: m/model.safetensors: truncated or not a safetensors file (")
    assert outcome.err.count("\n") == 1
    assert not (work / "out").exists()


def test_truncated_gguf(run: Run, work: Path) -> None:
    (work / "m.gguf").write_bytes(b"GGUF\x03\0\0\0" + b"\x01")
    outcome = run("export", "m.gguf", "--task", "a=a.jsonl", "--ratio", "0.2", "--out", "out", "--quiet")
    assert outcome.code == 8
    assert outcome.err.startswith("Error: m.gguf: ")
    assert outcome.err.count("\n") == 1
    assert not (work / "out").exists()


def test_config_and_weights_disagree(run: Run, work: Path) -> None:
    config = json.loads((work / "m" / "config.json").read_text())
    (work / "m" / "config.json").write_text(json.dumps(config | {"intermediate_size": 96}))
    outcome = run("export", "m", "--task", "a=a.jsonl", "--ratio", "0.2", "--out", "out", "--quiet")
    assert outcome.code == 8
    assert outcome.err.startswith("Error: m: config and weights disagree: ")
    assert "model.layers.0.mlp.gate_proj.weight" in outcome.err
    assert outcome.err.count("\n") == 1
    assert not (work / "out").exists()


@pytest.mark.parametrize(
    "name", ["model.embed_tokens.weight", "model.layers.2.mlp.down_proj.weight", "lm_head.weight"]
)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers(run: Run, work: Path, name: str, value: float) -> None:
    change_weights(work / "m", lambda tensors: tensors[name].view(-1)[3:4].fill_(value))
    refuse(run, work, code=8, message=f"m: tensor '{name}' holds NaN or infinite weights; the model is damaged")


def test_a_model_that_names_no_end_of_sequence(run: Run, work: Path) -> None:
    for name in ("config.json", "generation_config.json"):
        path = work / "m" / name
        path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": None}))
    message = "config.json and generation_config.json name no eos_token_id; add one for ONNX Runtime GenAI"
    refuse(run, work, code=8, message=message)


def test_a_damaged_tokenizer(run: Run, work: Path) -> None:
    (work / "m" / "tokenizer.json").write_text('{"model": {"type": "WordLevel"}}')
    outcome = run("export", "m", "--task", "a=a.jsonl", "--ratio", "0.2", "--out", "out", "--quiet")
    assert outcome.code == 8
    assert outcome.err.startswith("Error: m: its tokenizer cannot be loaded (")
    assert outcome.err.count("\n") == 1
    assert not (work / "out").exists()


def test_the_tokenizer_of_another_model(run: Run, work: Path) -> None:
    path = work / "m" / "tokenizer.json"
    values = json.loads(path.read_text())
    values["model"]["vocab"]["the"] = 96
    path.write_text(json.dumps(values))
    message = "m: its tokenizer gives token id 96, its model has a vocabulary of 96; give the model its own tokenizer"
    refuse(run, work, code=8, message=message)


def test_texts_without_a_token(run: Run, work: Path) -> None:
    path = work / "m" / "tokenizer.json"
    values = json.loads(path.read_text())
    values["normalizer"] = {"type": "Replace", "pattern": {"Regex": "."}, "content": ""}
    path.write_text(json.dumps(values))
    message = "task 'a': the tokenizer finds no token in any text; use another corpus"
    refuse(run, work, code=8, message=message)


def test_a_disk_that_is_too_small(run: Run, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda path: SimpleNamespace(free=1_000_000))
    message = "out: about 1.2 MB are needed and 1.0 MB are free; free some space"
    refuse(run, work, code=6, message=message)


def test_a_disk_that_is_too_small_does_not_stop_a_finished_export(
    run: Run, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("export", "m", "--task", "a=a.jsonl", "--ratio", "0.2", "--out", "out", "--quiet")
    assert run(*arguments).code == 0
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
    assert run(*arguments).code == 0


FULL = "the disk is full; free some space and run the same command again to go on"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), FULL),
        (SafetensorError("I/O error: No space left on device (os error 28)"), FULL),
        (
            PermissionError(errno.EACCES, "Permission denied", "out/x"),
            "out/x: permission denied; choose another folder or mend its permissions",
        ),
        (OSError(errno.EROFS, "Read-only", "out/x"), "out/x: the file system is read-only; choose another folder"),
        (OSError(errno.EIO, "Input/output error", "out/x"), "out/x: Input/output error"),
        (MemoryError(), "out of memory; close other programs, or give a smaller --batch-tokens"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
            "out of memory; close other programs, or give a smaller --batch-tokens",
        ),
        (
            ImportError("libcudart.so"),
            "a library is missing or broken: libcudart.so; install seap-export again",
        ),
    ],
)
def test_the_environment_fails_while_writing(
    run: Run, work: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    def fail(*args: object) -> None:
        raise error

    monkeypatch.setattr(calibration.CalibrationWriter, "finish", fail)
    refuse(run, work, code=6, message=message)


def test_a_disk_that_fills_up_in_the_middle(run: Run, done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The step is not there at all, the steps before it are, and the old variants are untouched."""
    before = files(done)
    write = SafetensorsWriter.write

    def fill(self: SafetensorsWriter, name: str, tensor: torch.Tensor) -> None:
        if "layers.1" in name:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, name, tensor)

    monkeypatch.setattr(SafetensorsWriter, "write", fill)
    arguments = ("export", "m", "--task", "a=a.jsonl", "--ratio", "0.3", "--out", "out", "--quiet")
    outcome = run(*arguments)

    assert (outcome.code, outcome.err) == (6, f"Error: {FULL}\n")
    manifest = str(done / "manifest.json")
    after = files(done)
    assert after.keys() - before.keys() == {str(done / "a-0.3"), str(done / "a-0.3" / "plan.json")}
    assert all(after[name] == content for name, content in before.items() if name != manifest)
    monkeypatch.undo()
    monkeypatch.chdir(done.parent)
    assert run(*arguments).code == 0


def test_a_failure_in_the_conversion_leaves_no_onnx(run: Run, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from converters import onnx_writer
    from seap_export.pipeline import convert

    def fail(*args: object, **kwargs: object) -> None:
        onnx_writer.write_onnx(*args, **kwargs)  # type: ignore[arg-type]
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(convert, "write_onnx", fail)
    outcome = run("export", "m", "--task", "a=a.jsonl", "--ratio", "0.2", "--out", "out", "--quiet")
    assert (outcome.code, outcome.err) == (6, f"Error: {FULL}\n")
    assert sorted(path.name for path in (work / "out" / "a-0.2").iterdir()) == ["hf", "plan.json"]
    assert sorted(path.name for path in (work / "out").iterdir()) == [
        ".seap-export.lock", "a-0.2", "calibration", "manifest.json",
    ]  # fmt: skip


def test_a_folder_that_cannot_be_made(run: Run, work: Path) -> None:
    message = "a part of this path is a file; choose another folder"
    refuse(run, work, "--out", "/dev/null/x", code=6, message=f"/dev/null/x: {message}")


def test_an_internal_error_is_one_line_too(run: Run, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise ZeroDivisionError("by\nzero")

    monkeypatch.setattr(calibration.CalibrationWriter, "finish", fail)
    message = "internal error: ZeroDivisionError: by zero; set SEAP_EXPORT_TRACEBACK=1 to see where, and report it"
    refuse(run, work, code=1, message=message)


@pytest.mark.parametrize("target", ["m", "."])
def test_force_never_removes_a_folder_of_another_kind(run: Run, done: Path, work: Path, target: str) -> None:
    before = files(work)
    tail = ("--out", target, "--force", "--quiet")
    plan, statistics = done / "a-0.2" / "plan.json", done / "calibration" / "a"
    for command in (("prune", "m", "--plan", plan, "--calibration", statistics), ("convert", "m")):
        outcome = run(*command, *tail)
        assert outcome.code == 2
        assert outcome.err.startswith(f"Error: {target} holds something else ('")
    outcome = run("plan", "m", "--calibration", statistics, "--ratio", "0.2", *tail)
    assert (outcome.code, outcome.err) == (2, f"Error: {target} is a folder; give a file as --out\n")
    assert files(work) == before


def test_a_sharded_model_without_one_shard(run: Run, work: Path) -> None:
    tensors = load_file(work / "m" / "model.safetensors")
    names = list(tensors)
    weight_map = {name: f"model-{'1' if index < 5 else '2'}.safetensors" for index, name in enumerate(names)}
    for shard in set(weight_map.values()):
        save_file({n: t for n, t in tensors.items() if weight_map[n] == shard}, work / "m" / shard)
    (work / "m" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (work / "m" / "model.safetensors").unlink()
    shutil.copytree(work / "m", work / "whole")
    (work / "m" / "model-2.safetensors").unlink()
    message = "m/model-2.safetensors: weights are missing; a model folder needs safetensors files"
    refuse(run, work, code=8, message=message)
    assert run("inspect", "whole").code == 0


def test_export_module_is_what_the_command_uses() -> None:
    """The monkeypatches above would otherwise prove nothing."""
    assert export.calibrate_tasks is calibration.calibrate_tasks


def test_export_for_cuda_is_refused_before_any_work(run: Run, work: Path) -> None:
    before = sorted(path.name for path in work.iterdir())
    outcome = run("export", "m", "--task", "a=a.jsonl", "--ratio", "0.2", "--out", "out", "--provider", "cuda")
    assert outcome.code == 6
    assert outcome.err.startswith("Error: CUDA execution provider could not be created: ")
    assert outcome.err.endswith("; 'seap-export convert --provider cuda' writes files unchecked\n")
    assert sorted(path.name for path in work.iterdir()) == before


def test_a_form_that_cannot_be_written_is_refused_before_any_work(run: Run, work: Path) -> None:
    message = "the cpu provider cannot run bf16; use fp32, fp16, int8 or int4"
    refuse(run, work, "--precision", "bf16", code=2, message=message)
    message = "the standard dialect has no quantised weights; use the fused dialect, fp32 or fp16"
    refuse(run, work, "--precision", "int8", "--dialect", "standard", code=2, message=message)
