"""Weights: which repositories are needed, where they lie on disk, and how their files are read."""
