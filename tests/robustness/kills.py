"""Kills exports at random places, and checks that the same command then ends in the bytes of an undisturbed run.

    python tests/robustness/kills.py --kill 300 --crash 100 --damage 50 [--seed 0] [--only NAME]

A kill is a SIGKILL, after which the kernel has all that was written. A crash is one of the machine: after the kill, a
block may be what it was when it was last synced, or zeros, and a file may end earlier. Damage befalls whatever an
unfinished step has left, synced or not. The exports are of micro models; together they have every step that goes on
after an interruption.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from itertools import count
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

from robustness.commands import assert_whole, tree  # noqa: E402
from support.conversations import conversations, write_chat_model, write_records  # noqa: E402
from support.corpora import write_corpus  # noqa: E402
from support.exports import HELD_OUT_OPTION, Outcome  # noqa: E402
from support.models import write_micro_model  # noqa: E402
from support.processes import Tool  # noqa: E402

OUT, SYNCED = "out", "synced"
BLOCK = 4096
#: Instead of a sync, which takes long, a copy of what it would have saved, by the file's inode.
COPIES_WHAT_IS_SYNCED = f"""
import os
def fsync(handle):
    if os.path.isdir(f"/proc/self/fd/{{handle}}/"):
        return
    inode, part = os.fstat(handle).st_ino, f"{SYNCED}/{{handle}}.part"
    with open(f"/proc/self/fd/{{handle}}", "rb") as file, open(part, "wb") as copy:
        copy.write(file.read())
    os.rename(part, f"{SYNCED}/{{inode}}")
os.makedirs("{SYNCED}", exist_ok=True)
os.fsync = fsync
"""
_FEW = ("--out", OUT, "-q", "--no-speed", "--no-quality", "--set", "prompts=1", "--set", "decode_steps=2")
_SHORT = (*_FEW, *HELD_OUT_OPTION)
_A, _B = ("--task", "a=a.jsonl"), ("--task", "b=b.jsonl")
#: Hidden states, and layers that are trained, then wait in files.
_ON_DISK = ("--memory", "50MB")
#: The words after `seap-export export`.
EXPORTS: Mapping[str, tuple[str, ...]] = {
    "two tasks": ("m", *_A, *_B, "--ratio", "0.2", "--ratio", "0.4", *_SHORT),
    "on disk": ("m", *_A, "--ratio", "0.3", "--format", "hf", *_SHORT, *_ON_DISK),
    "scores": ("m", *_A, *_B, "--general", "--ratio", "0.3", "--recipe", "wanda-sp", "--format", "hf", *_SHORT),
    "trained": ("m", *_A, "--ratio", "0.3", "--recipe", "trained.toml", "--format", "hf", *_SHORT),
    "trained on disk": ("m", *_A, "--ratio", "0.3", "--recipe", "trained.toml", "--format", "hf", *_SHORT, *_ON_DISK),
    "4 bits": ("chat", *_A, "--ratio", "0.3", "--vocabulary", "64", "--format", "onnx:int4", *_SHORT),
    "4 bits on disk": ("m", *_A, "--ratio", "0.3", "--format", "onnx:int4", *_SHORT, *_ON_DISK),
    "answers": (
        *("chat", "--task", "a=talks.jsonl", "--answers", "model", "--set", "answer_tokens=24", "--set", "held_out=4"),
        *("--ratio", "0.3", "--recipe", "fresh.toml", "--format", "hf", *_FEW),
    ),
}
KINDS = ("kill", "crash", "damage")


class Campaign:
    """Runs in a folder with models and corpora."""

    def __init__(self, tool: Tool, folder: Path) -> None:
        self._tool, self._folder, self._out = tool, folder, folder / OUT
        self._whole: dict[str, tuple[dict[str, bytes | None], int]] = {}

    def episode(self, export: str, seed: int, kind: str, most: int) -> tuple[int, int, str]:
        """Interrupts an export up to so many times, at random places, and lets it end.

        Returns:
            How often it was interrupted, how many blocks and ends of files were lost, and what is wrong in the end.
        """
        whole, changes = self._undisturbed(export)
        chance, kills, lost = random.Random(f"{export} {seed} {kind}"), 0, 0
        self._clear()
        while kills < most:
            left = changes if kills == 0 else changes * chance.random()
            delay = chance.choice((0.0, chance.uniform(0.001, 0.03)))
            done = self._run(export, kill_at=chance.randint(1, max(1, int(left))), kill_after=delay)
            if done.code not in (-signal.SIGKILL, -signal.SIGALRM):
                break
            kills += 1
            if kind == "kill" and self._out.is_dir():
                assert_whole(self._out)
            if kind == "crash":
                lost += lose(self._out, self._folder / SYNCED, chance)
            if kind == "damage":
                for folder in self._out.glob(".seap-export-unfinished-*"):
                    lost += lose(folder, self._folder / "nothing is safe", chance)
        done = self._run(export)
        if done.code:
            return kills, lost, f"exit code {done.code}: {done.err}"
        found = tree(self._out)
        others = sorted(name for name in {*found, *whole} if found.get(name) != whole.get(name))
        return kills, lost, f"other bytes: {', '.join(others[:5])}" * bool(others)

    def _undisturbed(self, export: str) -> tuple[dict[str, bytes | None], int]:
        if export not in self._whole:
            self._clear()
            pipe = self._folder / "events"
            os.mkfifo(pipe)
            run = self._tool.start(self._folder, "export", *EXPORTS[export], events=str(pipe))
            changes = len(pipe.read_text("utf-8").splitlines())
            pipe.unlink()
            done = run.wait()
            if done.code:
                raise RuntimeError(f"{export}: {done.err}")
            self._whole[export] = tree(self._out), changes
        return self._whole[export]

    def _clear(self) -> None:
        for name in (OUT, SYNCED):
            shutil.rmtree(self._folder / name, ignore_errors=True)

    def _run(self, export: str, **options: object) -> Outcome:
        words = ("export", *EXPORTS[export])
        return self._tool(self._folder, *words, timeout=600, before=COPIES_WHAT_IS_SYNCED, **options)


def lose(folder: Path, synced: Path, chance: random.Random) -> int:
    """What a crash may do to the files of a folder; returns how much was lost.

    Args:
        folder: The output folder.
        synced: What `COPIES_WHAT_IS_SYNCED` has saved.
        chance: Decides.
    """
    lost = 0
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        saved = synced / str(path.stat().st_ino)
        now, safe = path.read_bytes(), saved.read_bytes() if saved.is_file() else b""
        if now == safe or chance.random() < 0.5:
            continue
        after = bytearray(now)
        for start in range(0, len(now), BLOCK):
            block = safe[start : start + BLOCK].ljust(len(now[start : start + BLOCK]), b"\0")
            if now[start : start + BLOCK] != block and chance.random() < 0.5:
                after[start : start + len(block)] = block
                lost += 1
        if len(now) > len(safe) and chance.random() < 0.3:
            del after[chance.randint(len(safe), len(now) - 1) :]
            lost += 1
        path.write_bytes(after)
    return lost


def write_inputs(folder: Path) -> None:
    write_micro_model(folder / "m", model_type="llama")
    write_chat_model(folder / "chat")
    write_corpus(folder / "a.jsonl")
    write_corpus(folder / "b.jsonl", seed=5)
    write_records(folder / "talks.jsonl", conversations(20))
    (folder / "fresh.toml").write_text("min_tokens = 0\nfresh_tokens = 800\n", "utf-8")
    (folder / "trained.toml").write_text("min_tokens = 0\ndistillation = 12\ntrials = 4\n", "utf-8")
    (folder / "runs").mkdir()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    for kind in KINDS:
        parser.add_argument(f"--{kind}", type=int, default=0, metavar="NUMBER", help="how many of these")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=EXPORTS)
    given = parser.parse_args()
    exports = [given.only] if given.only else list(EXPORTS)
    times, runs, losses, failures = (Counter[str]() for _ in range(4))
    with tempfile.TemporaryDirectory() as name:
        write_inputs(Path(name))
        tool = Tool(Path(name) / "runs")
        campaign = Campaign(tool, Path(name))
        for number in count():
            left = {kind: getattr(given, kind) - times[kind] for kind in KINDS}
            if max(left.values()) <= 0:
                break
            export, seed = exports[number % len(exports)], given.seed + number
            for kind in [kind for kind in KINDS if left[kind] > 0]:
                kills, lost, failure = campaign.episode(export, seed, kind, min(left[kind], 1 + number % 3))
                times[kind], runs[kind], losses[kind] = times[kind] + kills, runs[kind] + 1, losses[kind] + lost
                if failure:
                    failures[kind] += 1
                    print(f"{export}, seed {seed}, {kind}: {failure}", file=sys.stderr, flush=True)
        tool.close()
    print("| interruption | times | exports | blocks and ends lost | with other bytes in the end |")
    print("| --- " * 5 + "|")
    for kind in KINDS:
        print(f"| {kind} | {times[kind]} | {runs[kind]} | {losses[kind]} | {failures[kind]} |")
    return int(failures.total() > 0)


if __name__ == "__main__":
    sys.exit(main())
