"""What methods that keep a face share: reading a face out of a reference, and the pipelines that take it."""
