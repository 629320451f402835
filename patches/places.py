"""What a row of the patch table says of SGLang: where an attribute is, what HISA needs of it, and why."""

from __future__ import annotations

from dataclasses import dataclass

from sglang_hisa.config import Config

DSA = "sglang.srt.layers.attention.dsa.dsa_indexer"
POOL = "sglang.srt.mem_cache.memory_pool.DSATokenToKVPool"
HICACHE_CONTROLLER = "sglang.srt.managers.cache_controller.HiCacheController"
MOVE = "sglang.srt.mem_cache.index_key_cache.IndexKeyCache.move"
INDEXER_FILE = "srt/layers/attention/dsa/dsa_indexer.py"
"""Names of SGLang that several rows share."""


@dataclass(frozen=True)
class Place:
    """An attribute of SGLang, and what makes it the one that a row means."""

    target: str
    """Dotted path, module then qualified name."""
    params: tuple[str, ...] | None = None
    """Parameters that HISA passes or takes, in SGLang's order: ``name?`` may be missing, ``*`` stands for any
    number of others. None: not a function, or none matters."""
    callers: tuple[tuple[str, str], ...] = ()
    """(source file, expression) through which SGLang must reach the attribute."""


@dataclass(frozen=True)
class Probe:
    """A behaviour of SGLang that its source shows."""

    what: str
    targets: tuple[str, ...]
    """Functions that may show it, by the names that they have had."""
    parameter: str = ""
    """A parameter that one of them has."""
    text: str = ""
    """Code in the body of one of them. Neither: one of them exists."""


@dataclass(frozen=True)
class Patch:
    """One patched attribute of SGLang."""

    kind: str
    """SGLang hook type: before, after or around."""
    hook: str
    """Our function, ``module:name`` below ``sglang_hisa.patches``."""
    why: str
    places: tuple[Place, ...]
    """Where the attribute is, newest first."""
    relies: str = ""
    """What HISA takes for granted inside: the body must be a known one (:mod:`.bodies`). Empty: nothing."""
    setting: str = ""
    """Key of the configuration that must not be off for the patch to be applied; empty: always applied."""
    only: str = ""
    """Behaviour (a key of ``BEHAVIOURS``) with which alone the patch is applied."""
    unless: str = ""
    """Behaviour with which it is not."""

    def applies(self, config: Config) -> bool:
        return not self.setting or getattr(config, self.setting) not in ("off", False)


@dataclass(frozen=True)
class Use:
    """A name of SGLang that HISA calls, reads or relies on without patching it."""

    places: tuple[Place, ...]
    relies: str = ""
    """As in :class:`Patch`."""
    optional: bool = False
    """Whether SGLang may lack it."""


Row = Patch | Use
