"""Whether a runtime reads and writes texts as the model folder's tokenizer and chat template do."""
