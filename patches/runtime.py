"""State of one patched process: the configuration and the counts behind the receipt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from sglang_hisa import __version__
from sglang_hisa.config import Config
from sglang_hisa.gpu import Gpu

if TYPE_CHECKING:
    import torch

    from sglang_hisa.audit import Audit
    from sglang_hisa.budget import Rule
    from sglang_hisa.canary import Canary
    from sglang_hisa.counts import RowCounts, StockReason
    from sglang_hisa.summaries import PageSummaries


def _by_text(counts: Mapping[StockReason, int]) -> dict[str, int]:
    """Plain strings: a receipt is unpickled by processes that need not know the enum."""
    return {reason.value: count for reason, count in counts.items()}


@dataclass
class Runtime:
    """What this process serves with HISA, as far as it happened on the host.

    Steps that replay a CUDA graph run no Python, so ``steps`` counts eager steps and captures only;
    ``graphs`` tells which captured row counts run HISA.
    """

    config: Config
    sglang: str
    patches: int
    gpu: Gpu | None = None
    """Of this process; None on a CPU."""
    behaviours: frozenset[str] = frozenset()
    """Keys of :data:`.behaviours.BEHAVIOURS` that this SGLang shows."""
    unverified: tuple[str, ...] = ()
    """Functions of this SGLang that HISA relies on and does not know, each with what differs."""
    layers: set[int] = field(default_factory=set)
    deterministic: bool = False
    """Whether SGLang's deterministic inference was asked for (see :mod:`.deterministic`)."""
    speculative: bool = False
    """Whether drafts are verified, several tokens of a request in one step."""
    draft_layers: int = 0
    """Layers of the draft model that have page summaries. Their numbers are among the target's."""
    graphs: set[int] = field(default_factory=set)
    """Row counts of the captured graphs that ran HISA."""
    stock_decode_graphs: set[int] = field(default_factory=set)
    """Row counts of the second graphs, with stock DSA, for steps that pruning would not make faster (see
    :mod:`.decode_graphs`)."""
    capturing_stock: bool = False
    """Whether one of them is being captured."""
    graphs_missing_hisa: set[int] = field(default_factory=set)
    """Row counts of the other captured graphs that called the stock indexer: an error where decode has a
    budget."""
    decode_rule: Rule | None = None
    """The decode budget of this model, from the first planned decode step on."""
    steps: Counter[str] = field(default_factory=Counter)
    """HISA steps by phase."""
    stock: Counter[StockReason] = field(default_factory=Counter)
    """Steps left to the stock indexer, by reason."""
    stock_rows: Counter[StockReason] = field(default_factory=Counter)
    """Rows of those steps where the host knows them, by reason (see :mod:`sglang_hisa.counts`)."""
    rebuilt: Counter[str] = field(default_factory=Counter)
    """Pages whose summaries were made again because something moved their keys, by mover."""
    pools: WeakSet[PageSummaries] = field(default_factory=WeakSet)
    """Summaries of each pool of this process: the model's, and a draft's if there is one."""
    forward_stream: torch.cuda.Stream | None = None
    """SGLang's stream of the forwards, on a GPU."""
    rows: RowCounts = field(init=False)
    summary_bytes: int = 0
    agreed: bool = False
    """Whether this rank has compared itself with the others."""
    audit: Audit = field(init=False)
    canary: Canary = field(init=False)
    refine: str = ""
    backend: str = ""
    tuning: dict[str, int] = field(default_factory=dict)
    """Launch options of the kernels (:class:`sglang_hisa.kernels.tuning.Tuning`)."""
    on_step: Callable[[str, str], None] | None = None
    """Told of each counted step: ("hisa", phase) or ("stock", reason)."""
    on_forward: Callable[[], None] | None = None
    """Called on the forward stream before each forward, and :attr:`on_idle` when there is none to do."""
    on_idle: Callable[[], None] | None = None

    def __post_init__(self) -> None:
        # `hisa doctor` imports this module where torch may be what is missing.
        from sglang_hisa.audit import Audit
        from sglang_hisa.canary import Canary
        from sglang_hisa.counts import RowCounts

        self.rows = RowCounts()
        self.audit = Audit(self.config.audit)
        self.canary = Canary(self.config.canary, self.config.canary_stop)

    def note_graph(self, rows: int, hisa: bool) -> None:
        """A decode graph of ``rows`` rows is being captured, with HISA or with the stock indexer."""
        if hisa:
            self.graphs.add(rows)
        elif self.capturing_stock:
            self.stock_decode_graphs.add(rows)
        else:
            self.graphs_missing_hisa.add(rows)

    def count_hisa(self, phase: str) -> None:
        """A step of ``phase`` ran HISA."""
        self.steps[phase] += 1
        if self.on_step:
            self.on_step("hisa", phase)

    def count_stock(self, reason: StockReason, rows: int = 0) -> None:
        """A step of ``rows`` rows (0: counted on the device) was left to the stock indexer for ``reason``."""
        self.stock[reason] += 1
        if rows:
            self.stock_rows[reason] += rows
        if self.on_step:
            self.on_step("stock", reason)

    def _rows_report(self) -> dict[str, Any]:
        from sglang_hisa.counts import IN_GRAPHS

        by_kind = self.rows.report()
        on_device = {reason: by_kind.pop(reason)["rows"] for reason in IN_GRAPHS}
        rows = {**self.stock_rows, **{reason: rows for reason, rows in on_device.items() if rows}}
        return {**by_kind, "stock": _by_text(rows)}

    def receipt(self) -> dict[str, Any]:
        """The receipt: JSON-serialisable proof of what runs."""
        return {
            "active": bool(self.layers) and self.summary_bytes > 0,
            "version": __version__,
            "sglang": self.sglang,
            "source": {"verified": not self.unverified, "unknown": list(self.unverified)},
            "gpu": self.gpu.report() if self.gpu else None,
            "preset": self.config.preset,
            "changed": list(self.config.changed),
            "config": asdict(self.config),
            "deterministic": self.deterministic,
            "fingerprint": self.config.fingerprint(),
            "patches": self.patches,
            "layers": len(self.layers),
            "draft_layers": self.draft_layers,
            "graphs_with_hisa": len(self.graphs),
            "graph_rows": sorted(self.graphs),
            "stock_decode_graphs": len(self.stock_decode_graphs),
            "graphs_missing_hisa": len(self.graphs_missing_hisa),
            "summary_bytes": self.summary_bytes,
            "refine": self.refine,
            "kernels": self.backend,
            "kernel_settings": self.tuning,
            "hisa_steps": dict(self.steps),
            "stock_steps": _by_text(self.stock),
            "rows": self._rows_report(),
            "summary_rebuilds": dict(self.rebuilt),
            "audit": self.audit.report(),
            "canary": self.canary.report(),
        }


_runtime: Runtime | None = None


def start(runtime: Runtime) -> None:
    """Make ``runtime`` the process's own."""
    global _runtime
    _runtime = runtime


def current() -> Runtime:
    """The process's runtime. Raises ``RuntimeError`` before :func:`start`."""
    if _runtime is None:
        raise RuntimeError("sglang-hisa: a patched method ran before the plugin was activated")
    return _runtime
