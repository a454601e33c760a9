"""Programs that write a file of another tool, each in an environment that has it; they import nothing of ours."""
