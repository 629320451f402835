"""Write the tables of README, docs and kernel notes from launch/results, so that no figure is typed in.

python -m sglang_hisa.launch.pages.tables          rewrite them
python -m sglang_hisa.launch.pages.tables --check  exit 1 if it would change
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable

from sglang_hisa.launch.common import flags
from sglang_hisa.launch.pages import (
    ab_tables,
    answer_tables,
    changed,
    kernel_tables,
    many_tables,
    stress_tables,
    write,
)
from sglang_hisa.launch.pages.reader import ROOT, Reader

_RANK = "ab-v32-tp8-rank"
"""Records of one GPU's share of DeepSeek-V3.2 under TP 8."""

TABLES: dict[str, Callable[[Reader], str]] = {
    "headline": ab_tables.headline,
    "ab_256k": ab_tables.longest(
        "ab-defaults-256k",
        f"{_RANK}-256k-decode-only",
        f"{_RANK}-h100-256k",
        f"{_RANK}-h100-256k-balanced",
    ),
    # Both presets beside one stock arm, then another GPU.
    "ab_rank": ab_tables.of("ab-defaults", f"{_RANK}-h100-paper", f"{_RANK}-h100-balanced"),
    # Four requests at once; the last run has decode-only, and one request at a time, too.
    "ab_busy": ab_tables.of("ab-defaults-four", f"{_RANK}-busy", f"{_RANK}-grid"),
    # Four layers of full width, preset by preset, then the cells that those runs leave out.
    "ab_4l": ab_tables.of(*(f"ab-v32-4l-{run}" for run in ("balanced", "paper", "decode-only", "more"))),
    "ab_glm5": ab_tables.of("ab-glm5-4l"),
    "ab_tp2": ab_tables.of("ab-v32-4l-tp2"),
    # Decode of many requests that share a long prompt.
    "many": many_tables.of("ab-many"),
    "goals": kernel_tables.goals,
    "pairs": answer_tables.pairs,
    "decode": kernel_tables.decode,
    "prefill": kernel_tables.prefill,
    "frontier": kernel_tables.frontier,
    "quality": answer_tables.answers("quality"),
    # By how many of a prompt's last rows keep everything.
    # By candidates x share of the heads.
    "answers_heads": answer_tables.answers("quality-frontier", total=True),
    "tail": answer_tables.answers("quality-tail", total=True),
    "watching": ab_tables.of("ab-watching"),
    "pruned": answer_tables.pruned,
    "recall": answer_tables.recall,
    "heads": answer_tables.heads,
    "stress": stress_tables.stress,
    "stress_newer": stress_tables.stress_newer,
    "stress_kl": stress_tables.stress_kl,
}

PAGES = ("README.md", "docs/benchmarks.md", "docs/quality.md", "docs/reliability.md", "kernels/NOTES.md")


def made(name: str) -> str:
    """A table with its notes: servers that differ, flags that are not SGLang's default, presets that changed.

    Raises:
        KeyError: a table that does not exist.
    """
    read = Reader()
    return "\n\n".join(
        filter(None, (TABLES[name](read), flags.note(read.records), changed.note(read.records)))
    )


def render(text: str, page: str = PAGES[0]) -> str:
    """``text`` with what stands between ``<!-- table:NAME -->`` and ``<!-- end -->`` made anew.

    ``page`` is where it stands: links lead from there.

    Raises:
        KeyError: a table that does not exist.
    """

    def fill(match: re.Match[str]) -> str:
        new = made(match[1]).replace("](launch/", f"]({'../' * page.count('/')}launch/")
        return f"<!-- table:{match[1]} -->\n{new}\n<!-- end -->"

    return re.sub(r"<!-- table:(\w+) -->\n.*?<!-- end -->", fill, text, flags=re.DOTALL)


def main(argv: list[str] | None = None) -> int:
    """Rewrite or check the pages."""
    args = write.parser(__doc__).parse_args(argv)
    pages = {ROOT / page: render((ROOT / page).read_text(), page) for page in PAGES}
    return write.write(pages, args.check)


if __name__ == "__main__":
    sys.exit(main())
