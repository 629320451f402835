"""Matplotlib without a display, and figures as PNG."""

from __future__ import annotations

import io
from typing import Any


def pyplot() -> Any:
    """``matplotlib.pyplot``.

    Raises:
        ImportError: matplotlib is missing (``pip install sglang-hisa[bench]``).
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def literal(text: str) -> str:
    """``text`` that matplotlib shows as it is: a dollar would start TeX."""
    return text.replace("$", r"\$")


def title(figure: Any, marks: list[str], text: str, origin: str) -> None:
    """A headline that starts with ``marks`` (PARTIAL…), in red where there is one, over the origin."""
    lines = [": ".join([*marks, text]), origin]
    figure.suptitle(literal("\n".join(lines)), fontsize=9, color="crimson" if marks else "black")


def png(figure: Any) -> bytes:
    """The figure as PNG; it is closed."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110, format="png", bbox_inches="tight")
    pyplot().close(figure)
    return buffer.getvalue()
