"""The disk space of an export, and the checks before anything is written."""
