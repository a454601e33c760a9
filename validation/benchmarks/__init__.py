"""Commands that measure and print the tables of docs/measurements.md; tests do not time anything."""
