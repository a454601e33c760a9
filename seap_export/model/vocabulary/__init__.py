"""The vocabulary of a task: which tokens a variant keeps, and the tokenizer and configs with their new ids.

docs/fit.md says what it does; docs/research/vocabulary.md proves that texts of kept tokens are cut as before.
"""
