"""What `validation.benchmarks.runtime_table` runs and shows."""
