"""Everything that has to be seen on a GPU, in one run with one report: `python -m validation.readiness`."""
