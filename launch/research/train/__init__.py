"""Training of a small DeepSeek-V3.2 that retrieves, in PyTorch alone."""
