"""Presents the result of a validation: to a CI system, in a browser, in a job summary.

Every function takes the JSON object of a report, as described by `schema()`; equal reports give equal texts.
"""

import json
from importlib import resources
from typing import Any

from validation.reports.html.page import html_page
from validation.reports.junit import junit_xml
from validation.reports.summary import job_summary

__all__ = ["html_page", "job_summary", "junit_xml", "schema"]


def schema() -> dict[str, Any]:
    """The schema (draft 2020-12): strict for the report, its checks and variants, lenient for what they embed."""
    text = resources.files("validation.reports").joinpath("validation.schema.json").read_text("utf-8")
    value: dict[str, Any] = json.loads(text)
    return value
