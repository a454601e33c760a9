"""Variants compared with the dense model: predictions, answers and speed."""
