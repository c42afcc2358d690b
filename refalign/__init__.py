"""RefAlign (arXiv 2603.25743): reserved for the method and its trainer; nothing is registered yet."""
