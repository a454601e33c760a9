"""The exports that are disturbed, one variant or all that there is, and what stands in their folders."""

from __future__ import annotations

from pathlib import Path

from support.exports import HELD_OUT_OPTION
from support.product import read_manifest

COMMON = (
    "export", "m", "--task", "a=a.jsonl", "--task", "b=b.jsonl", "--out", "out", *HELD_OUT_OPTION,
    "--set", "prompts=1",
    "--set", "decode_steps=2", "--no-quality", "--no-speed", "--quiet",
)  # fmt: skip
#: One variant of a model `m` into a folder `new`, without a look at the dense model.
EXPORT = (
    "export", "m", "--task", "a=a.jsonl", "--ratio", "0.2", "--out", "new", *HELD_OUT_OPTION,
    "--no-quality", "--no-speed", "--quiet",
)  # fmt: skip
#: Two tasks, two ratios, a router.
ALL = (*COMMON, "--ratio", "0.2", "--ratio", "0.4")


def tree(folder: Path) -> dict[str, bytes | None]:
    """The content of every file; None for a folder; without times and what waits for another run."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
        if path.name != "performance.json" and ".seap-export-unfinished-" not in str(path)
    }


def assert_whole(out: Path) -> None:
    """Whatever stands at its place in an output folder is as the manifest says."""
    manifest = read_manifest(out)
    made = {path.relative_to(out).as_posix() for path in out.glob("*/**/*") if path.is_file()}
    assert {name for name in made if not name.startswith(".seap-export")} <= manifest.files.keys()
    for step in manifest.steps:
        assert not (out / step).exists() or manifest.damages(out, step) == []
