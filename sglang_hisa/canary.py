"""Canary: is every summary that a forward read that of the bytes it stands for?

After a forward (a sampling canary: after every eighth) summaries of its complete pages are compared, bit for
bit, with their rebuild from the index-K bytes. Everything runs on the forward's stream, outside its CUDA
graph, and the counts stay on the device: they are copied to pinned memory and read at a later forward, so
that no forward waits for them.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sglang_hisa import PAGE
from sglang_hisa.summaries import PageSummaries

logger = logging.getLogger(__name__)

SAMPLE_PAGES = 512
"""Pages that ``"sample"`` compares at a time, in one layer: the layers take turns."""
SAMPLE_EVERY = 8
"""Forwards of a pool from one such comparison to the next. It is some eighty launches, however many pages:
too many for each step of decode."""
KEPT_EVENTS = 4096
"""Newest writes whose requests are remembered, to name the last writer of a page."""
_ROW_BITS = 20
_FIELDS = ("checks", "violations", "event", "layer", "page", "row", "position", "writer")


class CanaryViolation(RuntimeError):
    """A page summary is not that of the page's bytes, and ``canary_stop`` is set."""


@dataclass(frozen=True)
class Event:
    """What wrote index keys: a forward and its requests, or a mover of pages."""

    kind: str
    requests: tuple[str, ...] = ()

    def of(self, row: int) -> str:
        return f"request {self.requests[row]}" if row < len(self.requests) else f"row {row}"


@dataclass(frozen=True)
class Watched:
    """Pages of one forward, all int64 ``[n]``.

    ``pages`` is 0 where there is nothing to compare: page 0 takes the stores of padded rows, at any time. No
    pages at all: this forward is not compared.
    """

    event: int
    pages: torch.Tensor
    rows: torch.Tensor
    positions: torch.Tensor
    """The page's number in its request: its tokens start at 64 times this."""
    requests: int


@dataclass
class _Pool:
    """What is kept of one pool: a draft model has its own."""

    writers: torch.Tensor
    """int64 ``[pages]``: the last event and row that wrote each page, -1 for none."""
    forwards: int = 0

    @property
    def sampled(self) -> bool:
        """Whether ``"sample"`` compares after the forward under way."""
        return self.forwards % SAMPLE_EVERY == 0


class Canary:
    """Comparisons and violations since the server started."""

    def __init__(self, mode: str, stop: bool = False, seed: int = 0) -> None:
        """``mode``: "off", "sample" or "full"; ``stop``: the first violation raises."""
        self.on_counted: Callable[[int, int], None] | None = None
        """Told of new comparisons and new violations, when their counts have arrived on the host."""
        self.mode, self._stop, self._seed = mode, stop, seed
        self._events: OrderedDict[int, Event] = OrderedDict()
        self._next = 0
        self._host = dict.fromkeys(_FIELDS, 0)
        self._first: str | None = None
        self._record: torch.Tensor | None = None
        self._pools: dict[PageSummaries, _Pool] = {}
        self._random: torch.Generator | None = None
        self._arriving: tuple[torch.Tensor, torch.cuda.Event] | None = None

    def _prepare(self, summaries: PageSummaries) -> None:
        """Allocate the few device tensors, once for each pool."""
        index_k = max((layer.index_k for layer in summaries.layers), key=lambda buffer: buffer.shape[0])
        device = index_k.device
        self._pools[summaries] = _Pool(torch.full((index_k.shape[0],), -1, dtype=torch.int64, device=device))
        if self._record is None:
            self._record = torch.zeros(len(_FIELDS), dtype=torch.int64, device=device)
            # Its own generator: sampling must not move the random numbers that tokens are drawn from.
            self._random = torch.Generator(device=device).manual_seed(self._seed)

    def _remember(self, event: Event) -> int:
        number = self._next
        self._next += 1
        self._events[number] = event
        if len(self._events) > KEPT_EVENTS:
            self._events.popitem(last=False)
        return number

    # One forward.

    def begin(
        self,
        summaries: PageSummaries,
        slots_of: torch.Tensor,
        tables: torch.Tensor,
        lengths: torch.Tensor,
        longest: int,
        kind: str,
        requests: Sequence[str],
    ) -> Watched:
        """Choose the pages of a forward that is about to run.

        Before it, since under the overlap schedule the table may belong to a new request afterwards.

        Args:
            slots_of: int ``[tables, tokens]``, KV slot of each token (SGLang's ``req_to_token``).
            tables: int ``[rows]``, the table of each request of the forward.
            lengths: int ``[rows]``, tokens of each request once the forward has run.
            longest: host bound of ``lengths``.
            kind, requests: what the forward is, and its request ids, for messages.

        Raises:
            CanaryViolation: an earlier forward's count has arrived, is not zero, and ``stop`` is set.
        """
        if summaries not in self._pools:
            self._prepare(summaries)
        self._read()
        event = self._remember(Event(kind, tuple(requests)))
        if self.mode == "sample" and not self._pools[summaries].sampled:
            none = torch.empty(0, dtype=torch.int64, device=lengths.device)
            return Watched(event, none, none, none, len(lengths))
        complete = torch.div(lengths.long(), PAGE, rounding_mode="floor")
        rows, positions, inside = self._sample(complete) if self.mode == "sample" else _all(complete, longest)
        slots = slots_of[tables.long()[rows], positions * PAGE].long()
        pages = torch.div(slots, PAGE, rounding_mode="floor")
        return Watched(event, torch.where(inside, pages, 0), rows, positions, len(lengths))

    def _sample(self, complete: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Random pages, all of the forward's alike; every other one gives way to its request's newest."""
        ends = complete.cumsum(0)
        total = ends[-1]
        random = torch.rand(SAMPLE_PAGES, dtype=torch.float64, device=complete.device, generator=self._random)
        at = torch.minimum((random * total).long(), total - 1).clamp_min(0)
        rows = torch.searchsorted(ends, at, right=True).clamp_max(complete.shape[0] - 1)
        newest = torch.arange(SAMPLE_PAGES, device=at.device) % 2 == 0
        positions = torch.where(newest, complete[rows] - 1, at - (ends[rows] - complete[rows]))
        return rows, positions.clamp_min(0), complete[rows] > 0

    def end(
        self,
        summaries: PageSummaries,
        layers: Sequence[int],
        watched: Watched,
        stored: torch.Tensor,
        counts: torch.Tensor | None,
    ) -> None:
        """Compare after the forward, on its stream.

        Args:
            layers: the model's layers that this pool serves with HISA, ascending.
            stored: int ``[tokens]``, slots that the forward stored to, request after request.
            counts: int ``[rows]``, how many of them each request has; None for the same number each.

        Raises:
            CanaryViolation: as :meth:`begin`.
        """
        pool = self._pools[summaries]
        self._note_writes(pool.writers, watched, stored, counts)
        if self.mode == "sample":
            layers = [layers[pool.forwards // SAMPLE_EVERY % len(layers)]]
        pool.forwards += 1
        if watched.pages.numel():
            for layer in layers:
                self._compare(summaries, layer, watched)
            self._send()
        self._read()

    def _note_writes(
        self, writers: torch.Tensor, watched: Watched, stored: torch.Tensor, counts: torch.Tensor | None
    ) -> None:
        token = torch.arange(stored.shape[0], device=stored.device)
        if counts is not None:
            rows = torch.searchsorted(counts.cumsum(0), token, right=True)
        else:
            each = max(1, stored.shape[0] // watched.requests)
            rows = torch.div(token, each, rounding_mode="floor")
        # Slots of padded rows are negative or of page 0, which is never looked at.
        page = torch.div(stored.long().clamp_min(0), PAGE, rounding_mode="floor")
        writers[page] = (watched.event << _ROW_BITS) + rows

    def moved(self, summaries: PageSummaries, what: str, pages: torch.Tensor) -> None:
        """``what`` wrote ``pages`` (int ``[n]``) without a forward."""
        if summaries in self._pools:
            self._pools[summaries].writers[pages.long()] = self._remember(Event(what)) << _ROW_BITS

    def _compare(self, summaries: PageSummaries, layer: int, watched: Watched) -> None:
        assert self._record is not None
        inside = watched.pages > 0
        wrong = summaries.differs(layer, watched.pages) & inside
        at = wrong.int().argmax(dim=0, keepdim=True)  # an index without a dimension would be read on the host
        page = watched.pages[at]
        facts = (page, watched.rows[at], watched.positions[at], self._pools[summaries].writers[page])
        event = torch.full_like(self._record[:1], watched.event)
        found = torch.cat((event, torch.full_like(event, layer), *facts))
        first = wrong.any() & (self._record[1] == 0)
        self._record[2:] = torch.where(first, found, self._record[2:])
        self._record[:2] += torch.stack((inside.sum(), wrong.sum()))

    # From the device to the host.

    def _send(self) -> None:
        if self._arriving is None and self._record is not None and self._record.is_cuda:
            copy = torch.empty(len(_FIELDS), dtype=torch.int64, pin_memory=True)
            copy.copy_(self._record, non_blocking=True)
            done = torch.cuda.Event()
            done.record()
            self._arriving = (copy, done)

    def _read(self, wait: bool = False) -> None:
        """Count what has arrived. Raises :class:`CanaryViolation` as :meth:`begin`."""
        if self._record is None:
            return
        values = self._record
        if self._record.is_cuda and not wait:
            if self._arriving is None or not self._arriving[1].query():
                return
            values, self._arriving = self._arriving[0], None
        new = dict(zip(_FIELDS, values.tolist()))
        checks, violations = (max(0, new[key] - self._host[key]) for key in _FIELDS[:2])
        if not checks:
            return
        self._host = new
        if self.on_counted:
            self.on_counted(checks, violations)
        if new["violations"] and self._first is None:
            self._first = self._describe(new)
            logger.error("sglang-hisa canary: %s", self._first)
        if new["violations"] and self._stop:
            raise CanaryViolation(f"sglang-hisa canary: {self._first}")

    def _describe(self, found: dict[str, int]) -> str:
        writer, row = found["writer"] >> _ROW_BITS, found["writer"] & ((1 << _ROW_BITS) - 1)
        seen = self._events.get(found["event"], Event("forward"))
        event = self._events.get(writer)
        last = "not known" if found["writer"] < 0 else f"event {writer}, too long ago to be named"
        if event is not None and found["writer"] >= 0:
            last = f"event {writer}, {event.kind}" + (f" of {event.of(row)}" if event.requests else "")
        first = found["position"] * PAGE
        return (
            f"the summary of page {found['page']} in layer {found['layer']} is not that of its bytes; "
            f"seen after event {found['event']}, {seen.kind} of {seen.of(found['row'])}, "
            f"as its tokens {first} to {first + PAGE - 1}; last writer: {last}"
        )

    def report(self) -> dict[str, Any]:
        """``{"mode", "checks", "violations", "first"}``; ``first`` names the first violation, or is None.

        Waits for the device. Raises :class:`CanaryViolation` as :meth:`begin`.
        """
        self._read(wait=True)
        counts = {key: self._host[key] for key in _FIELDS[:2]}
        return {"mode": self.mode, **counts, "first": self._first}


def _all(complete: torch.Tensor, longest: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Every complete page of every row, as (rows, positions, inside) over a grid."""
    width = longest // PAGE
    positions = torch.arange(width, device=complete.device).repeat(complete.shape[0])
    rows = torch.arange(complete.shape[0], device=complete.device)[:, None].expand(-1, width).reshape(-1)
    return rows, positions, positions < complete[rows]
