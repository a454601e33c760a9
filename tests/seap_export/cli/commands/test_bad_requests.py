"""What the commands refuse: one line, an exit code, and nothing written."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path

import pytest
from support.exports import Run, tree

EXPORT = "export m --task a=a.jsonl --ratio 0.2 --out new"
NO_TOKENIZER = ("GGUF files cannot hold this tokenizer", "WordLevel", "use another format")
#: `begun` has a model folder alone, `cut` a router that is cut off, and `mixed` a variant with the plan of another.
ROWS = [
    ("validate m", 2, ["m is neither an export nor a variant", "give an output folder"]),
    ("validate out --max-kl 1", 2, ["against the dense model", "--dense"]),
    ("validate out/a-0.2 --out a.jsonl", 2, ["another path"]),
    ("validate out --signed-by nowhere", 2, ["nowhere: no such file or folder"]),
    ("validate out --runtime ollama", 2, ["unknown runtime", "onnxruntime"]),
    ("validate out --dense m --max-bytes-ratio 1 --depth 4000", 2, ["the model's context of"]),
    ("validate out --dense nowhere --max-kl 1", 2, ["nowhere"]),
    ("validate out --out out/manifest.json --force", 2, ["a path outside"]),
    ("validate out/a-0.2 --save-golden out/a-0.4/onnx/tokenizer.json --force", 2, ["a path outside"]),
    ("validate m --out m/config.json --force", 2, ["a path outside"]),
    # what is not there yet would be in no list of files, or in a folder that nobody knows
    ("validate out/a-0.2/onnx --out out/a-0.2/onnx/deep/new.json --force", 2, ["a path outside"]),
    ("evaluate out --dense m", 2, ["give a variant in it, such as out/a-0."]),
    ("evaluate out/a-0.2", 2, ["nothing to evaluate", "--dense MODEL", "--zero-shot"]),
    ("evaluate out/a-0.2 --dense m --zero-shot a=a.jsonl", 8, ["choices"]),
    ("evaluate out/a-0.2 --text b=b.jsonl --zero-shot q=quiz.toml", 2, ["give --dense MODEL"]),
    ("bench out --dense m --depth 113", 2, ["113 tokens and 16 steps"]),
    ("bench out --dense m --depth 8 --depth 0", 2, ["--depth 0 is out of range"]),
    ("bench m --dense m", 2, ["m is not a variant"]),
    ("bench out out/a-0.2 --dense m", 2, ["'a-0.2' is given more than once"]),
    ("generate a.jsonl the", 2, ["a.jsonl is not a variant"]),
    ("generate begun the", 7, ["convert begun/hf --out begun/onnx"]),
    ("generate out the", 2, ["give out/a-0.2, or out/a-0.4, or out/b-0.2"]),
    ("generate out/a-0.2/hf the", 2, ["give out/a-0.2"]),
    ("generate out/a-0.2 ' '", 8, ["the prompt has no token"]),
    ("generate out/a-0.2", 2, ["give either a prompt or --prompt-file"]),
    ("route out the", 2, ["0.2, 0.4 with --ratio"]),
    ("route out the --ratio 0.2 --raw", 2, ["--raw has no effect without --generate"]),
    ("route out/a-0.2 the", 2, ["out/a-0.2: there is no router here", "give out"]),
    ("route cut the --ratio 0.2", 7, ["cut/router/router.onnx "]),
    ("convert out/a-0.2/hf --precision bf16 --out new", 2, ["the cpu provider cannot run bf16", "w4a8"]),
    ("convert out/a-0.2/hf --precision int4 --block-size 64 --out new", 2, ["the embedding's rows of 96"]),
    ("convert out --out new", 8, ["no config.json", "OUT/TASK-0.2/hf"]),
    ("convert out/a-0.2 --out new", 8, ["no config.json", "give out/a-0.2/hf"]),
    ("convert m/config.json --out new", 8, ["is a file", "model folder"]),
    (f"{EXPORT} --format gguf:q4_0", 8, [*NO_TOKENIZER]),
    (f"{EXPORT} --format gguf:q4_0 --dry-run", 8, [*NO_TOKENIZER]),
    ("convert m --format gguf:q4_0 --calibration out/calibration/a --out new", 8, [*NO_TOKENIZER]),
    ("plot --out p", 2, ["nothing to plot", "--evaluation"]),
    ("plot mixed --out p", 7, ["mixed: plan.json and hf/config.json "]),
    ("plot out --evaluation out/a-0.2/parity.json --out p", 7, ["evaluation schema is 'seap-export/parity/5'"]),
    *(
        (command, 2, ["nowhere: no such file or folder; check the path"])
        for command in ("validate nowhere", "inspect nowhere", "convert nowhere --out x", "plot nowhere --out x")
    ),
]  # fmt: skip


@pytest.mark.parametrize(("command", "code", "words"), ROWS)
def test_bad_requests(run: Run, done: Path, work: Path, command: str, code: int, words: list[str]) -> None:
    (work / "begun" / "hf").mkdir(parents=True)
    shutil.copytree(done / "router", work / "cut" / "router")
    os.truncate(work / "cut" / "router" / "router.onnx", 40)
    shutil.copytree(done / "a-0.4", work / "mixed")
    shutil.copy(done / "a-0.2" / "plan.json", work / "mixed")
    choices = 'corpus = "a.jsonl"\nprompt = "{text}"\n[completion]\nchoices = [" a", " b"]\nlabel = "label"\n'
    (work / "quiz.toml").write_text(choices)
    before = tree(work)
    quiet = () if command.startswith("inspect") else ("-q",)
    run(*shlex.split(command), *quiet).refused(code, *words)
    assert tree(work) == before
