"""Time, memory and disk of whole exports, step by step and side by side, as Markdown tables.

    python -m validation.benchmarks.scale_table --model MODEL --python before=OLD/bin/python \
        --python after=NEW/bin/python --out FOLDER -- --task gsm8k=gsm8k.toml --ratio 0.5 --precision int4
    python -m validation.benchmarks.scale_table --model SHAPE-8 --model SHAPE-16 --model SHAPE-32 --out FOLDER -- \
        --task a=a.txt --ratio 0.5
    python -m validation.benchmarks.scale_table --model MODEL --tasks 1 --tasks 3 --tasks 6 --out FOLDER -- \
        --task a=a.txt --task b=b.txt --task c=c.txt --task d=d.txt --task e=e.txt --task f=f.txt --ratio 0.5

What follows `--` goes to `seap-export export`. Each export is a fresh process and starts from an empty folder; the
interpreters take turns, so that all meet the same load of the machine. The times and peaks of the steps are those of
performance.json; the time of the whole process is the system's. What the commands print goes to
FOLDER/log.txt, the figures to FOLDER/figures.json. Nothing is ended because it takes long. An export whose checks fail
is measured like any other, because random weights may fail parity.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from validation.benchmarks.process import measure, megabytes

__all__ = ["ScaleRow", "scale_table"]

#: An export that is done, and one whose artifacts are made but fail parity.
_MEASURED = (0, 3)
#: What steps are called in the tables, by the last part of their names.
_KINDS = {
    "hf": "shrinking",
    "onnx": "onnx",
    "parity.json": "parity",
    "quality.json": "quality",
}


@dataclass(frozen=True)
class ScaleRow:
    """One export.

    Attributes:
        python: Name of the interpreter.
        model: Name of the model.
        tasks: Number of tasks.
        run: Which of the repetitions.
        wall_s: Seconds from the start of the process to its end.
        peak_bytes: Peak resident memory of the process.
        said_bytes: The disk that `--dry-run` says.
        disk_bytes: The disk that was taken.
        seconds: Of each kind of step, added up.
        peaks: The largest peak memory of each kind of step; 0 where it is not known.
    """

    python: str
    model: str
    tasks: int
    run: int
    wall_s: float
    peak_bytes: int | None
    said_bytes: int
    disk_bytes: int
    seconds: dict[str, float]
    peaks: dict[str, int]


@click.command()
@click.option("--model", "models", multiple=True, required=True, type=click.Path(exists=True), help="May be repeated.")
@click.option("--python", "pythons", multiple=True, metavar="NAME=FILE", help="An interpreter; left out: this one.")
@click.option(
    "--tasks", "numbers", multiple=True, type=click.IntRange(1), help="Only the first tasks. May be repeated."
)
@click.option("--runs", type=click.IntRange(1), default=1, show_default=True, help="The tables show medians.")
@click.option("--keep", is_flag=True, help="Keep the exports.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="A folder that is not there yet.")
@click.argument("options", nargs=-1, required=True)
def scale_table(
    models: tuple[str, ...],
    pythons: tuple[str, ...],
    numbers: tuple[int, ...],
    runs: int,
    keep: bool,
    out: Path,
    options: tuple[str, ...],
) -> None:
    """Export each model with OPTIONS and print the tables."""
    interpreters = dict(python.split("=", 1) for python in pythons) or {"this": sys.executable}
    given = options.count("--task")
    out.mkdir(parents=True)
    rows: list[ScaleRow] = []
    for run in range(runs):
        for model in models:
            for number in numbers or (given,):
                words = _first_tasks(options, number)
                for name, program in interpreters.items():
                    command = [str(Path(program).with_name("seap-export")), "export", model, *words]
                    folder = out / f"{Path(model).stem}-{number}-{name}-{run}"
                    rows.append(_measure(command, folder, out / "log.txt", (name, Path(model).name, number, run)))
                    if not keep:
                        shutil.rmtree(folder)
                    text = json.dumps([asdict(row) for row in rows], indent=1)
                    (out / "figures.json").write_text(text + "\n", "utf-8", newline="\n")
    click.echo("\n\n".join([*_steps(rows), _wholes(rows)]))


def _first_tasks(options: Sequence[str], number: int) -> list[str]:
    """The options without the tasks after the first ones."""
    indices = [index for index, word in enumerate(options) if word == "--task"][number:]
    dropped = {index + offset for index in indices for offset in (0, 1)}
    return [word for index, word in enumerate(options) if index not in dropped]


def _measure(command: Sequence[str], folder: Path, log: Path, labels: tuple[str, str, int, int]) -> ScaleRow:
    words = [*command, "--out", str(folder)]
    said = subprocess.run([*words, "--dry-run", "--json"], stdout=subprocess.PIPE, text=True, check=True)
    with log.open("a", encoding="utf-8") as file:
        print(f"$ {' '.join(words)}", file=file, flush=True)
        figures = measure(words, log=file, allowed=_MEASURED)
    steps = json.loads((folder / "performance.json").read_text("utf-8"))["steps"]
    seconds: dict[str, float] = {}
    peaks: dict[str, int] = {}
    for name, step in steps.items():
        kind = _kind(name)
        seconds[kind] = seconds.get(kind, 0.0) + step["seconds"]
        peaks[kind] = max(peaks.get(kind, 0), step["peak_bytes"] or 0)
    # The steps start the system's count anew, so that it holds only the last of them.
    peak = None if figures.peak_bytes is None else max(figures.peak_bytes, *peaks.values())
    taken = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return ScaleRow(*labels, figures.wall_s, peak, _said(json.loads(said.stdout)), taken, seconds, peaks)


def _kind(step: str) -> str:
    first, _, last = step.rpartition("/")
    return _KINDS.get(last, first.partition("/")[0] or last)


def _said(preview: dict[str, Any]) -> int:
    """Versions before `disk_about` know only the variants' files."""
    if "disk_about" in preview:
        return int(preview["disk_about"]["kept"])
    return sum(int(row["bytes_about"]) for row in preview["variants"])


def _steps(rows: Sequence[ScaleRow]) -> list[str]:
    """Seconds and peak memory of each kind of step: a table for each interpreter of what it exported."""
    tables = []
    for name in dict.fromkeys(row.python for row in rows):
        grouped = _grouped([row for row in rows if row.python == name])
        kinds = dict.fromkeys(kind for same in grouped.values() for row in same for kind in row.seconds)
        lines = [_line(kind, *(_cell(kind, same) for same in grouped.values())) for kind in kinds]
        tables.append("\n".join([*_head(f"step, {name}", *grouped), *lines]))
    return tables


def _cell(kind: str, same: Sequence[ScaleRow]) -> str:
    known = [row for row in same if kind in row.seconds]
    if not known:
        return ""
    seconds = statistics.median(row.seconds[kind] for row in known)
    peak = round(statistics.median(row.peaks[kind] for row in known))
    return f"{seconds:.1f} s, {megabytes(peak or None)}"


def _wholes(rows: Sequence[ScaleRow]) -> str:
    lines = []
    for name, same in _grouped(rows, with_python=True).items():
        wall, peaks = statistics.median(row.wall_s for row in same), [row.peak_bytes for row in same]
        peak = None if None in peaks else round(statistics.median(peak for peak in peaks if peak is not None))
        said, taken = same[0].said_bytes, same[0].disk_bytes
        error = f"{said / taken - 1:+.1%}"
        lines.append(_line(name, f"{wall:.1f} s", megabytes(peak), megabytes(said), megabytes(taken), error))
    return "\n".join([*_head("export", "time", "peak", "disk said", "disk taken", "error"), *lines])


def _grouped(rows: Sequence[ScaleRow], *, with_python: bool = False) -> dict[str, list[ScaleRow]]:
    groups: dict[str, list[ScaleRow]] = {}
    for row in rows:
        name = f"{row.model}, {row.tasks} task{'s' if row.tasks > 1 else ''}"
        groups.setdefault(f"{name}, {row.python}" if with_python else name, []).append(row)
    return groups


def _head(*cells: str) -> list[str]:
    return [_line(*cells), _line(*("---" for _ in cells))]


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    scale_table()
