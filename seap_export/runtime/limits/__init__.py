"""What a stranger's chat template and tokenizer may take: memory and time."""
