"""Random histories of SGLang's cache: what the scheduler does to allocator, radix tree and DSA pool.

Requests are modelled here (their class differs between SGLang's versions) as ``cache_unfinished_req``,
``checkpoint`` and ``release_kv_cache`` treat them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from sglang_hisa import PAGE
from sglang_hisa.config import from_mapping
from sglang_hisa.patches import pool as pool_hooks
from tests.history import candidates, truth
from tests.history.forward import Batch, Forwards
from tests.history.host_tier import HostTier, slots_of
from tests.history.sglang_cache import LAYERS, Tree, free_pages, make_allocator, make_pool

PAGES, LONGEST, MOST = 17, 640, 6
HOST_ROOM, HOST_PAGES = 3, LONGEST // PAGE + 1
"""HiCache's host copies: so many prefixes of at most so many pages."""
WEIGHTS = {
    "admit": 4,
    "admit_retracted": 4,
    "prefill": 6,
    "decode": 6,
    "verify_drafts": 2,
    "finish": 2,
    "abort": 1,
    "offload": 1,
    "load": 1,
    "back_up": 2,
    "load_back": 2,
    "evict": 1,
    "flush": 1,
}
STEPS = [name for name, weight in WEIGHTS.items() for _ in range(weight)]


@dataclass(eq=False)
class Request:
    tokens: list[int]
    slots: torch.Tensor
    """int64: slots of the tokens whose keys are stored."""
    lock: Any
    protected: int
    """Tokens whose pages belong to the tree."""

    @property
    def ready(self) -> bool:
        """Whether its prompt is prefilled."""
        return len(self.slots) >= len(self.tokens)


@dataclass(eq=False)
class Offloaded:
    tokens: list[int]
    stored: int
    copy: Any = field(repr=False)


def sequence(family: int, length: int) -> list[int]:
    """Tokens of a prompt: families share all but what follows their own multiple of 50."""
    split = 50 * family
    return [(i if i < split else i + 131 * family) % truth.VOCABULARY for i in range(length)]


def history_settings(histories: int, length: int, **more: Any) -> settings:
    """Hypothesis' settings of a run of ``histories`` of ``length`` steps each."""
    return settings(
        max_examples=histories,
        stateful_step_count=length,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
        **more,
    )


class History(RuleBasedStateMachine):
    """Admission, prefill, decode, drafts, finish, abort, retraction, offload, eviction, flush: one pool."""

    histories: ClassVar[int] = 0
    checks: ClassVar[int] = 0
    seen: ClassVar[Counter[str]] = Counter()
    """What happened in all histories so far: a test that saw none of it would prove nothing about it."""

    def __init__(self) -> None:
        super().__init__()
        self.kv = make_pool(PAGES)
        self.summaries = self.kv._hisa_summaries
        self.allocator = make_allocator(PAGES, self.kv)
        self.tree = Tree(self.allocator)
        self.ledger = truth.Ledger(PAGES)
        self.forwards = Forwards(self.kv, self.ledger)
        self.requests: list[Request] = []
        self.waiting: list[list[int]] = []
        self.offloaded: list[Offloaded] = []
        self.host = HostTier(self.kv, HOST_ROOM * HOST_PAGES)
        self.backed_up: dict[int, list[int]] = {}
        self.checked = 0
        History.histories += 1

    @initialize(
        block=st.sampled_from((64, 128)),
        sink=st.sampled_from((0, 64, 130)),
        local=st.sampled_from((0, 65, 150)),
        speculative=st.booleans(),
    )
    def configure(self, block: int, sink: int, local: int, speculative: bool) -> None:
        """``speculative``: decode rows are those of drafts, which seal after their store."""
        budget = {"decode_tokens": 192, "decode_fraction": 0.0}
        self.config = from_mapping({"block": block, "sink_tokens": sink, "local_tokens": local, **budget})
        self.speculative = speculative

    def teardown(self) -> None:
        self.forwards.stop()

    def forward(self, batch: Batch, slots: torch.Tensor, tokens: list[int]) -> None:
        self.seen[f"{batch.kind} {'left to stock' if self.stock else 'with HISA'}"] += 1
        self.forwards.run(batch, slots, tokens, self.config, self.stock)

    # What the scheduler does.

    def make_room(self, pages: int) -> bool:
        lacking = pages * PAGE - self.allocator.available_size()
        if lacking > 0:
            self.seen["page evicted for another"] += 1
            self.tree.evict(lacking)
        return bool(self.allocator.available_size() >= pages * PAGE)

    def extend(self, request: Request, stop: int) -> torch.Tensor | None:
        """Slots for the tokens up to ``stop``, or None where the pool is full."""
        start = len(request.slots)
        if not self.make_room(-(-stop // PAGE) - -(-start // PAGE)):
            return None
        last = request.slots[-1:] if start else torch.tensor([-1])
        first, end = torch.tensor([start]), torch.tensor([stop])
        slots: torch.Tensor = self.allocator.alloc_extend(first, first, end, end, last, stop - start)
        return slots

    def leave(self, request: Request, insert: bool) -> None:
        self.requests.remove(request)
        complete = len(request.slots) // PAGE * PAGE if insert else request.protected
        if insert and complete:
            self.tree.insert(request.tokens[:complete], request.slots, request.protected)
        self.allocator.free(request.slots[complete:])
        self.tree.unlock(request.lock)

    def retract(self, request: Request) -> None:
        """Give up its pages; the prompt and what was generated wait to be prefilled again."""
        self.seen["retraction"] += 1
        self.leave(request, insert=False)
        self.waiting.append(request.tokens)

    def some(self, index: int, ready: bool) -> Request | None:
        those = [request for request in self.requests if request.ready == ready]
        return those[index % len(those)] if those else None

    def admit_tokens(self, tokens: list[int]) -> None:
        slots, lock = self.tree.match(tokens[:-1])  # the last token is always computed
        assert self.ledger.tokens[slots].tolist() == tokens[: len(slots)], "a prefix hit on other tokens"
        self.seen["prefix hit"] += bool(len(slots))
        self.requests.append(Request(tokens, slots, lock, len(slots)))

    # The steps. Each returns whether it could be taken.

    @rule(
        step=st.sampled_from(STEPS),
        index=st.integers(0, 5),
        amount=st.integers(0, 419),
        token=st.integers(0, truth.VOCABULARY - 1),
        stock=st.booleans(),
    )
    def act(self, step: str, index: int, amount: int, token: int, stock: bool) -> None:
        """One rule for all, since Hypothesis leaves out some rules of each history: few would get far.

        ``stock``: a forward of this step is left to stock DSA.
        """
        self.stock = stock
        for name in (step, "prefill", "decode", "admit"):
            if getattr(self, name)(index, amount, token):
                self.seen[name] += 1
                return

    def admit(self, index: int, amount: int, token: int) -> bool:
        if len(self.requests) >= MOST:
            return False
        family = (index + token) % 7
        self.admit_tokens(sequence(family, 1 + amount))
        return True

    def admit_retracted(self, index: int, amount: int, token: int) -> bool:
        if not self.waiting or len(self.requests) >= MOST:
            return False
        self.admit_tokens(self.waiting.pop())
        return True

    def prefill(self, index: int, amount: int, token: int) -> bool:
        """One chunk of a prompt; what it completed is given to the tree, as SGLang does after each chunk."""
        request = self.some(index, ready=False)
        if request is None:
            return False
        start = len(request.slots)
        stop = min(start + 1 + amount % 230, len(request.tokens))
        slots = self.extend(request, stop)
        if slots is None:
            self.retract(request)
            return True
        self.seen["chunk that starts inside a page"] += start % PAGE > 0
        request.slots = torch.cat((request.slots, slots))
        self.forward(Batch("extend", [request.slots], stop - start), slots, request.tokens[start:stop])
        if stop < PAGE:
            return True
        self.tree.insert(request.tokens[:stop], request.slots, request.protected)
        shared, lock = self.tree.match(request.tokens[:stop])
        assert len(shared) == stop // PAGE * PAGE
        request.slots = torch.cat((shared, request.slots[len(shared) :]))
        request.protected = len(shared)
        self.tree.unlock(request.lock)
        request.lock = lock
        return True

    def decode(self, index: int, amount: int, token: int) -> bool:
        """Some decode steps of all requests that are prefilled."""
        if self.some(0, ready=True) is None:
            return False
        for number in range((1, 1, 2, 7, 20)[amount % 5]):
            self.decode_once(token + number)
        return True

    def decode_once(self, token: int) -> None:
        for request in [request for request in self.requests if len(request.tokens) >= LONGEST]:
            self.leave(request, insert=True)
        running = [request for request in self.requests if request.ready]
        while running and not self.make_room(sum(len(r.slots) % PAGE == 0 for r in running)):
            self.retract(running.pop())
        if not running:
            return
        lengths = torch.tensor([len(request.slots) + 1 for request in running])
        last = torch.cat([request.slots[-1:] for request in running])
        slots = self.allocator.alloc_decode(lengths, lengths, last)
        made = [(token * (row + 1)) % truth.VOCABULARY for row in range(len(running))]
        for row, request in enumerate(running):
            request.tokens.append(made[row])
            request.slots = torch.cat((request.slots, slots[row : row + 1]))
        batch = Batch("decode", [request.slots for request in running], 1, self.speculative)
        # A graph's padded rows store to slot 0.
        self.forward(batch, torch.cat((slots, torch.zeros(2, dtype=torch.int64))), [*made, 1, 2])
        sealer = "store" if self.speculative else "rows" if self.stock else "coarse"
        self.seen[f"page completed by decode, {sealer}"] += int((lengths % PAGE == 0).sum())

    def verify_drafts(self, index: int, amount: int, token: int) -> bool:
        """Draft tokens are stored and sealed; those that are rejected leave their slots and pages again."""
        request = self.some(index, ready=True)
        if request is None:
            return False
        drafts = [(token + 7 * i) % truth.VOCABULARY for i in range(1 + amount % 9)]
        kept = drafts[: amount // 9 % (len(drafts) + 1)]
        start = len(request.slots)
        slots = self.extend(request, start + len(drafts))
        if slots is None:
            return False
        whole = torch.cat((request.slots, slots))
        self.forward(Batch("verify", [whole], len(drafts)), slots, drafts)
        request.tokens += kept
        request.slots = torch.cat((request.slots, slots[: len(kept)]))
        aligned = -(-len(request.slots) // PAGE) * PAGE
        self.seen["page of rejected drafts given back"] += aligned < start + len(drafts)
        self.allocator.free(slots[max(0, aligned - start) :])
        return True

    def finish(self, index: int, amount: int, token: int) -> bool:
        return self.end(index, insert=True)

    def abort(self, index: int, amount: int, token: int) -> bool:
        """At any time, also in the middle of a prefill; leaves nothing behind."""
        return self.end(index, insert=False)

    def end(self, index: int, insert: bool) -> bool:
        if not self.requests:
            return False
        request = self.requests[index % len(self.requests)]
        self.seen["abort in a prefill"] += not insert and not request.ready and len(request.slots) > 0
        self.allocator.free_group_begin()
        self.leave(request, insert)
        self.allocator.free_group_end()
        return True

    def offload(self, index: int, amount: int, token: int) -> bool:
        """Retraction that keeps the pages' bytes on the host."""
        request = self.some(index, ready=True)
        if request is None:
            return False
        copy = self.kv.get_cpu_copy(request.slots)
        self.leave(request, insert=False)
        self.offloaded.append(Offloaded(request.tokens, len(request.slots), copy))
        return True

    def load(self, index: int, amount: int, token: int) -> bool:
        if not self.offloaded or len(self.requests) >= MOST:
            return False
        kept = self.offloaded[-1]
        none, lock = self.tree.match([])
        request = Request(kept.tokens, none.long(), lock, 0)
        slots = self.extend(request, kept.stored)
        if slots is None:
            self.tree.unlock(lock)
            return False
        self.offloaded.pop()
        self.kv.load_cpu_copy(kept.copy, slots)
        pool_hooks.after_load_cpu_copy(None, self.kv, kept.copy, slots)
        self.ledger.write(slots, torch.tensor(kept.tokens[: kept.stored]))
        request.slots = slots
        self.requests.append(request)
        return True

    def host_slots(self, room: int, pages: range) -> torch.Tensor:
        return slots_of([room * HOST_PAGES + page for page in pages])

    def back_up(self, index: int, amount: int, token: int) -> bool:
        """HiCache copies a prefix of whole pages to the host; the device keeps it until it is evicted."""
        request = self.some(index, ready=True)
        if request is None or len(request.slots) < PAGE:
            return False
        complete = len(request.slots) // PAGE * PAGE
        room = amount % HOST_ROOM
        self.host.save(self.host_slots(room, range(complete // PAGE)), request.slots[:complete])
        self.backed_up[room] = request.tokens[:complete]
        return True

    def load_back(self, index: int, amount: int, token: int) -> bool:
        """The pages of such a prefix that the tree no longer has come back into others, and into the tree."""
        room = amount % HOST_ROOM
        tokens = self.backed_up.get(room, [])
        shared, lock = self.tree.match(tokens)
        missing = len(tokens) - len(shared)
        found = missing > 0 and self.make_room(missing // PAGE)
        if found:
            pages = range(len(shared) // PAGE, len(tokens) // PAGE)
            slots = self.allocator.alloc(missing)
            self.host.load(self.host_slots(room, pages), slots)
            self.ledger.write(slots, torch.tensor(tokens[len(shared) :]))
            self.tree.insert(tokens, torch.cat((shared, slots)), len(shared))
        self.tree.unlock(lock)
        return found

    def evict(self, index: int, amount: int, token: int) -> bool:
        self.tree.evict((1 + amount % 8) * PAGE)
        return True

    def flush(self, index: int, amount: int, token: int) -> bool:
        """SGLang flushes an idle server only."""
        for request in list(self.requests):
            self.leave(request, insert=True)
        self.tree.reset()
        self.allocator.clear()
        return True

    # What must hold after every step.

    @invariant()
    def pages_are_owned_or_free(self) -> None:
        """Checks this driver: a page that it leaked or freed twice would make the histories unreal."""
        History.checks += 1
        self.checked += 1
        free = free_pages(self.allocator)
        assert len(set(free)) == len(free)
        own = [int(s) // PAGE for r in self.requests for s in r.slots[r.protected :: PAGE]]
        assert len(free) + len(own) + self.tree.tokens // PAGE == PAGES
        assert not set(free) & set(own) and len(set(own)) == len(own)
        for request in self.requests:
            stored = len(request.slots)
            assert self.ledger.tokens[request.slots].tolist() == request.tokens[:stored], "overwritten"

    @invariant()
    def every_summary_is_that_of_its_tokens(self) -> None:
        """Complete pages in use: those of the tree, and the requests' but for their partial last ones."""
        partial = {int(r.slots[-1]) // PAGE for r in self.requests if len(r.slots) % PAGE}
        pages = sorted(set(range(1, PAGES + 1)) - set(free_pages(self.allocator)) - partial)
        self.ledger.summaries_are_those_of_their_tokens(dict(enumerate(self.summaries.layers)), pages)
        layer = self.checked % LAYERS
        assert not self.summaries.differs(layer, torch.tensor(pages)).any(), "unlike its rebuild"

    @invariant()
    def candidates_are_those_of_the_row(self) -> None:
        ready = [request.slots for request in self.requests if request.ready]
        if ready:
            self.seen["pruned row"] += candidates.check(
                ready, self.summaries.layers[self.checked % LAYERS], self.config
            )
