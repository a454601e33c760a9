"""A report as a self-contained page: no network, no scripts, no fonts."""

from __future__ import annotations

import re

from jinja2 import Environment, PackageLoader, StrictUndefined

from validation.reports.contents import contents, lead
from validation.reports.reading import Json, clean

#: How the template is laid out, which is no part of the page.
_LINE_BREAKS = re.compile(r">\s*\n\s*<")


def html_page(report: Json) -> str:
    """The page: what to ship and what was verified, then all files, each variant, and the rest.

    Args:
        report: The JSON object of a validation report.

    Returns:
        A UTF-8 document without control characters; equal reports give equal documents.
    """
    environment = Environment(
        loader=PackageLoader("validation", "reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("page.html.jinja")
    page = template.render(report=report, lead=lead(report), sections=list(contents(report)))
    return clean(_LINE_BREAKS.sub("><", page))
