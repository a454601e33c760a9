"""Limits on the memory and time that a stranger's chat template and tokenizer may take."""
