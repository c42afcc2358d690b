"""Scores: records and their store, the official protocols, tables of components, comparison."""

# Stands here so that the command line can name it in `--help` without loading anything.
DEFAULT_PROTOCOL = "opens2v-1.1"
