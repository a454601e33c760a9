"""Rounds the weights of a model to the levels of a grid so that its layers' outputs change little."""
