"""RefAlign's trainer: recipes, data to batches, the training step, checkpoints, many processes."""
