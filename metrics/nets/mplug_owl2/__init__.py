"""mPLUG-Owl2, the network of OneAlign (Q-Align)."""
