"""The HTML report: templates, and the modules that make charts and tables for them."""
