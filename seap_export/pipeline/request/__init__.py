"""The request of an export: tasks, ratios or targets, formats and settings."""
