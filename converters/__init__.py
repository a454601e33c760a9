"""Writes model folders in the formats that runtimes load: one folder for each format."""
