"""`seap-export inspect`: shows what is in a model, a variant or an output folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from seap_export.cli.console import Console, megabytes
from seap_export.cli.groups import GroupedCommand
from seap_export.cli.layer_table import layer_columns
from seap_export.cli.options import output_options, wide_option
from seap_export.cli.values import ExistingPath
from seap_export.cli.window import Table, captioned, prose
from seap_export.common.providers import OWN_FORMAT

if TYPE_CHECKING:
    from validation.reports.document import Cell


@click.command("inspect", cls=GroupedCommand)
@click.argument("path", type=ExistingPath())
@wide_option
@output_options
def inspect_command(console: Console, path: Path) -> None:
    """Describe PATH: an output folder of `export`, a variant, a model folder or a GGUF file.

    The files of an output folder are checked against the SHA-256 in its manifest; the exit code is 7 if one differs.

    \b
    Examples:
      seap-export inspect pruned
      seap-export inspect pruned/gsm8k-0.2 --json
    """
    from seap_export.pipeline.inspect import describe

    result = describe(str(path))
    console.result(result, _TEXTS[result["kind"]](result))


def _export_text(result: dict[str, Any]) -> str:
    from seap_export.cli.files import measured_cells, measured_heads
    from seap_export.pipeline.request.measured import measured_title
    from validation.reports.document import in_ascii
    from validation.reports.elsewhere import loss_table
    from validation.reports.files import parity_cell
    from validation.reports.reading import written_answers

    source = result["source"]
    folders = list(dict.fromkeys(name for variant in result["variants"].values() for name in variant["bytes"]))
    rows = [
        [
            name,
            *(megabytes(variant["bytes"][name]) if name in variant["bytes"] else "-" for name in folders),
            in_ascii(parity_cell(list(variant["parity"].values())).main),
            in_ascii(_right(variant["accuracy"]).main),
            *measured_cells({"quality": variant.get("quality"), "speed": variant["speed"]}),
            f"{variant['achieved_ratio']:.4f}",
            f"{variant['num_parameters'] / 1e6:.1f} M",
            _weights(variant["weights"]),
            variant["method"],
        ]
        for name, variant in result["variants"].items()
    ]
    header = ["variant", *folders, "parity", "right", *measured_heads(), "removed", "parameters", "tasks", "method"]
    lines = [Table(header, rows, first=2 + len(folders)).text] if rows else []
    quality = next((variant["quality"] for variant in result["variants"].values() if variant.get("quality")), None)
    figures = [] if quality is None else [f"KL, perplexity and top-1: {measured_title(quality)}"]
    general_text = captioned(loss_table({name: of.get("quality") for name, of in result["variants"].items()}), first=1)
    above = [
        f"export of {source.get('name', '(no model yet)')} ({source.get('family', '-')}), "
        + ("complete" if result["complete"] else "not complete: run the same export again to continue"),
        f"calibrated: {', '.join(result['calibrations']) or '-'}; {result['files']} files as in the manifest",
    ]
    below = filter(None, [*figures, written_answers(result["tasks"])])
    return "\n".join([*map(prose, above), *lines, *map(prose, below), *filter(None, [general_text])])


def _right(accuracy: dict[str, Any]) -> Cell:
    """The right answers of the first folder that was asked."""
    from validation.reports.recommended import right_cell

    return right_cell(next(({"accuracy": of_tasks} for of_tasks in accuracy.values()), None))


def _model_text(result: dict[str, Any]) -> str:
    headings, rows = layer_columns(result["layers"])
    return "\n".join(
        [
            prose(
                f"{result['name']}: {result['family']}, {'pruned' if result['pruned'] else 'dense'}, "
                f"{result['num_parameters']:,} parameters, {result['dtype']}"
            ),
            f"hidden size {result['hidden_size']}, head size {result['head_dim']}, vocabulary {result['vocab_size']}",
            Table(headings, rows, first=1).text,
            *map(prose, result.get("whole", [])),
        ]
    )


def _variant_text(result: dict[str, Any]) -> str:
    from validation.reports.document import in_ascii
    from validation.reports.elsewhere import loss_table

    parity, vocabulary = result["parity"], result["vocabulary"]
    general_text = captioned(loss_table({"this variant": result["quality"]}), first=1)
    lines = [
        f"{result['task']}, made for {_weights(result['weights'])}",
        f"method {result['method']}: score {result['score']}, {result['sparsity']['kind']} sparsity, "
        f"compensation {result['compensation']}, layout {result['layout']}",
        f"ratio requested {result['requested_ratio']:g}, achieved {result['achieved_ratio']:.4f}",
        *([f"vocabulary: {vocabulary['tokens']:,} of {vocabulary['of']:,} tokens"] if vocabulary else []),
        *(_parity_text(name, checks) for name, checks in parity.items()),
        *([] if parity else ["parity: not recorded; `seap-export validate` checks it"]),
        _quality_text(result["quality"]),
        *([f"right: {in_ascii(_right(result['accuracy']).line)}"] if result["accuracy"] else []),
    ]
    warning = [prose(f"warning: {result['warning']}")] if result["warning"] else []
    model = _model_text(result["model"]) if result["model"] else "hf is missing: not pruned yet, or not copied"
    return "\n".join([*map(prose, lines), *filter(None, [general_text]), *warning, model])


def _parity_text(name: str, parity: dict[str, Any]) -> str:
    from validation.reports.files import parity_cell

    return f"parity{'' if name == OWN_FORMAT else f' of {name}'}: {parity_cell([parity]).line}"


def _quality_text(quality: dict[str, Any] | None) -> str:
    from seap_export.pipeline.request.measured import measured_title
    from validation.reports.figures import QUALITY

    if quality is None:
        return "quality: not compared with the dense model"
    figures = [f"{figure.cell({'quality': quality}).line} {figure.words}" for figure in QUALITY if figure.is_main]
    return f"quality of {measured_title(quality)}: {', '.join(figures)}"


def _weights(weights: dict[str, float]) -> str:
    """The tasks, with their weights if these differ."""
    if len(set(weights.values())) == 1:
        return ",".join(weights)
    return ",".join(f"{task}:{weight:g}" for task, weight in weights.items())


_TEXTS = {"export": _export_text, "variant": _variant_text, "model": _model_text}
