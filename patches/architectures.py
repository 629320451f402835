"""Which architectures the installed SGLang serves with DSA, read from its source, which is not imported."""

from __future__ import annotations

import ast
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sglang_hisa.patches import contract
from sglang_hisa.patches.source import SourceError

NO_TOPK = "its configuration names no index_topk, so it has no DSA indexer"
_OWN_DEFAULT = ("DeepseekV3ForCausalLM",)
"""Served with DSA only where config.json itself has ``index_topk`` (DeepSeek-V3 and R1 do not); configuration
classes of newer architectures may supply it."""


@functools.cache
def dsa_architectures(root: Path) -> frozenset[str]:
    """Those of ``is_deepseek_dsa`` in ``srt/configs/model_config.py``; empty where it cannot be read."""
    try:
        tree = ast.parse((root / "srt" / "configs" / "model_config.py").read_text())
    except (OSError, SyntaxError):
        return frozenset()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == "is_deepseek_dsa":
            texts = (c.value for c in ast.walk(node) if isinstance(c, ast.Constant))
            return frozenset(text for text in texts if isinstance(text, str) and text != "index_topk")
    return frozenset()


def attribute(config: Mapping[str, Any], name: str) -> Any:
    """A field of config.json or, where it has none, of its text part; None where neither has it."""
    return config.get(name, (config.get("text_config") or {}).get(name))


def not_dsa(config: Mapping[str, Any]) -> str:
    """Why the model of this config.json is not a DSA model that the installed SGLang serves; empty if it is.

    Errs on the side of silence: the server asks SGLang itself before it loads weights.
    """
    try:
        known = dsa_architectures(contract.installed_root())
    except SourceError:
        return ""
    found = [str(name) for name in config.get("architectures") or ()]
    if not known or not found:
        return ""
    if found[0] not in known:
        return f"{found[0]} is not a DeepSeek-Sparse-Attention model; DSA models: {', '.join(sorted(known))}"
    if found[0] in _OWN_DEFAULT and attribute(config, "index_topk") is None:
        return f"{found[0]}: {NO_TOPK}"
    return ""
