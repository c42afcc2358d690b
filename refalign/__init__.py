"""RefAlign (arXiv 2603.25743): the registered methods, their training data and their trainer."""
