"""HISA: a two-stage indexer for DeepSeek-Sparse-Attention models in SGLang (arXiv 2603.28458)."""

from pathlib import Path as _Path

__version__ = "0.1.0"

PAGE = 64
"""Tokens in one page of the index-K cache. DeepGEMM's paged kernels fix it (SGLang asserts the same)."""
SHARE_ONE = 1 << 16
"""Budgets' fractions are rounded up to 1/65536, so that host and device agree on every row's count."""

# An installed package holds kernels/, patches/ and launch/; in a checkout they lie beside this folder.
# Without this, `python -m sglang.launch_server` in the checkout would find half a package.
if not (_Path(__file__).parent / "kernels").is_dir():
    __path__.append(str(_Path(__file__).parent.parent))
