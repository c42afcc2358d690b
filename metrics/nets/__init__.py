"""Networks that no maintained library offers: PyTorch modules named after their checkpoints' keys."""
