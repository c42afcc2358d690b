"""Evaluation of reference-to-video generation on OpenS2V-Eval: the public Python interface."""
