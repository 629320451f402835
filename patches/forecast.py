"""What SGLang would make of a config.json and of flags, without starting it: index layers, declined flags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from sglang_hisa.patches.architectures import attribute
from sglang_hisa.patches.features import FEATURES, declined
from sglang_hisa.patches.flags import value_of

ALIASES = {
    "dcp_size": ("--decode-context-parallel-size",),
    "attn_cp_size": ("--attention-context-parallel-size",),
    "speculative_algorithm": ("--speculative-algo",),
}
"""Other spellings of the flags in ``FEATURES``; the usual one is the argument's name with dashes."""


def index_layers(config: Mapping[str, Any]) -> int:
    """Layers that score tokens themselves; the others reuse an earlier layer's choice and have no index keys.

    The rule of ``dsa_layer_skips_topk`` in SGLang's ``configs/model_config.py``.
    """
    count = int(attribute(config, "num_hidden_layers") or 0)
    if (types := attribute(config, "indexer_types")) is not None:
        return count - list(types[:count]).count("shared")
    if (every := attribute(config, "cli_factor") or 1) > 1:
        return sum(layer % every == 0 for layer in range(count))
    if (pattern := attribute(config, "index_topk_pattern")) is not None:
        return count - list(pattern[:count]).count("S")
    freq = attribute(config, "index_topk_freq") or 1
    offset = attribute(config, "index_skip_topk_offset")
    if offset is not None:
        return sum(max(layer - offset + 1, 0) % freq == 0 for layer in range(count))
    return sum(max(layer - 1, 0) % freq == 0 for layer in range(count))


def _argument(flags: Sequence[str], name: str) -> Any:
    text = value_of(flags, f"--{name.replace('_', '-')}", *ALIASES.get(name, ()))
    if text is None:
        return None
    return int(text) if text.isdecimal() else text or True


def declined_flags(config: Mapping[str, Any], flags: Sequence[str], version: str) -> list[str]:
    """Reasons why HISA would not serve these flags and this model; those that only SGLang knows are left out.

    A server asks again with SGLang's own arguments, defaults and all.
    """
    arguments = SimpleNamespace(**{f.argument: _argument(flags, f.argument) for f in FEATURES})
    fields = {key: value for key, value in config.items() if key != "text_config"}
    model = SimpleNamespace(**fields, text_config=SimpleNamespace(**(config.get("text_config") or {})))
    return declined(arguments, model)
