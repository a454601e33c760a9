"""A report as a self-contained page: no network, no scripts, no fonts.

The templates beside this file are the page. They read the JSON object of the report by its keys, and the modules of
this package say it in words, tables and charts.
"""

from __future__ import annotations

import re
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined

from validation.reports import figures, frontier, matrix, numbers, reading, recommended, speedups, variants, whole
from validation.reports.html import charts, tables
from validation.reports.html.frontier import files_chart, frontier_chart
from validation.reports.reading import Json, clean

#: How templates are laid out, which is no part of the page.
_LINE_BREAKS = re.compile(r">\s*\n\s*<")


def html_page(report: Json) -> str:
    """The page: what to ship and what was verified, then all files, how the variants compare, and the rest.

    Args:
        report: The JSON object of a validation report.

    Returns:
        A UTF-8 document without control characters; equal reports give equal documents.
    """
    anchors = {name: f"variant-{index}" for index, name in enumerate(report["variants"])}
    losses = matrix.loss_matrix({name: variant["quality"] for name, variant in report["variants"].items()})
    page = templates().get_template("page.html.jinja").render(report=report, anchors=anchors, losses=losses)
    return clean(_LINE_BREAKS.sub("><", page))


@cache
def templates() -> Environment:
    """The templates of the page; they escape everything that is not markup already."""
    environment = Environment(
        loader=PackageLoader("validation.reports", "html"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = (numbers.figure, numbers.megabytes, numbers.milliseconds, numbers.percent, numbers.ratio, numbers.times)
    environment.filters |= {function.__name__: function for function in filters}
    modules = (charts, figures, frontier, matrix, numbers, reading, recommended, speedups, tables, variants, whole)
    environment.globals |= {module.__name__.rsplit(".", 1)[-1]: module for module in modules}
    environment.globals |= {"files_chart": files_chart, "frontier_chart": frontier_chart}
    return environment
