"""Tiny random checkpoints in the real formats, one module per metric, so that the pipeline runs on a CPU."""
