"""Runs: folders of videos with their `run.json`, made here or imported."""
