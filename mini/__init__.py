"""The embedded benchmark: a small drawn world in which everything runs for real, without any download.

`world` draws: people, things and places with their labels. `demo` is the tour of the core.
"""
