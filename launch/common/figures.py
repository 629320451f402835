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


def legend(figure: Any) -> None:
    """One legend for all panels, below them, where it covers no point; none where nothing has a label."""
    named: dict[str, object] = {}
    for axis in figure.axes:
        for handle, label in zip(*axis.get_legend_handles_labels()):
            named.setdefault(label, handle)
    if named:
        wide = max(1, int(figure.get_figwidth() / 2.4))
        figure.legend(
            named.values(), named.keys(), loc="outside lower center", ncols=min(len(named), wide), fontsize=8
        )


def png(figure: Any) -> bytes:
    """The figure as PNG; it is closed."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110, format="png", bbox_inches="tight")
    pyplot().close(figure)
    return buffer.getvalue()
