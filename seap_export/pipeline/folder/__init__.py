"""The output folder of an export: what lies in it, and how it is written."""
