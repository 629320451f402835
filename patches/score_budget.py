"""SGLang's rule for the memory that stock DSA may take to score a prefill chunk, and the pieces it makes.

The scores of a chunk are one fp32 matrix, rows x tokens of context. Where it is larger than a budget the
indexer makes it in pieces, one after the other. The rule is ``_get_mqa_logits_budget_bytes`` and
``_get_topk_ragged`` in ``layers/attention/dsa/dsa_indexer.py`` (0.5.17 to 0.5.20), from 0.5.21 on with
``layers/attention/mqa_logits_utils.py``. It is the same in all of them.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sglang_hisa.patches import contract, source

_FREE = "SGLANG_DSA_MQA_LOGITS_FREE_MEM_FRACTION"
_RULES = ("srt/layers/attention/mqa_logits_utils.py", "srt/layers/attention/dsa/dsa_indexer.py")
_MIB = 1 << 20


@dataclass(frozen=True)
class ScoreBudget:
    """The constants of the rule; the defaults are those of 0.5.17 to 0.5.23.

    ``element``: bytes of a score; ``skip``: fewer scores are never made in pieces; ``free_share`` of what is
    free, and ``total_share`` of all memory, may be taken.
    """

    element: int = 4
    skip: int = 8_000_000
    total_share: float = 0.3
    free_share: float = 0.2

    def allowed(self, total: int, fraction: float | None, free: int | None = None) -> int:
        """Bytes of scores at a time on a GPU of ``total`` bytes, with ``--mem-fraction-static`` ``fraction``.

        ``free``: bytes free when the first long prompt comes, after which SGLang keeps its answer; None: not
        known.
        """
        most = int(total * self.total_share)
        if fraction is not None:
            most = min(int(int(total * max(0.0, 1.0 - fraction)) * self.free_share), most)
        if free is not None:
            most = min(int(free * self.free_share), most)
        return max(1, most)

    def needed(self, rows: int, context: int) -> int:
        """Bytes of the scores of ``rows`` query tokens over ``context`` tokens."""
        return rows * context * self.element

    def pieces(self, rows: int, context: int, allowed: int) -> int:
        """How many times the indexer scores, one for all rows where they fit in ``allowed`` bytes."""
        if rows * context < self.skip or self.needed(rows, context) <= allowed:
            return 1
        at_once = max(1, allowed // self.needed(1, context))
        return -(-rows // at_once)


def _number(text: str, name: str, default: float) -> float:
    """What ``text``, Python's, assigns to ``name``, bare or as the default of an ``EnvFloat``."""
    found = re.search(rf"{name} = (?:EnvFloat\()?([\d_.]+)", text)
    return float(found[1]) if found else default


def read(env: Mapping[str, str]) -> ScoreBudget:
    """The rule of the SGLang that a server started here imports, in the environment ``env``.

    A constant that its source does not tell is that of the known releases.
    """
    known = ScoreBudget()
    try:
        root = contract.installed_root()
    except source.SourceError:
        return known
    text = "".join(_text(root / name) for name in _RULES)
    free_share = _number(_text(root / "srt/environ.py"), _FREE, known.free_share)
    with contextlib.suppress(ValueError):  # SGLang warns, and takes its default
        free_share = float(env.get(_FREE, free_share))
    return ScoreBudget(
        int(_number(text, "MQA_LOGITS_BYTES_PER_ELEM", known.element)),
        int(_number(text, "MQA_LOGITS_STATIC_SKIP_ELEMS", known.skip)),
        _number(text, "MQA_LOGITS_TOTAL_MEM_FRACTION", known.total_share),
        free_share,
    )


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def default_fraction(total: int, chunk_tokens: int, ranks: int) -> float:
    """``--mem-fraction-static`` where it is not given, or a little above it, on a GPU of ``total`` bytes.

    SGLang sets aside memory for activations (by ``chunk_tokens``), parallel ranks and CUDA graphs:
    ``handle_gpu_memory_settings`` in ``arg_groups/memory_hook.py``, and in ``server_args.py`` before 0.5.19.
    Graphs and what single features want are left out here.
    """
    memory = total / _MIB
    aside = 512 + 1.5 * max(chunk_tokens, 2048) + ranks / 8 * 1024
    if memory > 60 * 1024:
        aside = max(aside, 10 * 1024)
    return round((memory - aside) / memory, 3)
