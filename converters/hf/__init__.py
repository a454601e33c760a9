"""The model folder that transformers loads: every other format is written from it."""
