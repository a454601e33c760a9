"""The output of `export`: a table of the files with size, speed and quality, what to ship, and what to do next."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seap_export.api.progress import duration
from seap_export.cli.console import megabytes, quoted
from seap_export.cli.files import files_table, legend
from seap_export.cli.frontier import frontier_text
from seap_export.cli.window import Table, captioned, columns_of_window, prose
from seap_export.common.providers import OWN_FORMAT
from seap_export.pipeline.folder.names import HF, PLAN
from validation.reports.document import in_ascii
from validation.reports.elsewhere import loss_table
from validation.reports.whole import beaten as beaten_in

if TYPE_CHECKING:
    from seap_export.api.results import ExportResult
    from seap_export.pipeline.folder.performance import StepFigures

#: The columns before a prompt and an answer, and of the dots where it is cut.
_MARGIN, _DOTS = 12, 4
_MOST_ANSWERS = 6


def export_json(result: ExportResult) -> dict[str, Any]:
    """What to ship; the manifest's entries of the variants, each with its speed figures, or null, and with what beats
    it; the whole models that were measured beside them; and with targets the frontier."""
    reported = result.described
    variants = {
        name: {**entry, **{key: reported[name][key] for key in ("speed", "beaten_by")}}
        for name, entry in result.entries.items()
    }
    whole = {name: {**row, "command": result.commands[name]} for name, row in result.whole.items()}
    frontier = {} if result.frontier is None else {"frontier": result.frontier}
    return {"recommended": dict(result.recommended), "variants": variants, "whole": whole, **frontier}


def export_text(result: ExportResult) -> str:
    """The frontier if there are targets, the table of files, what to ship, what the columns mean, an answer of each
    variant, and what to do next."""
    assert result.report is not None
    variants, files = result.described, files_table(result.report, result.variants)
    answers = [line for name in list(result.variants)[:_MOST_ANSWERS] for line in _answer(name, variants[name])]
    parts = [
        "" if result.frontier is None else frontier_text(result.frontier),
        files.text,
        "\n".join(recommended_lines(result.recommended, remedies(result.whole, result.commands, result.path))),
        "\n".join(files.legend(legend(result.report))),
        captioned(loss_table({name: variants[name]["quality"] for name in result.variants}), first=1),
        "\n".join(["A held-out prompt, continued by both models:", *answers] if answers else []),
        "\n".join(_next_steps(result)),
    ]
    return "\n\n".join(filter(None, parts))


def no_gains(result: ExportResult) -> Iterator[str]:
    """Variants that are no smaller than the dense model, or surely slower: the interval of the speed-up is below 1."""
    for name in result.variants:
        variant = result.described[name]
        for folder in variant["bytes"].keys() - {HF} if variant["requested_ratio"] else ():
            if variant["bytes"][folder] >= (variant["dense_bytes"][folder] or math.inf):
                yield f"{name}: {folder}/ is no smaller than the dense model's"
        for cell in variant["speed"]["variant"] if variant["speed"] else ():
            for what in ("decode", "prefill"):
                high = cell[f"{what}_speedup_high"]
                if high is not None and high < 1.0:
                    yield f"{name}: {what} is slower than with the dense model ({cell[f'{what}_speedup']:.2f}x)"


def beaten(result: ExportResult) -> Iterator[str]:
    """Variants that a whole model beats in all that was measured, with the command that makes the better file."""
    for beaten in beaten_in({"variants": result.described, "whole": result.whole}):
        where = f"make it with: {result.commands[beaten.by]}" if beaten.command else f"use {result.path / beaten.by}"
        yield f"{beaten.variant} is {beaten.words}; {where}"


def _answer(name: str, variant: Mapping[str, Any]) -> Iterator[str]:
    sample = (variant["quality"] or {}).get("sample")
    if sample:
        yield f"  {name}"
        for what in ("prompt", "dense", "variant"):
            yield f"    {what:8}{_short(sample[what], from_end=what == 'prompt')}"


def _short(text: str, *, from_end: bool) -> str:
    line, room = " ".join(text.split()), columns_of_window() - _MARGIN
    if len(line) <= room:
        return line
    return f"... {line[_DOTS - room :]}" if from_end else f"{line[: room - _DOTS]} ..."


def _next_steps(result: ExportResult) -> Iterator[str]:
    out = result.path
    yield prose(f"Written to {out}. Full report: {out / 'validation.html'}")
    if not result.passed:
        return
    kept, shipped = _bytes_of(result)
    if kept:
        yield prose(
            f"{megabytes(shipped)} are files to ship. The other {megabytes(kept)}, such as statistics and hf/, serve "
            "further runs and checks; delete them when you need neither."
        )
    variant = next(iter(result.variants.values()))
    can_generate = (variant.path / OWN_FORMAT).is_dir()
    commands = {
        f"generate {quoted(variant.path)} PROMPT": can_generate and "let a variant answer",
        f"route {quoted(out)} PROMPT": can_generate
        and (out / "router").is_dir()
        and "choose the variant for a prompt",
        f"validate {quoted(out)}": "check the files again after copying them",
    }
    width = max(map(len, commands))
    yield "Next:"
    yield from (f"  seap-export {command:{width}}  {purpose}" for command, purpose in commands.items() if purpose)


def _bytes_of(result: ExportResult) -> tuple[int, int]:
    """The bytes of the output folder that nobody ships, and of the formats of its variants and the router."""
    from seap_export.pipeline.folder.contents import Export  # loads torch

    sizes = {path: path.stat().st_size for path in result.path.rglob("*") if path.is_file()}
    roots = [result.path / "router"]
    roots += [result.path / name for name, row in result.whole.items() if row.get("folder")]
    for variant in Export(result.path).variants:
        roots += [folder.path for folder in variant.formats] or [variant.hf]
    shipped = sum(size for path, size in sizes.items() if any(path.is_relative_to(root) for root in roots))
    return sum(sizes.values()) - shipped, shipped


def remedies(
    rows: Mapping[str, Mapping[str, Any]], commands: Mapping[str, str], folder: Path, remark: str = ""
) -> dict[str, str]:
    """Where each whole model lies, or how it is made, by its name."""
    return {
        name: f"It is in {quoted(folder / name)}" if row.get("folder") else f"Make it with{remark}: {commands[name]}"
        for name, row in rows.items()
    }


def recommended_lines(recommended: Mapping[str, Mapping[str, Any]], remedies: Mapping[str, str]) -> Iterator[str]:
    """What to ship for each task, and where a whole model lies, or the command that makes it."""
    if recommended:
        yield "What to ship:"
    for task, of_task in recommended.items():
        yield prose(in_ascii(f"  {task}: {of_task['words']}"), hang=4)
        if remedy := remedies.get(of_task["file"]):
            yield f"    {remedy}"


def step_table(steps: Mapping[str, StepFigures]) -> str:
    """Wall time and peak memory by kind of step, and in total."""
    kinds: dict[str, list[StepFigures]] = defaultdict(list)
    for name, figures in steps.items():
        kinds[_kind(name)].append(figures)
    rows = [[kind, str(len(costs)), *_cost(costs)] for kind, costs in kinds.items()]
    rows.append(["all", str(len(steps)), *_cost(list(steps.values()))])
    return Table(["step", "runs", "time", "peak memory"], rows).text


def _cost(figures: list[StepFigures]) -> list[str]:
    peaks = [step.peak_bytes for step in figures if step.peak_bytes is not None]
    return [duration(sum(step.seconds for step in figures)), megabytes(max(peaks, default=None))]


def _kind(step: str) -> str:
    from converters.formats import FORMATS, format_name

    first, _, last = step.partition("/")
    if last.startswith("parity") and last.endswith(".json"):
        return "parity"
    if first == "rounding":
        return first
    if last.startswith("quality") and last.endswith(".json"):
        return "quality"
    kinds = {PLAN: "plan", HF: "shrinking", OWN_FORMAT: FORMATS[OWN_FORMAT].title}
    return kinds.get(last, last if format_name(last) in FORMATS else first)
