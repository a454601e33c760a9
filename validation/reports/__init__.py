"""Presents the result of a validation: to a CI system, in a browser, in a job summary.

Every function takes the JSON object of a report, as described by `schema()`; equal reports give equal texts.
"""

from validation.reports.junit import junit_xml
from validation.reports.page import html_page
from validation.reports.schema import schema
from validation.reports.summary import job_summary

__all__ = ["html_page", "job_summary", "junit_xml", "schema"]
