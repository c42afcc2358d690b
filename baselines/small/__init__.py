"""Tiny random checkpoints of the Wan generators in the published layouts, so that they run on a CPU."""
