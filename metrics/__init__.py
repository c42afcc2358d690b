"""The metrics: one file each. Importing a module here is cheap; models load in `load()`."""
