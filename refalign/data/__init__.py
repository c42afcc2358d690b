"""Training data of RefAlign: OpenS2V-5M's layout and plain JSONL, in a seeded order that can be resumed."""
