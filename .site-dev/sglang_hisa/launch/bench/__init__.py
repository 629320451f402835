"""Kernel benchmark: the stock indexer against HISA, same inputs, same run."""
