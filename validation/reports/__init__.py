"""How the result of a validation is told: to a CI system, to a person in a browser, in a job's summary.

Every function takes the JSON object of a report, which `schema()` describes, and gives the same text for the same one.
"""

from validation.reports.html import html_page
from validation.reports.junit import junit_xml
from validation.reports.schema import schema
from validation.reports.summary import job_summary

__all__ = ["html_page", "job_summary", "junit_xml", "schema"]
