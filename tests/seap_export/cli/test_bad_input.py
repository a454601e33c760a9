"""Every bad input: one line, an exit code, nothing left and nothing overwritten."""

from __future__ import annotations

import errno
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
import torch
from safetensors import SafetensorError
from support.editing import edit_json, edit_weights, set_json
from support.exports import Run
from support.product import SafetensorsWriter

from seap_export.cli.main import main
from seap_export.pipeline.cost import checks
from seap_export.pipeline.steps.single import calibration

#: More than Python makes a number of.
DIGITS = "9" * 5001


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


def refuse(run: Run, work: Path, *arguments: object, code: int, says: str, resumable: bool = False) -> None:
    """Runs an export of model `m`, with the last of repeated options, that must fail and leave no trace.

    Its message is one line that holds the words of `says`; the sentence around them is not asserted. Where the inputs
    are not at fault, what is finished of a step waits for the next run, hidden.
    """
    before = files(work)
    given = [str(argument) for argument in arguments]
    model = [] if given and not given[0].startswith("--") else ["m"]
    defaults = {"--task": "a=a.jsonl", "--ratio": "0.2", "--out": "out"}
    for name, value in defaults.items():
        given += [] if name in given else [name, value]
    outcome = run("export", *model, *given, "--quiet", "--json")

    outcome.refused_in_json(code, *says.split())
    kept = set((work / "out").glob(".seap-export-*")) if resumable else set()
    after = files(work)
    for path in (*kept, *(below for folder in kept for below in folder.rglob("*")), *([work / "out"] if kept else ())):
        after.pop(str(path))
    assert bool(kept) == resumable
    assert after == before


@pytest.mark.parametrize(
    ("task", "code", "says"),
    [
        ("a=none.jsonl", 2, "none.jsonl no such file"),
        ("none.jsonl", 2, "none.jsonl no such file"),
    ],
)
def test_corpus(run: Run, work: Path, task: str, code: int, says: str) -> None:
    refuse(run, work, "--task", task, code=code, says=says)


def test_a_field_that_is_not_there(run: Run, work: Path) -> None:
    (work / "task.toml").write_text('corpus = "a.jsonl"\nprompt = "{question}"\n')
    refuse(run, work, "--task", "a=task.toml", code=8, says="question a.jsonl")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--ratio", "1"], "'--ratio': 1 is out of range; give at least 0 and less than 1"),
        (["--ratio", "-0.1"], "'--ratio': -0.1 is out of range"),
        (["--ratio", "nan"], "'--ratio': nan is out of range"),
        (["--ratio", "inf"], "'--ratio': inf is out of range"),
        (["--ratio", "0.999"], "ratio 0.999 cannot be reached"),
        (["--ratio", "0.2", "--ratio", "0.20"], "a ratio is given twice"),
        (["--ratio", "0.2", "--ratio", "0.20000001"], "a ratio is given twice"),  # both would be called a-0.2
        (["--ratio", "much"], "'--ratio': 'much' is not a number; give a fraction such as 0.2, or 20%"),
        (["--ratio", "20"], "'--ratio': 20 is out of range; for 20 percent, give 20%"),
        (["--ratio", "120%"], "'--ratio': 120% is out of range"),
        (["--set", "samples=-3"], "samples=-3: -3 is not in the range"),
        (["--calibration-tokens", "0"], "'--calibration-tokens': 0"),
        (["--threads", "0"], "'--threads': 0"),
        (["--threads", "999"], "--threads 999 is out of range; cores"),
        (["--precision", "int8", "--precision", "int4"], "'--precision' is given 2 times; once for each value"),
        (["--ratio", "0.2,0.5"], "'0.2,0.5' is not a number; repeat the option"),
        (["--target-size", "60"], "'60' has no unit; write 60MB or 60GB"),
        (["--memory", "4"], "'4' has no unit; write 4MB or 4GB"),
        (["--general"], "--general one task; leave it out"),
        (["--precision", "int4", "--format", "gguf"], "--precision --format gguf:q4_0"),
        (["--precision", "int8", "--format", "web"], "--precision --format web:q8"),
        (["--task", "my texts.jsonl"], "write NAME=FILE, such as maths=my texts.jsonl"),
        (["--set", "held_out=0"], "held_out=0: 0 is not in the range"),
        (["--set", "max_length=1"], "max_length=1: 1 is not in the range"),
        (["--set", "batch_tokens=0"], "batch_tokens=0: 0"),
        (["--set", "prompts=0"], "prompts=0: 0"),
        (["--set", "decode_steps=0"], "decode_steps=0: 0"),
        (["--set", "long_tokens=0"], "long_tokens=0: 0"),
        (["--set", "seed=one"], "whole number"),
        (["--set", "asymmetric=1"], "true or false"),
        (["--set", "dialect=plain"], "dialect=plain"),
        (["--set", "limits=a.jsonl"], "a.jsonl:1: not valid TOML"),
        (["--set", "sed=1"], "unknown key; did you mean 'seed'"),
        (["--samples", "8"], "'--samples' is a setting; use --set samples="),
        (["--set", "seed"], "KEY=VALUE"),
        (["--set", "=1"], "KEY=VALUE"),
        (["--seed", "1"], "'--seed' is a setting; use --set seed="),
        (["--no-router"], "'--no-router' is a setting; use --set router=false"),
        (["--out", "m"], "m not empty 'config.json'"),
        (["--out", "a.jsonl"], "a.jsonl is not a folder"),
        (["--out", "dangling"], "dangling is not a folder"),
        (["--out", "a.jsonl/deep/out"], "a.jsonl is not a folder"),
        (["--out", "a.jsonl/out", "--dry-run"], "a.jsonl is not a folder"),
        (["--recipe", "magic"], "recipe 'magic' is not known"),
        (["--recipe", "a.jsonl"], "a.jsonl:1: not valid TOML"),
        (["--recipe", "uneven.toml", "--layout", "uniform"], "uneven.toml:2: sparsity: "),
        (["--config", "none.toml"], "none.toml: cannot be read"),
        (["--config", "a.jsonl"], "a.jsonl:1: not valid TOML"),
        (["--config", "digits.toml"], "digits.toml:2: 64 bits"),
        (["--set", f"seed={DIGITS}"], "seed must be a whole number"),
        (["--target-size", f"{DIGITS}MB"], "is not a size"),
        (["--vocabulary", DIGITS], "--vocabulary is not a number of tokens"),
        (["--set", "weight.a=2"], "no effect on one task"),
        (["--task", "a=a.jsonl", "--task", "b=a.jsonl", "--set", "weight.a=2"], "--general"),
        (["--general", "--set", "weight.c=2"], "name a task of this run"),
        (["--set", "mix=../x=a"], "'../x' cannot name a folder"),
        (["--general", "--task", "general=a.jsonl"], "the name 'general'"),
        (["--set", "threshold=0.9", "--set", "router=false"], "threshold has no effect"),
        (["--set", "threshold=1.5"], "1.5 is not in the range"),
        (["--zzzzzz"], "'--zzzzzz'; see 'seap-export export --help'"),
    ],
)
def test_usage(run: Run, work: Path, options: list[str], says: str) -> None:
    (work / "dangling").symlink_to("nowhere")
    (work / "digits.toml").write_text(f"threads = 1\nblock_size = {DIGITS}\n")
    (work / "uneven.toml").write_text('score = "wifv"\n[sparsity]\nprotect_first = 1\n')
    refuse(run, work, *options, code=2, says=says)


def test_a_family_that_is_not_supported(run: Run, work: Path) -> None:
    set_json(work / "m" / "config.json", model_type="xglm")
    refuse(run, work, code=8, says="xglm positions")


def test_a_model_that_is_not_there(run: Run, work: Path) -> None:
    refuse(run, work, "./none", code=2, says="./none: no such folder or file")


def test_a_hub_model_that_cannot_be_had(run: Run, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def offline(*args: object, **kwargs: object) -> str:
        raise ConnectionError("offline\nand more")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    says = "some/model: no such folder, and the hub could not provide it (offline); check the name and the network"
    refuse(run, work, "some/model", code=6, says=says)


def test_truncated_safetensors(run: Run, work: Path) -> None:
    path = work / "m" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:50_000])
    refuse(run, work, code=8, says="m/model.safetensors truncated")


def test_config_and_weights_disagree(run: Run, work: Path) -> None:
    set_json(work / "m" / "config.json", intermediate_size=96)
    refuse(run, work, code=8, says="config weights model.layers.0.mlp.gate_proj.weight")


@pytest.mark.parametrize(
    "name", ["model.embed_tokens.weight", "model.layers.2.mlp.down_proj.weight", "lm_head.weight"]
)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers(run: Run, work: Path, name: str, value: float) -> None:
    edit_weights(work / "m", lambda tensors: tensors[name].view(-1)[3:4].fill_(value))
    refuse(run, work, code=8, says=f"m: tensor '{name}' NaN or infinite")


@pytest.mark.parametrize(
    ("name", "factor", "says"),
    [
        ("model.embed_tokens.weight", 0.0, "m: tensor 'model.embed_tokens.weight' only zeros"),
        ("lm_head.weight", 0.0, "m: tensor 'lm_head.weight' only zeros"),
        ("model.layers.1.mlp.down_proj.weight", 1e30, "m: layer 1 float32"),  # its squares are infinite
        ("model.layers.1.mlp.gate_proj.weight", 1e38, "m: layer 1 float32"),
    ],
)
def test_weights_that_compute_nothing(run: Run, work: Path, name: str, factor: float, says: str) -> None:
    edit_weights(work / "m", lambda tensors: tensors[name].mul_(factor))
    refuse(run, work, code=8, says=says)


def test_a_model_that_names_no_end_of_sequence(run: Run, work: Path) -> None:
    for name in ("config.json", "generation_config.json"):
        set_json(work / "m" / name, eos_token_id=None)
    says = "config.json generation_config.json eos_token_id"
    refuse(run, work, code=8, says=says)


@pytest.mark.parametrize("source", ["m", "folder.toml", "a.jsonl/x.jsonl", "a.jsonl/x.toml"])
def test_what_is_no_file_is_refused_as_what_is_not_there(run: Run, work: Path, source: str) -> None:
    (work / "folder.toml").mkdir()
    refuse(run, work, "--task", f"a={source}", code=2, says=f"{source} file")


def test_a_damaged_tokenizer(run: Run, work: Path) -> None:
    (work / "m" / "tokenizer.json").write_text('{"model": {"type": "WordLevel"}}')
    refuse(run, work, code=8, says="m tokenizer loaded")


def test_the_tokenizer_of_another_model(run: Run, work: Path) -> None:
    edit_json(work / "m" / "tokenizer.json", lambda values: values["model"]["vocab"].update(the=96))
    says = "m: its tokenizer gives token id 96, "
    refuse(run, work, code=8, says=says)


def test_texts_without_a_token(run: Run, work: Path) -> None:
    set_json(work / "m" / "tokenizer.json", normalizer={"type": "Replace", "pattern": {"Regex": "."}, "content": ""})
    says = "task 'a': the tokenizer gives no token for any text; use another corpus"
    refuse(run, work, code=8, says=says)


@pytest.mark.parametrize("more", [("--quality",), ("--quality", "--dry-run")])
def test_tasks_in_one_variant_that_share_texts(run: Run, work: Path, more: tuple[str, ...]) -> None:
    """The variant would be measured on texts that it was made from."""
    lines = (work / "a.jsonl").read_text().splitlines(keepends=True)
    (work / "b.jsonl").write_text("".join(lines[:50]) + (work / "b.jsonl").read_text())
    tasks = ("--task", "a=a.jsonl", "--task", "b=b.jsonl")
    refuse(run, work, *tasks, "--general", *more, code=8, says="general held-out texts of task 'a' calibration 'b'")


def test_a_disk_that_is_too_small(run: Run, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda path: SimpleNamespace(total=1 << 40, free=1_000_000))
    says = "out: about 4.7 MB are needed and 1.0 MB are free; free some space, or use another --out"
    refuse(run, work, code=6, says=says)


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_a_folder_that_takes_no_files(
    run: Run, work: Path, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]
) -> None:
    """No space can be freed there."""
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda path: SimpleNamespace(total=0, free=0))
    refuse(run, work, *more, code=6, says=f"out: {work} is not on a disk; use another --out")
    monkeypatch.setattr(checks.os, "access", lambda path, mode: False)
    refuse(run, work, *more, code=6, says=f"out: {work} read-only not write there; use another --out")


@pytest.mark.parametrize("name", main.commands)
def test_what_must_be_given(run: Run, work: Path, name: str) -> None:
    """Whatever is left out, the line shows a whole command."""
    (work / "0").mkdir()
    words = {
        param: ["0"] if isinstance(param, click.Argument) else [param.opts[0], "0"]
        for param in main.commands[name].params
        if param.required
    }
    for missing in words:
        given = (word for param, both in words.items() if param is not missing for word in both)
        run(name, *given).refused(2, "missing", f"an example: seap-export {name} ")


@pytest.mark.parametrize(
    "command",
    [
        ("validate",), ("inspect",), ("convert", "--out", "x"), ("plot", "--out", "x"), ("bench", "--dense", "m"),
        ("evaluate", "--dense", "m"), ("generate", "hello"), ("route", "hello"),
    ],
)  # fmt: skip
def test_a_path_that_is_not_there(run: Run, work: Path, command: tuple[str, ...]) -> None:
    """Every command says the same."""
    message = run(command[0], "nowhere", *command[1:]).refused(2)
    assert message == "nowhere: no such file or folder; check the path"
    assert not (work / "x").exists()


@pytest.mark.parametrize(
    "command",
    [
        ("calibrate", "m", "--task", "a=nowhere.jsonl", "--out", "x"),
        ("calibrate", "m", "--task", "a=nowhere.toml", "--out", "x"),
        ("convert", "m", "--calibration", "nowhere", "--precision", "int4", "--out", "x"),
        ("plan", "m", "--calibration", "nowhere", "--ratio", "0.2"),
        ("plot", "m", "--evaluation", "nowhere", "--out", "x"),
        ("prune", "m", "--plan", "nowhere", "--calibration", "nowhere", "--out", "x"),
        ("calibrate", "nowhere.gguf", "--task", "a=a.jsonl", "--out", "x"),
        ("route", "m", "--prompt-file", "nowhere"),
    ],
)
def test_an_option_that_leads_nowhere(run: Run, work: Path, command: tuple[str, ...]) -> None:
    """The exit code is that of every path that is not there, whatever is looked for."""
    run(*command).refused(2, "nowhere")
    assert not (work / "x").exists()


def test_a_layer_that_needs_more_than_the_memory(run: Run, work: Path) -> None:
    arguments = ("export", "m", "--task", "a=a.jsonl", "--ratio", "0.2", "--out", "out", "--dry-run", "--quiet")
    outcome = run(*arguments, "--memory", "1MB")
    assert (outcome.code, outcome.err.count("Warning: ")) == (0, 1)
    assert "--memory" in outcome.err
    assert run(*arguments, "--memory", "1GB").err == ""


def test_a_disk_that_is_too_small_does_not_stop_a_finished_export(
    run: Run, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("export", "m", "--task", "a=a.jsonl", "--ratio", "0.2", "--out", "out", "--quiet")
    assert run(*arguments).code == 0
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda path: SimpleNamespace(total=1 << 40, free=0))
    assert run(*arguments).code == 0


FULL = "disk is full"


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), FULL),
        (SafetensorError("I/O error: No space left on device (os error 28)"), FULL),
        (PermissionError(errno.EACCES, "Permission denied", "out/x"), "out/x: permission denied"),
        (OSError(errno.EROFS, "Read-only", "out/x"), "out/x: the file system is read-only; choose another folder"),
        (OSError(errno.EIO, "Input/output error", "out/x"), "out/x: Input/output error"),
        (FileNotFoundError(errno.ENOENT, "No such", "out/x"), "out/x: no such file or folder; check the path"),
        (MemoryError(), "out of memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "out of memory"),
        (ImportError("libcudart.so"), "a library is missing or broken: libcudart.so; install seap-export again"),
    ],
)
def test_the_environment_fails_while_writing(
    run: Run, work: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, says: str
) -> None:
    def fail(*args: object) -> None:
        raise error

    monkeypatch.setattr(calibration, "write_record", fail)
    refuse(run, work, code=6, says=says, resumable=True)


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
    run(*arguments).refused(6, FULL)
    changed = {str(done / "manifest.json"), str(done / "performance.json")}
    after = files(done)
    new = {name for name in after.keys() - before.keys() if ".seap-export-unfinished-" not in name}
    assert new == {str(done / "a-0.3"), str(done / "a-0.3" / "plan.json")}
    assert all(after[name] == content for name, content in before.items() if name not in changed)
    monkeypatch.undo()
    monkeypatch.chdir(done.parent)
    assert run(*arguments).code == 0


def test_a_failure_in_the_conversion_leaves_no_onnx(run: Run, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from converters.onnx import folder, onnx_writer

    def fail(*args: object, **kwargs: object) -> None:
        onnx_writer.write_onnx(*args, **kwargs)  # type: ignore[arg-type]
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(folder, "write_onnx", fail)
    arguments = ("export", "m", "--task", "a=a.jsonl", "--ratio", "0.2", "--out", "out", "--quiet")
    run(*arguments).refused(6, "No space left on device", "free disk space")
    assert sorted(path.name for path in (work / "out" / "a-0.2").iterdir()) == ["hf", "plan.json"]
    assert sorted(path.name for path in (work / "out").iterdir()) == [
        ".seap-export.lock", "a-0.2", "calibration", "manifest.json", "performance.json", "ranking",
    ]  # fmt: skip


def test_an_internal_error_is_one_line_too(run: Run, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise ZeroDivisionError("by\nzero")

    monkeypatch.setattr(calibration, "write_record", fail)
    says = (
        "internal error: ZeroDivisionError: by zero; set SEAP_EXPORT_TRACEBACK=1 to see the traceback, and report it"
    )
    refuse(run, work, code=1, says=says, resumable=True)


@pytest.mark.parametrize("target", ["m", "."])
def test_force_never_removes_a_folder_of_another_kind(run: Run, done: Path, work: Path, target: str) -> None:
    before = files(work)
    tail = ("--out", target, "--force", "--quiet")
    plan, statistics = done / "a-0.2" / "plan.json", done / "calibration" / "a"
    for command in (("prune", "m", "--plan", plan, "--calibration", statistics), ("convert", "m")):
        run(*command, *tail).refused(2, f"{target} is not empty (")
    run("plan", "m", "--calibration", statistics, "--ratio", "0.2", *tail).refused(
        2, f"{target} is a folder; give the path of a file"
    )
    assert files(work) == before


def test_export_for_cuda_is_refused_before_any_work(run: Run, work: Path) -> None:
    before = sorted(path.name for path in work.iterdir())
    outcome = run("export", "m", "--task", "a=a.jsonl", "--ratio", "0.2", "--out", "out", "--provider", "cuda")
    outcome.refused(6, "CUDA", "convert --provider cuda")
    assert sorted(path.name for path in work.iterdir()) == before


def test_a_form_that_cannot_be_written_is_refused_before_any_work(run: Run, work: Path) -> None:
    says = "the cpu provider cannot run bf16; use fp32, fp16, int8, int4, w8a8 or w4a8"
    refuse(run, work, "--precision", "bf16", code=2, says=says)
    says = "the standard dialect has no quantised weights; use the fused dialect, fp32 or fp16"
    refuse(run, work, "--precision", "int8", "--set", "dialect=standard", code=2, says=says)
