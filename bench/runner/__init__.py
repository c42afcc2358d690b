"""The runner: plans, generates, scores. One process drives and writes; executors do the work."""
