"""Counts what ONNX Runtime's profile of a generation shows: the nodes of a decode step and where they ran.

    python -m validation.readiness.profile FOLDER --copy profile.json --out SUMMARY.json

FOLDER is what SEAP_EXPORT_PROFILE named when `seap-export generate` ran.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from seap_export.common.json_file import write_json


def summary(events: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The calls of a session, and the nodes of its first decode step.

    Args:
        events: ONNX Runtime's profile of one prompt and its decode steps.

    Returns:
        `calls`: nodes and milliseconds of each call, the prompt first (no nodes: replayed as a CUDA graph); `step`:
        nodes of the first decode step by provider and operator, and their microseconds on the host. On a GPU, a node's
        time is that of its launch.
    """
    calls = sorted((event for event in events if event["name"] == "model_run"), key=lambda call: call["ts"])
    nodes = [event for event in events if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")]
    ran = [[node for node in nodes if call["ts"] <= node["ts"] < call["ts"] + call["dur"]] for call in calls]
    step = next((nodes_of_call for nodes_of_call in ran[1:] if nodes_of_call), [])
    counts: dict[str, Counter[str]] = {}
    times: Counter[str] = Counter()
    for node in step:
        operator = node["args"]["op_name"]
        counts.setdefault(node["args"]["provider"], Counter())[operator] += 1
        times[operator] += node["dur"]
    return {
        "calls": [{"nodes": len(ran_in), "ms": call["dur"] / 1e3} for call, ran_in in zip(calls, ran, strict=True)],
        "step": {provider: dict(operators.most_common()) for provider, operators in counts.items()},
        "microseconds": dict(times.most_common()),
    }


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--copy", required=True, type=click.Path(path_type=Path), help="File to copy the profile to.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="File for the summary.")
def profile(folder: Path, copy: Path, out: Path) -> None:
    """Summarise the one profile in FOLDER."""
    files = sorted(folder.glob("*.json"))
    if len(files) != 1:
        raise click.ClickException(
            f"{folder}: {len(files)} profiles; generate again with SEAP_EXPORT_PROFILE={folder}"
        )
    figures = summary(json.loads(files[0].read_text("utf-8")))
    if not figures["step"]:
        raise click.ClickException(f"{files[0]}: no decode step in it; generate at least two tokens")
    shutil.copyfile(files[0], copy)
    write_json(out, figures, ensure_ascii=True)
    for provider, operators in figures["step"].items():
        click.echo(f"{provider}: {sum(operators.values())} nodes a step")


if __name__ == "__main__":
    profile()
