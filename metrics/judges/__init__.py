"""Vision-language judges: an OpenAI-compatible endpoint, or a local model through transformers."""
