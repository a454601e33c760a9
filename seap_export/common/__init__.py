"""Helpers that all floors share: files, hashes, memory, threads, execution providers."""
