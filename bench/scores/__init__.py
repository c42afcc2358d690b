"""Scores: records and their store, the official protocols, tables of components, comparison."""
