"""Every bad input: one line, an exit code, nothing left and nothing overwritten."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
from safetensors import SafetensorError
from support.editing import edit_json, edit_weights, set_json
from support.exports import Run
from support.models import write_micro_model
from support.stand_ins.families import WRONG_FAMILIES, describe_gemma3
from support.variations import VARIATIONS

from seap_export.cli.errors import as_click_error
from seap_export.cli.main import main
from seap_export.errors import ParityFailure
from seap_export.model.families import family_of_model_type
from seap_export.pipeline.cost import checks
from seap_export.pipeline.steps.single import calibration

#: More than Python makes a number of.
DIGITS = "9" * 5001


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


def refuse(run: Run, work: Path, *arguments: object, code: int, says: str, resumable: bool = False) -> None:
    """Runs an export of model `m`, with the last of repeated options, that must fail and leave no trace.

    Where the inputs are not at fault, what is finished of a step waits for the next run, hidden.
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


#: What the command line itself refuses, and one row of each kind of error that is raised below it.
USAGE = [
    (["--ratio", "0.2", "--ratio", "0.20000001"], "a ratio is given twice"),  # both would be called a-0.2
    (["--ratio", "20"], "'--ratio': 20 is out of range; for 20 percent, give 20%"),
    (["--ratio", "0.999"], "ratio 0.999 cannot be reached"),
    (["--threads", "999"], "--threads 999 is out of range; cores"),
    (["--precision", "bf16"], "the cpu provider cannot run bf16"),
    (["--vocabulary", DIGITS], "--vocabulary is not a number of tokens"),
    (["--task", "my texts.jsonl"], "write NAME=FILE, such as maths=my texts.jsonl"),
    (["--task", "a=none.jsonl"], "none.jsonl no such file"),
    (["--set", "held_out=0"], "held_out=0: 0 is not in the range"),
    (["--set", f"seed={DIGITS}"], "seed must be a whole number"),
    (["--set", "limits=a.jsonl"], "a.jsonl:1: not valid TOML"),
    (["--set", "general_text=none.txt", "--quality"], "general_text none.txt"),
    (["--set", "sed=1"], "unknown key; did you mean 'seed'"),
    (["--no-router"], "'--no-router' is a setting; use --set router=false"),
    (["--set", "mix=../x=a"], "'../x' cannot name a folder"),
    (["--out", "dangling"], "dangling is not a folder"),
    (["--out", "a.jsonl/out", "--dry-run"], "a.jsonl is not a folder"),
    (["--recipe", "uneven.toml", "--layout", "uniform"], "uneven.toml:2: sparsity: "),
    (["--config", "none.toml"], "none.toml: cannot be read"),
    (["--zzzzzz"], "; see 'seap-export export --help'"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "says"), USAGE)
def test_usage(run: Run, work: Path, options: list[str], says: str) -> None:
    (work / "dangling").symlink_to("nowhere")
    (work / "uneven.toml").write_text('score = "wifv"\n[sparsity]\nprotect_first = 1\n')
    refuse(run, work, *options, code=2, says=says)


def scale(name: str, factor: float) -> Callable[[Path], object]:
    return lambda model: edit_weights(model, lambda tensors: tensors[name].mul_(factor))


def without_end(model: Path) -> None:
    for name in ("config.json", "generation_config.json"):
        set_json(model / name, eos_token_id=None)


def tokenizer(**values: Any) -> Callable[[Path], object]:
    return lambda model: set_json(model / "tokenizer.json", **values)


def config(**values: Any) -> Callable[[Path], object]:
    return lambda model: set_json(model / "config.json", **values)


def add_a_token(values: dict[str, Any]) -> None:
    values["model"]["vocab"].update(the=96)


#: Of which nothing is left.
MUTE = {"type": "Replace", "pattern": {"Regex": "."}, "content": ""}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (scale("lm_head.weight", float("nan")), "m: tensor 'lm_head.weight' NaN or infinite"),
        (scale("model.layers.2.mlp.down_proj.weight", float("inf")), "down_proj.weight' NaN or infinite"),
        (scale("model.embed_tokens.weight", 0.0), "m: tensor 'model.embed_tokens.weight' only zeros"),
        (scale("model.layers.1.mlp.down_proj.weight", 1e30), "m: layer 1 float32"),  # its squares are infinite
        (lambda model: os.truncate(model / "model.safetensors", 50_000), "m/model.safetensors truncated"),
        (without_end, "config.json generation_config.json eos_token_id"),
        (lambda model: edit_json(model / "tokenizer.json", add_a_token), "m: its tokenizer gives token id 96, "),
        (config(intermediate_size=96), "config weights gate_proj.weight"),
        (tokenizer(normalizer=MUTE), "task 'a': the tokenizer gives no token for any text; use another corpus"),
        (tokenizer(model={"type": "WordLevel"}), "tokenizer loaded"),
        (config(model_type="dbrx"), "dbrx mixture-of-experts"),
        (config(model_type="t9"), "t9 docs/families.md"),
        (config(model_type="gemma3", text_config={"model_type": "llama"}), "llama gemma3"),
        (config(clip_qkv=8.0), "clip_qkv llama"),
    ],
)
def test_a_model_that_cannot_be_used(run: Run, work: Path, change: Callable[[Path], object], says: str) -> None:
    change(work / "m")
    refuse(run, work, code=8, says=says)


def test_a_model_that_its_own_class_computes_otherwise(run: Run, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_micro_model(work / "gemma", **VARIATIONS["gemma3-all"])
    describe_gemma3(monkeypatch, **WRONG_FAMILIES["window"](family_of_model_type("gemma3_text")))
    refuse(run, work, "gemma", code=8, says="layer 1 gemma3_text transformers")


def test_what_the_machine_and_the_network_lack(run: Run, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: object, **kwargs: object) -> str:
        raise ConnectionError("offline\nand more")

    def disk(total: int, free: int) -> Callable[[Path], object]:
        return lambda path: SimpleNamespace(total=total, free=free)

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    refuse(run, work, "some/model", code=6, says="some/model: no such folder hub (offline) network")
    dry = ("export", "m", "--task", "a=a.jsonl", "--ratio", "0.2", "--out", "out", "--dry-run", "--quiet")
    for memory, warnings in (("1MB", 1), ("1GB", 0)):
        outcome = run(*dry, "--memory", memory)
        assert (outcome.code, outcome.err.count("Warning: "), outcome.err.count("--memory")) == (0, warnings, warnings)
    monkeypatch.setattr(checks.shutil, "disk_usage", disk(1 << 40, 1_000_000))
    refuse(run, work, code=6, says="out: about 1.9 MB are needed and 1.0 MB are free; another --out")
    monkeypatch.setattr(checks.shutil, "disk_usage", disk(0, 0))  # no space can be freed there
    refuse(run, work, "--dry-run", code=6, says=f"out: {work} is not on a disk; use another --out")
    monkeypatch.setattr(checks.os, "access", lambda path, mode: False)
    refuse(run, work, code=6, says=f"out: {work} read-only not write there; use another --out")


def test_tasks_in_one_variant_that_share_texts(run: Run, work: Path) -> None:
    """The variant would be measured on texts that it was made from."""
    lines = (work / "a.jsonl").read_text().splitlines(keepends=True)
    (work / "b.jsonl").write_text("".join(lines[:50]) + (work / "b.jsonl").read_text())
    tasks = ("--task", "a=a.jsonl", "--task", "b=b.jsonl")
    says = "general held-out texts of task 'a' calibration 'b'"
    refuse(run, work, *tasks, "--general", "--quality", code=8, says=says)


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
    ("error", "code", "says"),
    [
        (SafetensorError("I/O error: No space left on device (os error 28)"), 6, "disk is full"),
        (PermissionError(errno.EACCES, "Permission denied", "out/x"), 6, "out/x: permission denied"),
        (OSError(errno.EROFS, "Read-only", "out/x"), 6, "out/x: the file system is read-only; choose another folder"),
        (OSError(errno.EIO, "Input/output error", "out/x"), 6, "out/x: Input/output error"),
        (MemoryError(), 6, "out of memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), 6, "out of memory"),
        (ImportError("libcudart.so"), 6, "a library is missing or broken: libcudart.so; install seap-export again"),
        (Exception("a text"), 8, "the model's tokenizer does not work (a text); download the model again"),
        (KeyboardInterrupt(), 130, "interrupted; run the same command again to continue"),
        (ParityFailure("it differs"), 3, "it differs"),
    ],
)
def test_each_error_is_a_line_and_a_code(error: BaseException, code: int, says: str) -> None:
    failure = as_click_error(error)
    assert failure.exit_code == code
    assert says in failure.message
    assert "\n" not in failure.message


def test_an_internal_error_while_writing(run: Run, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise ZeroDivisionError("by\nzero")

    monkeypatch.setattr(calibration, "write_record", fail)
    refuse(run, work, code=1, says="internal error: ZeroDivisionError: by zero; report it", resumable=True)


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
