"""`seap-export bench`: how fast variants are beside their dense model."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from converters.form_options import FormOptions
from seap_export.api.options import RunOptions
from seap_export.cli.console import Console, megabytes
from seap_export.cli.groups import GroupedCommand, number_option, option, rare, titled
from seap_export.cli.options import RARE_FORM, option_of, options_of, output_options, wide_option
from seap_export.cli.values import ExistingPath, PathType
from seap_export.cli.window import Table
from seap_export.common.json_file import write_json
from seap_export.common.options import defaults_of
from seap_export.common.providers import OWN_RUNTIME
from seap_export.pipeline.request.options import ComputeOptions

if TYPE_CHECKING:
    from validation.speed.report import SpeedReport, Speedup


@click.command("bench", cls=GroupedCommand)
@click.argument("paths", nargs=-1, required=True, type=ExistingPath(), metavar="PATH...")
@titled(
    "Measurement",
    option("--dense", required=True, metavar="MODEL", help="The dense model that the variants were made from."),
    option(
        "--runtime",
        "engines",
        multiple=True,
        metavar="NAME",
        help=f"Runtime to time the models in: torch (on the CPU, in fp32), {OWN_RUNTIME}, or another that "
        f"docs/runtimes.md lists. Repeatable.  [default: torch and {OWN_RUNTIME}]",
    ),
    number_option(
        "--depth",
        "depths",
        "Number of tokens in a prompt. Repeatable.  [default: 128, 512 and 2048, as far as they fit]",
        multiple=True,
    ),
    number_option(
        "--batch",
        "batches",
        "Number of prompts at once; more than one are timed at the smallest depth, if the runtime accepts them. "
        "Repeatable.  [default: 1, 4, 16]",
        multiple=True,
    ),
    number_option("--runs", "Runs of each model, in turn.", default=5, show_default=True),
    number_option("--steps", "Decode steps in a run.", default=16, show_default=True),
)
@titled(
    "Models",
    option_of(
        FormOptions,
        "provider",
        help="Execution provider of ONNX Runtime that the ONNX graphs are written for and timed on.",
    ),
    option_of(FormOptions, "precision", unset="that of the variant, or int8 on cpu and webgpu, fp16 on cuda"),
    *rare(*options_of(FormOptions, *RARE_FORM, "logits")),
    *rare(
        option(
            "--format",
            "formats",
            multiple=True,
            metavar="NAME:PRECISION",
            help=f"Format for a runtime other than {OWN_RUNTIME}. Repeatable.  [default: the first that it accepts]",
        )
    ),
)
@titled(
    "Output",
    option("--out", type=PathType(), help="Write the report to this file as JSON; without it nothing is written."),
    option_of(RunOptions, "force"),
)
@titled("Machine", option_of(ComputeOptions, "threads"), wide_option, output_options)
def bench_command(
    console: Console,
    paths: tuple[Path, ...],
    dense: str,
    out: Path | None,
    force: bool,
    **options: Any,
) -> None:
    """Measure how fast variants are beside their dense model.

    Times the first token and the later ones. PATH is an output folder of `export` or a variant's folder. In each
    run, every model is opened anew, alone in memory, warmed up, and given the same prompts and threads; times are
    medians. Each speed-up is shown with the ideal one: the ratio of multiply-adds for the prefill, of bytes read for
    decoding. A warning names variants that are slower than the dense model, or no smaller.

    \b
    Examples:
      seap-export bench pruned --dense ./SmolLM2-135M --out bench.json
      seap-export bench pruned/gsm8k-0.5 --dense ./SmolLM2-135M --precision int4 --runtime onnxruntime --depth 512
    """
    from converters.formats import parse_format
    from seap_export.pipeline.evaluation.bench import bench
    from seap_export.pipeline.evaluation.bench_request import BenchRequest
    from seap_export.pipeline.folder.outputs import write_report
    from seap_export.pipeline.request.formats import own_format_if_any
    from validation.runtimes.table import REFERENCE, runtime_row

    form = FormOptions(**{name: options.pop(name) for name in defaults_of(FormOptions)})
    own, usual = own_format_if_any(form), FormOptions(provider=form.provider)
    given = [format.of_options(precision, usual) for format, precision in map(parse_format, options["formats"])]
    options |= {"provider": form.provider, "formats": (*([] if own is None else [own]), *given)}
    for name in options["engines"]:
        if name != REFERENCE:
            runtime_row(name, REFERENCE)
    defaults = {name: value for name, value in options.items() if value not in ((), None)}
    request = BenchRequest(**defaults)
    with write_report(out, force=force) if out else nullcontext() as target:
        report = bench(list(map(str, paths)), dense, request, console)
        if target:
            write_json(target, report.to_json(), ensure_ascii=True)
    for line in (*report.left_out, *report.complaints):
        console.warn(line)
    gpu = report.setting["machine"]["gpu"]
    tables = [_size_table(report), *(_time_table(report, engine) for engine in _engines(report))]
    if gpu and form.provider != "cpu":
        tables.insert(0, f"on {gpu}")
    console.result(report.to_json(), "\n\n".join(tables))


def _engines(report: SpeedReport) -> list[Any]:
    return list(dict.fromkeys(subject.engine for subject in report.subjects))


def _size_table(report: SpeedReport) -> str:
    header = ["model", "engine", "on disk", "of dense", "peak memory"]
    shows_gpu = any(subject.gpu_bytes is not None for subject in report.subjects)
    rows = [
        [
            subject.model,
            subject.engine,
            megabytes(subject.disk_bytes),
            f"{subject.disk_bytes / report.dense(subject.engine).disk_bytes:.1%}",
            megabytes(subject.peak_bytes),
            *([megabytes(subject.gpu_bytes)] if shows_gpu else []),
        ]
        for subject in report.subjects
    ]
    return Table([*header, "of the GPU"] if shows_gpu else header, rows).text


def _time_table(report: SpeedReport, engine: Any) -> str:
    """The table of one engine's times, with a row for each model and each pair of batch size and prompt length."""
    rows = []
    for cell in report.cells:
        for subject in report.subjects:
            if subject.engine != engine or cell not in subject.timings:
                continue
            timing = subject.timings[cell]
            decode = speedup_cells(report.decode(subject, cell), subject.model)
            prefill = speedup_cells(report.prefill(subject, cell), subject.model)
            rows.append(
                [
                    subject.model,
                    str(cell.batch),
                    str(cell.depth),
                    f"{cell.batch / timing.step_s:.1f}",
                    decode[0],
                    f"{timing.prefill_s * 1e3:.0f} ms",
                    prefill[0],
                    *decode[1:],
                    *prefill[1:],
                    f"{timing.step_p95_s * 1e3:.1f} ms",
                    f"{timing.prefill_p95_s * 1e3:.0f} ms",
                ]
            )
    header = [engine, "batch", "prompt", "tokens/s", "decode", "first token", "prefill"]
    ratios = [f"{what}, {of}" for what in ("decode", "prefill") for of in ("ideal", "reached")]
    return Table([*header, *ratios, "step, p95", "first token, p95"], rows, first=5).text


def speedup_cells(speedup: Speedup, model: str) -> list[str]:
    """The cells of a speed-up: with its interval, the ideal one, and the reached share; dashes for the dense model."""
    from validation.reports.document import Cell
    from validation.reports.speedups import interval_in_words, speedup_in_words
    from validation.speed.report import DENSE

    if model == DENSE:
        return ["-"] * 3
    low, high = (None, None) if speedup.interval is None else (speedup.interval.low, speedup.interval.high)
    words = Cell(speedup_in_words(speedup.measured, low, high), interval_in_words(low, high))
    return [words.line, f"{speedup.ideal:.2f}x", f"{speedup.share:.0%}"]
