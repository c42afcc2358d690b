"""The demonstration: a small drawn benchmark."""
