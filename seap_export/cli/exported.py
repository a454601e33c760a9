"""The output of `export`: a table of the files with size, speed and quality, what to ship, and what to do next."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from seap_export.api.progress import duration
from seap_export.cli.console import difference, megabytes, quoted, table
from seap_export.cli.frontier import frontier_text
from seap_export.cli.general_text import general_text_table
from seap_export.cli.whole import measured_models, remedies, speed_cells, speed_heads, whole_legend
from seap_export.common.providers import OWN_FORMAT
from seap_export.pipeline.folder.names import HF, PLAN

if TYPE_CHECKING:
    from seap_export.api.results import ExportResult
    from seap_export.pipeline.folder.performance import StepFigures

_BEFORE = ("variant", "removed", "parameters", "file", "size", "of dense")
#: What stands in the last column of a file that nobody should ship, and of the one to ship.
_BEATEN, _SHIP = "beaten", "ship"
#: Number of characters of a prompt or an answer that are shown.
_LETTERS = 88
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
    """The frontier if there are targets, the table of files, what its columns mean, an answer of each variant, what to
    ship, and what to do next."""
    variants, verdicts = result.described, _verdicts(result)
    right = _accuracies(result)
    rows = [row for name in result.variants for row in _rows(name, variants[name], verdicts, right)]
    rows += [_whole_row(name, row, verdicts, right) for name, row in measured_models(result).items()]
    before = [*_BEFORE, *(["accuracy"] if right else [])]
    parts = [] if result.frontier is None else [frontier_text(result.frontier)]
    parts += [
        table([*before, "memory", *speed_heads(), *measured_heads(), "parity", ""], rows),
        "\n".join(_legend(result)),
    ]
    parts.append(general_text_table({name: variants[name]["quality"] for name in result.variants}))
    answers = [line for name in list(result.variants)[:_MOST_ANSWERS] for line in _answer(name, variants[name])]
    if answers:
        parts.append("\n".join(["A held-out prompt, continued by both models:", *answers]))
    where = remedies(result.whole, result.commands, result.path)
    parts += ["\n".join(recommended_lines(result.recommended, where)), "\n".join(_next_steps(result))]
    return "\n\n".join(part for part in parts if part)


def no_gains(result: ExportResult) -> Iterator[str]:
    """Variants that are no smaller than the dense model, or surely slower: the interval of the speed-up is below 1."""
    for name in result.variants:
        variant = result.described[name]
        for folder in _written(variant) if variant["requested_ratio"] else ():
            if variant["bytes"][folder] >= (variant["dense_bytes"][folder] or math.inf):
                yield f"{name}: {folder}/ is no smaller than the dense model's"
        for cell in variant["speed"]["variant"] if variant["speed"] else ():
            for what in ("decode", "prefill"):
                high = cell[f"{what}_speedup_high"]
                if high is not None and high < 1.0:
                    yield f"{name}: {what} is slower than with the dense model ({cell[f'{what}_speedup']:.2f}x)"


def _written(variant: Mapping[str, Any]) -> list[str]:
    """The names of a variant's folders except `hf`."""
    return [folder for folder in variant["bytes"] if folder != HF]


def _verdicts(result: ExportResult) -> dict[str, str]:
    """The word in the last column, by the name of the file."""
    words: dict[str, str] = {}
    for of_task in result.recommended.values():
        words |= {file["name"]: _BEATEN for file in of_task["files"] if file["beaten"]}
        words |= {of_task["file"]: _SHIP} if of_task["file"] else {}
    return words


def _accuracies(result: ExportResult) -> dict[str, str]:
    """The accuracy of each file in words, by its name; empty if no questions were asked."""
    from validation.reports.figures import in_ascii
    from validation.reports.recommended import accuracy_in_words

    files = [file for of_task in result.recommended.values() for file in of_task["files"]]
    return {file["name"]: in_ascii(accuracy_in_words(file)) for file in files if file["accuracy"]}


def _rows(
    name: str, variant: Mapping[str, Any], verdicts: Mapping[str, str], right: Mapping[str, str]
) -> Iterator[list[str]]:
    """A row for each file of a variant: for its folder `hf`, if there is no other."""
    for folder in _written(variant) or [HF]:
        precision = variant["formats"].get(folder, {}).get("precision", "")
        size, dense, of_file = variant["bytes"][folder], variant["dense_bytes"].get(folder), of_folder(variant, folder)
        compared = {key: of for key, of in variant["parity"].items() if key.split(" in ")[0] == folder}
        yield [
            name,
            f"{variant['achieved_ratio']:.1%}",
            f"{variant['num_parameters'] / 1e6:.1f} M",
            folder if precision in folder else f"{folder} {precision}",
            megabytes(size),
            f"{size / dense:.0%}" if dense else "-",
            *([right.get(f"{name}/{folder}", "-")] if right else []),
            _memory((variant.get("memory_about") or {}).get(folder)),
            *speed_cells(of_file),
            *measured_cells(of_file),
            _parity(compared),
            verdicts.get(f"{name}/{folder}", ""),
        ]


def of_folder(variant: Mapping[str, Any], folder: str) -> dict[str, Any]:
    """The speed and the quality of one folder of a variant, each None if it was not measured."""
    from validation.reports.figures import divergence_of_folder

    speed = variant["speed"] if (variant["speed"] or {}).get("folder", OWN_FORMAT) == folder else None
    return {"speed": speed, "quality": divergence_of_folder(variant["quality"], folder)}


def _whole_row(name: str, row: Mapping[str, Any], verdicts: Mapping[str, str], right: Mapping[str, str]) -> list[str]:
    """The whole model in the columns of the variants."""
    file = f"{OWN_FORMAT} {row['precision']}"
    before = [name, "0.0%", "-", file, megabytes(row["bytes"]), "-", *([right.get(name, "-")] if right else [])]
    memory = _memory(row.get("memory_about"))
    return [*before, memory, *speed_cells(row), *measured_cells(row), "-", verdicts.get(name, "")]


def _memory(size: int | None) -> str:
    return "-" if size is None else megabytes(size)


def measured_heads() -> list[str]:
    """The headings of the columns of speed and quality."""
    from validation.reports.figures import main_figures

    return [figure.title for figure in main_figures("faster", "worse")]


def measured_cells(variant: Mapping[str, Any]) -> list[str]:
    """The cells of a variant in the columns of speed and quality; a dash if not measured.

    Args:
        variant: Its `speed` and `quality`, as a validation report or the manifest has them.
    """
    from validation.reports.figures import main_figures

    return [figure.cell(variant).line for figure in main_figures("faster", "worse")]


def parity_verdict(parities: Mapping[str, Mapping[str, Any]]) -> str:
    """The verdict on all comparisons together, with the folders that have it unless it is that they passed."""
    from validation.reports.reading import worst

    if not parities:
        return "not compared"
    verdict = worst([parity["verdict"] for parity in parities.values()])
    folders = ", ".join(folder for folder, parity in parities.items() if parity["verdict"] == verdict)
    return verdict if verdict == "passed" or len(parities) == 1 else f"{verdict}: {folders}"


def _parity(parities: Mapping[str, Mapping[str, Any]]) -> str:
    if len(parities) != 1:
        return parity_verdict(parities)
    (parity,) = parities.values()
    return parity["verdict"] if parity["max_abs"] is None else f"{parity['verdict']} ({difference(parity['max_abs'])})"


def _legend(result: ExportResult) -> Iterator[str]:
    """The lines below the table that explain the measured columns."""
    from seap_export.pipeline.request.measured import measured_title
    from validation.reports.figures import divergence_of
    from validation.reports.reading import written_answers
    from validation.reports.yardstick import kl_in_words

    variants = result.described
    timed = [variant["speed"] for variant in variants.values() if variant["speed"]]
    if timed:
        what, cell = measured_title(timed[0]), timed[0]["dense"][0]
        yield (
            f"Decode and prefill: speed-up of {what} over the dense model's ({cell['decode_ms_per_token']:.1f} ms per "
            f"token, {cell['prefill_ms']:.0f} ms for {cell['depth']} tokens); in brackets its interval. If that "
            "contains 1, there is no speed-up."
        )
    if any(of for variant in variants.values() for of in (variant.get("memory_about") or {}).values()):
        yield "Memory: at the peak of a prompt of 128 tokens, estimated from the file; the program around it is extra."
    compared = {name: variant["quality"] for name, variant in variants.items() if variant["quality"]}
    if compared:
        what = measured_title(next(iter(compared.values())))
        yield (
            f"KL (nats per token, +- its standard error), top-1, perplexity: {what} against the dense model, on "
            "held-out texts."
        )
    if result.report is not None and result.report.manifest is not None:
        yield from filter(None, [written_answers(result.report.manifest.tasks)])
    for name, quality in list(compared.items())[:_MOST_ANSWERS]:
        divergence = divergence_of(quality)
        if divergence is not None:
            yield f"  {name}: {' '.join(kl_in_words(divergence))}"
    if whole := measured_models(result):
        yield whole_legend(whole)
    parities = [parity for variant in variants.values() for parity in variant["parity"].values()]
    if parities:
        where = ", ".join(dict.fromkeys(parity["runtime"] for parity in parities))
        largest = "the largest difference of a logit, without the rounding of activations in int8 and int4"
        yield f"Parity: the variant in {where} against torch; in brackets {largest}."


def _answer(name: str, variant: Mapping[str, Any]) -> Iterator[str]:
    sample = (variant["quality"] or {}).get("sample")
    if sample:
        yield f"  {name}"
        for what in ("prompt", "dense", "variant"):
            yield f"    {what:8}{_short(sample[what], from_end=what == 'prompt')}"


def _short(text: str, *, from_end: bool) -> str:
    line = " ".join(text.split())
    if len(line) <= _LETTERS:
        return line
    return f"... {line[-_LETTERS:]}" if from_end else f"{line[:_LETTERS]} ..."


def _next_steps(result: ExportResult) -> Iterator[str]:
    out = result.path
    yield f"Written to {out}. Full report: {out / 'validation.html'}"
    if not result.passed:
        return
    kept, shipped = _bytes_of(result)
    if kept:
        yield (
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


def recommended_lines(recommended: Mapping[str, Mapping[str, Any]], remedies: Mapping[str, str]) -> Iterator[str]:
    """What to ship for each task, and where a whole model lies, or the command that makes it.

    Args:
        recommended: As a report has it.
        remedies: Where the whole models lie, or how they are made, by name.
    """
    from validation.reports.figures import in_ascii

    if recommended:
        yield "What to ship:"
    for task, of_task in recommended.items():
        yield in_ascii(f"  {task}: {of_task['words']}")
        if remedy := remedies.get(of_task["file"]):
            yield f"    {remedy}"


def step_table(steps: Mapping[str, StepFigures]) -> str:
    """Wall time and peak memory by kind of step, and in total."""
    kinds: dict[str, list[StepFigures]] = defaultdict(list)
    for name, figures in steps.items():
        kinds[_kind(name)].append(figures)
    rows = [[kind, str(len(costs)), *_cost(costs)] for kind, costs in kinds.items()]
    return table(
        ["step", "runs", "time", "peak memory"], [*rows, ["all", str(len(steps)), *_cost(list(steps.values()))]]
    )


def _cost(figures: list[StepFigures]) -> list[str]:
    peaks = [step.peak_bytes for step in figures if step.peak_bytes is not None]
    return [duration(sum(step.seconds for step in figures)), megabytes(max(peaks)) if peaks else "-"]


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
