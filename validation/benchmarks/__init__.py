"""Commands that measure and print the tables of the measurements in docs; tests do not time anything."""
