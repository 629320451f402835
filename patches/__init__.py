"""The only part of HISA that imports SGLang: patch table, checks, and adapters.

``register`` is the entry point of the group ``sglang.srt.plugins``.
"""

from __future__ import annotations


def register() -> None:
    """Patch SGLang when ``SGLANG_HISA`` is set; otherwise do nothing at all.

    ``SGLANG_HISA_DUMMY=spread``, which our commands set, concerns servers with made-up weights, stock's too.

    Raises:
        SystemExit: wrong configuration, unsupported SGLang, or a patch target that moved. (SGLang
            swallows any ``Exception`` of a plugin and would serve stock DSA.)
    """
    from sglang_hisa.config import ConfigError, from_env, spread_scores_requested

    if spread_scores_requested():
        from sglang_hisa.patches import made_up

        made_up.register()

    try:
        config = from_env()
    except ConfigError as error:
        raise SystemExit(f"sglang-hisa: refusing to start.\n{error}") from None
    if config is None:
        return
    from sglang_hisa.patches.plugin import activate

    activate(config)
