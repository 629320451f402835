"""The one configuration object, and the only module that reads the environment.

``SGLANG_HISA`` is unset (stock SGLang), a preset name, or a JSON object whose optional ``preset`` names
the values it starts from::

    SGLANG_HISA=balanced
    SGLANG_HISA='{"preset": "paper", "prefill_tokens": 16384, "sink_tokens": 128}'
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import os
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sglang_hisa import PAGE
from sglang_hisa.presets import PRESETS as PRESETS

ENV = "SGLANG_HISA"
ENV_CPU = "SGLANG_HISA_CPU"
ENV_DUMMY = "SGLANG_HISA_DUMMY"
ENV_KEY = "SGLANG_HISA_API_KEY"
SPREAD = "spread"
"""Value of ``ENV_DUMMY``."""
OUR_PLUGINS = ("hisa", "hisa_cpu")
"""Our entry points: HISA, and the CPU stand-ins."""

MOST_TOKENS = 2**31 - 1
"""Lengths are int32 on the device."""
BLOCKS = (64, 128, 256)
GROUPS = (1, 2, 4, 8, 16)
HEADS = (1.0, 0.5, 0.25, 0.125)
REFINE = ("auto", "deepgemm", "triton")
KERNELS = ("auto", "triton", "torch")
CANARY = ("off", "sample", "full")
PHASES = ("decode", "prefill")
COMPUTES = 3
"""Number of the rule by which rows choose their candidates; raised when the same settings choose others."""


class ConfigError(ValueError):
    """A setting that HISA refuses. The message lists every problem, one on each line."""


@dataclass(frozen=True)
class Phase:
    """Candidate budget of one phase, ``max(tokens, fraction * context)``; ``tokens == 0`` is stock DSA."""

    tokens: int
    fraction: float = 0.0
    heads: float = 1.0
    """Share of the index heads that score the candidates of a pruned row."""

    @property
    def active(self) -> bool:
        return self.tokens > 0


@dataclass(frozen=True)
class Config:
    """Settings of one server, checked once by :func:`parse`.

    Token counts are in tokens, fractions are of the row's own context. A row whose context fits its
    budget keeps every page, so its result equals stock DSA.
    """

    preset: str = "balanced"
    block: int = 64
    """Tokens that share one coarse score: 64 (a page), 128 or 256."""
    decode_tokens: int = 32768
    """Candidate tokens of a decode row; 0 leaves decode to stock DSA."""
    decode_fraction: float = 1 / 16
    """The decode budget grows to this share of the context."""
    prefill_tokens: int = 32768
    """Candidate tokens of a prefill row; 0 leaves prefill to stock DSA."""
    prefill_fraction: float = 1 / 4
    """The prefill budget grows to this share of the context."""
    prefill_group: int = 8
    """How many adjacent prefill rows choose their pages together, by the sum of their scores: 1, 2, 4, 8 or
    16. Each key is loaded once for all of them. A pair keeps about as much as a row alone would with a budget
    a few per cent smaller. Larger groups pay off with fewer heads (4 with a half, 8 with a quarter, 16 with
    an eighth)."""
    prefill_heads: float = 0.25
    """Share of the index heads, those with the row's largest weights (arXiv 2605.07363), that score the
    candidates of a prefill row with more than ``prefill_tokens`` tokens of context: 1, 0.5, 0.25 or 0.125.
    All heads score the other rows and choose the pages. The project's trained model answers as well with a
    quarter of the heads as with all (``launch/results/quality-frontier.json``)."""
    dense_tail_tokens: int = 1024
    """The rows of this many last tokens of a prompt keep their whole context, because the answer depends most
    on them. The project's small trained model answers as well with 256 as with 1024 or 2048, and worse with 0
    (``launch/results/quality-tail.json``); its questions are short."""
    sink_tokens: int = 64
    """This many first tokens of the context are always candidates (at least one block)."""
    local_tokens: int = 64
    """This many last tokens before the row are always candidates (at least the row's own block)."""
    refine: str = "auto"
    """Kernel that scores the candidates: ``deepgemm``, ``triton``, or ``auto`` for the faster of the two."""
    kernels: str = "auto"
    """HISA's kernels: ``triton``, ``torch`` (slow), or ``auto``: Triton on a GPU, torch on a CPU."""
    workspace_mb: int = 512
    """Memory for the candidate scores of a prefill, in MiB; rows are scored in chunks that fit."""
    stock_decode_graphs: bool = True
    """Capture each decode graph with stock DSA, too, and replay that one if every row fits its budget or
    pruning would not pay off (:meth:`sglang_hisa.budget.Rule.pays`)."""
    audit: float = 0.0
    """Share of the pruned prefill rows whose choice is compared with that over their whole context; below
    1/9, each step audits a ninth of the layers, which take turns."""
    canary: str = "off"
    """Which page summaries are compared with a rebuild: none, a sample after every eighth forward, or all
    after each forward."""
    canary_stop: bool = False
    """Stop the server when the canary finds a wrong summary."""
    unverified_gpu: bool = False
    """Serve on a GPU whose compute capability no record shows; receipt, doctor and metrics mark it."""
    unverified_source: bool = False
    """Serve an SGLang in which functions that HISA relies on have changed, with the canary on (``sample``
    if it was off); receipt, ``hisa doctor`` and metrics mark it."""

    @property
    def decode(self) -> Phase:
        return Phase(self.decode_tokens, self.decode_fraction)

    @property
    def prefill(self) -> Phase:
        return Phase(self.prefill_tokens, self.prefill_fraction, float(self.prefill_heads))

    @property
    def changed(self) -> tuple[str, ...]:
        """Settings whose value is not that of the preset."""
        usual = {f.name: f.default for f in dataclasses.fields(self)} | PRESETS[self.preset]
        given = dataclasses.asdict(self)
        return tuple(key for key in given if key != "preset" and given[key] != usual[key])

    @property
    def title(self) -> str:
        """The preset's name, and what was changed of it: ``balanced (changed: prefill_tokens)``."""
        return f"{self.preset} (changed: {', '.join(self.changed)})" if self.changed else self.preset

    @property
    def pages_per_block(self) -> int:
        return self.block // PAGE

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    def fingerprint(self) -> str | None:
        """16 hex digits, equal where the same KV is computed up to rounding; None where it is stock's.

        The preset's name, what only watches (``audit``, ``canary``), ``unverified_gpu`` and
        ``unverified_source``, and what changes rounding alone (``refine``, ``kernels``, ``workspace_mb``) do
        not count, nor does what belongs to a phase that is left to stock DSA. ``stock_decode_graphs`` counts:
        it decides which decode steps are pruned.
        """
        phases: dict[str, list[object]] = {}
        if self.decode.active:
            phases["decode"] = [self.decode_tokens, float(self.decode_fraction), self.stock_decode_graphs]
        if self.prefill.active:
            budget = [self.prefill_tokens, float(self.prefill_fraction)]
            phases["prefill"] = [*budget, self.prefill_group, self.dense_tail_tokens]
            if self.prefill_heads < 1:  # left out otherwise: pages stored before there was this key stay good
                phases["prefill"].append(float(self.prefill_heads))
        if not phases:
            return None
        # "mean" stands for a page: written out, so that what is stored already is found.
        common = [COMPUTES, self.block, "mean", self.sink_tokens, self.local_tokens]
        text = json.dumps([common, phases], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def alone(config: Config) -> Config:
    """``config`` where prefill rows choose alone, by all heads: fewer pay only with rows that share pages."""
    return dataclasses.replace(config, prefill_group=1, prefill_heads=1.0)


_CHOICES: dict[str, tuple[object, ...]] = {
    "prefill_group": GROUPS,
    "prefill_heads": HEADS,
    "refine": REFINE,
    "kernels": KERNELS,
    "canary": CANARY,
}

_RENAMED = {"short_graphs": "stock_decode_graphs"}
"""Keys of earlier versions, with the name that each has now."""

_HINTS: dict[str, str] = {
    "block": f"one of {', '.join(map(str, BLOCKS))} (a multiple of the {PAGE}-token page)",
    "decode_tokens": f"0 (stock DSA), or at least the model's index_topk and at most {MOST_TOKENS}",
    "prefill_tokens": f"0 (stock DSA), or at least the model's index_topk and at most {MOST_TOKENS}",
    "decode_fraction": "a number from 0 to 1",
    "prefill_fraction": "a number from 0 to 1",
    "prefill_group": "1, 2, 4, 8 or 16",
    "prefill_heads": "1 (all), 0.5, 0.25 or 0.125",
    "dense_tail_tokens": f"0 or more, at most {MOST_TOKENS}",
    "sink_tokens": f"0 or more, at most {MOST_TOKENS}",
    "local_tokens": f"0 or more, at most {MOST_TOKENS}",
    "refine": f"one of {', '.join(REFINE)}",
    "kernels": f"one of {', '.join(KERNELS)}",
    "workspace_mb": "16 or more, at most 1048576",
    "stock_decode_graphs": "true or false",
    "audit": "a number from 0 (off) to 1",
    "canary": f"one of {', '.join(CANARY)}",
    "canary_stop": 'true or false; true needs "canary": "sample" or "full"',
    "unverified_gpu": "true or false; true serves on GPUs that no record shows",
    "unverified_source": "true or false; true serves an SGLang whose source HISA does not know",
    "preset": f"one of {', '.join(PRESETS)}",
}


def allowed(key: str) -> str:
    """What ``key`` may be, in words, for messages and ``hisa serve --help``."""
    return _HINTS[key]


def _short(value: object) -> str:
    """``value`` as JSON, cut so that a message stays readable."""
    return _cut(json.dumps(value, default=str))


def _cut(text: str) -> str:
    return text if len(text) <= 120 else f"{text[:100]}... ({len(text)} characters)"


def _complaint(key: str, value: object) -> str:
    return f'"{key}": {_short(value)} is not allowed; allowed: {_HINTS[key]}'


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    given = dict(pairs)
    if len(given) < len(pairs):
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ConfigError(
            f"{ENV}: keys given more than once: {', '.join(map(_short, twice))}; give each key once"
        )
    return given


def _hint(key: str, known: Iterable[str]) -> str:
    if key in _RENAMED:
        return f"; it is now called {_RENAMED[key]!r};"
    near = difflib.get_close_matches(key, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _wrong_type(key: str, value: object, default: object) -> bool:
    if isinstance(default, bool):
        return not isinstance(value, bool)
    if isinstance(value, bool):
        return True
    if isinstance(default, float):
        return not isinstance(value, (int, float))
    return not isinstance(value, type(default))


def _out_of_range(key: str, value: Any) -> bool:
    if key == "block":
        return value not in BLOCKS
    if key in _CHOICES:
        return value not in _CHOICES[key]
    if key.endswith("_fraction") or key == "audit":
        return not 0 <= value <= 1
    if key == "workspace_mb":
        return not 16 <= value <= 1 << 20
    return not isinstance(value, (bool, str)) and not 0 <= value <= MOST_TOKENS


def parse(text: str) -> Config:
    """``text`` as in ``SGLANG_HISA`` -> :class:`Config`.

    Raises:
        ConfigError: unreadable JSON, unknown preset or key, wrong type or value; lists every one.
    """
    text = text.strip()
    given: Any = {"preset": text}
    if text[:1] in ("{", "[", '"') or not text:
        try:
            given = json.loads(text, object_pairs_hook=_no_key_twice)
        except ConfigError:
            raise
        except (ValueError, RecursionError) as error:  # also a number of 5000 digits, brackets 5000 deep
            raise ConfigError(
                f"{ENV} is not readable JSON ({error}): {_cut(repr(text))}; allowed: a preset "
                f"({', '.join(PRESETS)}) or a JSON object"
            ) from None
    if not isinstance(given, dict):
        raise ConfigError(f"{ENV} must be a preset name or a JSON object, not {_cut(repr(text))}")
    return from_mapping(given)


def from_mapping(given: Mapping[str, Any]) -> Config:
    """The settings in ``given`` over those of its preset. Raises :class:`ConfigError`."""
    problems: list[str] = []
    name = given.get("preset", "balanced")
    if not isinstance(name, str) or name not in PRESETS:
        raise ConfigError(f"{ENV}: " + _complaint("preset", name))
    values = {"preset": name, **PRESETS[name]}
    defaults = {f.name: f.default for f in dataclasses.fields(Config)}
    for key, value in given.items():
        if key not in defaults:
            hint = f"{_hint(key, defaults)} allowed: {', '.join(defaults)}"
            problems.append(f"unknown key {_short(key)} (value {_short(value)}){hint}")
        elif _wrong_type(key, value, defaults[key]) or _out_of_range(key, value):
            problems.append(_complaint(key, value))
        else:
            values[key] = value
    if values.get("canary_stop") and values.get("canary", "off") == "off":
        problems.append(_complaint("canary_stop", True))
    if problems:
        raise ConfigError(f"{ENV}:\n  " + "\n  ".join(problems))
    return Config(**values)


def setting(wanted: Config) -> str:
    """The shortest value of ``SGLANG_HISA`` that means ``wanted``: a preset, or JSON of its changes."""
    preset = dataclasses.asdict(from_mapping({"preset": wanted.preset}))
    changes = {key: value for key, value in dataclasses.asdict(wanted).items() if value != preset[key]}
    return json.dumps({"preset": wanted.preset, **changes}) if changes else wanted.preset


def fitting(config: Config, index_topk: int) -> str:
    """The shell command that sets ``config`` with budgets that the model's ``index_topk`` allows."""
    budgets = {f"{phase}_tokens": getattr(config, f"{phase}_tokens") for phase in PHASES}
    raised = {key: max(tokens, index_topk) for key, tokens in budgets.items() if tokens}
    return export(dataclasses.replace(config, **raised))


def export(wanted: Config) -> str:
    """The shell command after which a server has the settings ``wanted``."""
    return f"export {ENV}={shlex.quote(setting(wanted))}"


def check_model(config: Config, index_topk: int, page_size: int) -> list[str]:
    """Reasons why ``config`` does not fit a model, empty when it does."""
    problems = []
    for phase in PHASES:
        tokens = getattr(config, f"{phase}_tokens")
        if 0 < tokens < index_topk:
            problems.append(
                f'"{phase}_tokens": {tokens} is smaller than the model\'s index_topk {index_topk}; '
                f"allowed: 0 (stock DSA) or at least {index_topk}"
            )
    if page_size != PAGE or config.block % page_size:
        problems.append(f'"block": {config.block} needs pages of {PAGE} tokens; the server has {page_size}')
    return problems


def from_env(environ: Mapping[str, str] | None = None) -> Config | None:
    """The configuration that ``SGLANG_HISA`` asks for; None when it is unset (stock SGLang)."""
    text = (os.environ if environ is None else environ).get(ENV)
    return None if text is None else parse(text)


def cpu_stand_ins_requested(environ: Mapping[str, str] | None = None) -> bool:
    """Whether ``SGLANG_HISA_CPU=1`` asks for the CPU stand-ins (demo and tests only)."""
    return (os.environ if environ is None else environ).get(ENV_CPU) == "1"


def spread_scores_requested(environ: Mapping[str, str] | None = None) -> bool:
    """Whether ``SGLANG_HISA_DUMMY=spread`` asks that index scores of made-up weights differ."""
    return (os.environ if environ is None else environ).get(ENV_DUMMY) == SPREAD


def api_key(environ: Mapping[str, str] | None = None) -> str:
    """The API key of servers that the commands ask; empty where there is none."""
    return (os.environ if environ is None else environ).get(ENV_KEY, "")


def plugin_whitelist(environ: Mapping[str, str] | None = None) -> list[str] | None:
    """Entry points that ``SGLANG_PLUGINS`` lets SGLang load; None when all are."""
    text = (os.environ if environ is None else environ).get("SGLANG_PLUGINS", "")
    return [name.strip() for name in text.split(",") if name.strip()] or None


def only_ours(cpu: bool) -> str:
    """The shell command after which SGLang loads no plugins but HISA and, with ``cpu``, its CPU stand-ins."""
    return f"export SGLANG_PLUGINS={','.join(OUR_PLUGINS if cpu else OUR_PLUGINS[:1])}"


def environment() -> dict[str, str]:
    """The whole environment, to be handed (changed) to a server that we start."""
    return dict(os.environ)


def interpreting_triton() -> bool:
    """Whether Triton runs in its CPU interpreter, which needs fp32 dots (bf16 ones are wrong there)."""
    return os.environ.get("TRITON_INTERPRET") == "1"
