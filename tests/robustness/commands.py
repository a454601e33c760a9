"""The exports that are disturbed: one variant, or all that there is."""

from __future__ import annotations

from support.exports import HELD_OUT_OPTION

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
