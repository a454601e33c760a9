"""A disk that fills up or takes nothing: exit code 6, one line, nothing half done; the same command goes on."""

from __future__ import annotations

import errno
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from robustness.commands import ALL, assert_whole, tree
from support.exports import Run
from support.processes import Tool
from support.product import read_manifest

from converters.onnx import format as onnx_format
from seap_export.pipeline.folder.manifest import Manifest
from seap_export.pipeline.steps.joint import router
from seap_export.pipeline.steps.single import variant as variants

#: Others write to the disk, too: it had room enough when the run began.
ROOM_ENOUGH = """
import shutil
from types import SimpleNamespace
shutil.disk_usage = lambda path: SimpleNamespace(free=2**40, total=2**40)
"""
FULL = "disk is full"
#: Of what an export takes, as a disk grows.
SHARES = (0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.08, *(share / 100 for share in range(10, 100, 6)))


@pytest.fixture
def small_disk(tool: Tool, work: Path) -> Path:
    """A file system of 4 KiB, which only the tool sees."""
    disk = work / "disk"
    disk.mkdir()
    tool.shell("mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", disk)
    return disk


def _resize(tool: Tool, disk: Path, size: str) -> None:
    """With its source, without which `mount` repeats options that users other than root may not give."""
    tool.shell("mount", "-o", f"remount,size={size}", "tmpfs", disk)


@pytest.mark.needs("mount")
def test_a_disk_that_grows_a_little_each_time_gets_the_same_export(
    tool: Tool, work: Path, small_disk: Path, undisturbed: Path
) -> None:
    onto = tuple("disk" if word == "out" else word for word in ALL)
    takes, steps = sum(path.stat().st_size for path in undisturbed.rglob("*") if path.is_file()), set()
    for share in SHARES:
        _resize(tool, small_disk, f"{takes * share / 2**10:.0f}k")
        message = tool(work, *onto, before=ROOM_ENOUGH).refused(6)
        assert FULL in message or "No space left on device" in message
        copy = work / f"at {share}"
        tool.shell("cp", "-a", small_disk, copy)
        assert not list(copy.glob(".seap-export-tmp-*"))
        assert_whole(copy)
        steps.add(len(read_manifest(copy).steps))
        shutil.rmtree(copy)
    assert len(steps) > 3  # it went on each time, as far as the disk took it
    _resize(tool, small_disk, "100m")
    assert tool(work, *onto).code == 0
    tool.shell("cp", "-a", small_disk, work / "copy")
    assert tree(work / "copy") == tree(undisturbed)


@pytest.mark.needs("mount")
def test_a_full_folder_of_temporary_files(tool: Tool, work: Path, small_disk: Path, undisturbed: Path) -> None:
    """The tokenizer's files and the reference's logits go there."""
    for size in (4, 48):
        _resize(tool, small_disk, f"{size}k")
        tool(work, *ALL, environment={"TMPDIR": str(small_disk)}).refused(6)
    _resize(tool, small_disk, "100m")
    assert tool(work, *ALL, environment={"TMPDIR": str(small_disk)}).code == 0
    assert tree(work / "out") == tree(undisturbed)


def test_a_limit_on_the_size_of_files(tool: Tool, work: Path, undisturbed: Path) -> None:
    before = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (MOST, -1))"
    for size, made in ((20_000, None), (300_000, "calibration"), (560_000, "a-0.2")):
        message = tool(work, *ALL, before=before.replace("MOST", str(size))).refused(6)
        assert "larger than" in message or "File too large" in message
        assert made is None or (work / "out" / made).is_dir()
    assert tool(work, *ALL).code == 0
    assert tree(work / "out") == tree(undisturbed)


def full(*args: object, **kwargs: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("module", "name", "step"),
    [
        (variants, "write_plan", "a-0.2/plan.json"),
        (onnx_format, "convert_folder", "a-0.2/onnx"),
        (router, "write_router_graph", "router"),
        (router, "write_router", "router"),
    ],
)
def test_a_step_for_which_there_is_no_room_is_not_there(
    run: Run, done: Path, monkeypatch: pytest.MonkeyPatch, module: Any, name: str, step: str
) -> None:
    write, before = getattr(module, name), tree(done)
    shutil.rmtree(done / step.split("/")[0])

    def half(*args: Any, **kwargs: Any) -> None:
        write(*args, **kwargs)
        full()

    with monkeypatch.context() as patched:
        patched.setattr(module, name, half)
        run(*ALL).refused(6, FULL)
    assert not (done / step).exists()
    assert not list(done.glob(".seap-export-tmp-*"))
    assert_whole(done)
    assert run(*ALL).code == 0
    assert tree(done) == before


def test_no_room_for_the_manifest(run: Run, done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The steps that are there and the manifest stay as they are, and so does a step that was to be replaced."""
    before = tree(done)
    replaced = ("export", "m", "--task", "a=a.jsonl", "--ratio", "0.2", "--out", "out", "--recipe", "wanda-sp")
    with monkeypatch.context() as patched:
        patched.setattr(Manifest, "write", full)
        run(*replaced, "--force", "--quiet").refused(6, FULL)
    assert tree(done) == before
    assert run(*ALL).code == 0
    assert tree(done) == before


READ_ONLY = "read-only"
PLAN = ("--calibration", "out/calibration/a")
WRITING = (
    ALL,
    tuple("out/deep/new" if word == "out" else word for word in ALL),
    ("calibrate", "m", "--task", "a=a.jsonl", "--out", "out"),
    ("plan", "m", *PLAN, "--ratio", "0.2", "--out", "out/plan.json"),
    ("prune", "m", "--plan", "out/a-0.2/plan.json", *PLAN, "--out", "out/pruned"),
    ("convert", "m", "--out", "out/onnx"),
    ("validate", "out/a-0.2", "--check", "integrity", "--out", "out/a.json"),
)
READING = (
    ("inspect", "out"),
    (*ALL, "--dry-run"),
    ("validate", "out/a-0.2", "--prompts", "1", "--decode-steps", "1"),
    ("route", "out", "the cat sat", "--ratio", "0.2", "--generate", "2"),
    ("evaluate", "out/a-0.2", "--dense", "m", "--limit", "2"),
)


@pytest.fixture
def sealed(tool: Tool, done: Path) -> Path:
    """A finished export on a read-only file system, as the tool sees it."""
    tool.shell("mount", "--bind", done, done)
    tool.shell("mount", "-o", "remount,bind,ro", done)
    return done


@pytest.mark.needs("mount")
def test_what_writes_says_so_and_what_reads_works(tool: Tool, sealed: Path) -> None:
    before = tree(sealed)
    for arguments in WRITING:
        tool(sealed.parent, *arguments, "--quiet").refused(6, READ_ONLY, "out")
    for arguments in READING:
        outcome = tool(sealed.parent, *arguments, "--quiet")
        assert (outcome.code, outcome.err) == (0, ""), arguments
    assert tree(sealed) == before


def test_a_folder_that_takes_no_file(run: Run, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same where no mount can be had: the first thing that is made in the folder cannot be."""
    before = tree(work)
    for number, reason in (
        (errno.EROFS, READ_ONLY),
        (errno.EACCES, "permission denied"),
        (errno.EPERM, "not permitted"),
        (errno.EDQUOT, "quota"),
    ):

        def refuse(*args: Any, dir: Any = None, number: int = number, **kwargs: Any) -> str:
            raise OSError(number, "no", f"{dir}/x")

        monkeypatch.setattr(tempfile, "mkdtemp", refuse)
        for arguments in (ALL, ("convert", "m", "--out", "out", "--quiet")):
            run(*arguments).refused(6, reason, "/x")
            assert tree(work) == before
