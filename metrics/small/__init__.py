"""Small random checkpoints in the real formats, so that the pipeline runs on a CPU: a writer per metric."""
