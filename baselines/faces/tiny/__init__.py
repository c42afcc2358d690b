"""Tiny random checkpoints of the face generators in the published layouts, so that they run on a CPU."""
