"""Scripts for SGLang's scripted runtime (in 0.5.23's wheel): run in the scheduler, a step of it a ``yield``.

Each brings a request to an exact place, disturbs it there, and lets others follow on what it left behind.
That summaries stay right is watched by the canary and the oracle; the scripts say when things happen.
"""

from sglang.test.scripted_runtime_chunked_helpers import (
    LIFECYCLE_STAGES,
    advance_to_decode_step,
    advance_to_lifecycle_stage,
    run_until_all_finished,
    run_until_finished,
)

CHUNK = 256


def _start(t, length, token, new):
    return t.start_req(
        prompt_len=length, max_new_tokens=new, prompt_token=token, ignore_eos=True, temperature=0
    )


def _disturb(t, handle, how):
    if how == "abort":
        t.abort(handle)
        for _ in range(3):
            yield
    elif how:
        t.pause_generation(mode=how)
        for _ in range(2):
            yield
        t.continue_generation()


def at_each_stage(t, how):
    """Two requests; one is disturbed at a stage, then a third follows on the prefix that it left."""
    length, new = 2 * CHUNK + 63, 9
    for number, stage in enumerate(LIFECYCLE_STAGES):
        token = 10 + number
        beside, first = _start(t, 130, 90 + number, 12), _start(t, length, token, new)
        yield from advance_to_lifecycle_stage(first, stage, num_middle_chunks=2, max_new_tokens=new)
        yield from _disturb(t, first, how)
        again = _start(t, length + number, token, 3)
        yield from run_until_all_finished([beside, first, again])


def around_page_ends(t, how):
    """Decode is disturbed in the step before a page is full, in the one that fills it, and in the next."""
    for number, step in enumerate((2, 3, 4, 5)):
        first = _start(t, 5 * 64 - 3, 30 + number, 8)  # the third output token is the page's last
        yield from advance_to_decode_step(first, step)
        yield from _disturb(t, first, how)
        again = _start(t, 6 * 64 + 1, 30 + number, 2)
        yield from run_until_all_finished([first, again])


def pages_change_hands(t):
    """A pool with a few pages left: requests wait for those that others free, then one takes them all."""
    t.exhaust_kv(leave_pages=16)
    handles = [_start(t, 3 * 64 - 2 + n, 50 + n, 14) for n in range(5)]
    yield from run_until_all_finished(handles)
    t._release_exhausted_pools()
    t.flush_cache()
    yield
    yield from run_until_finished(_start(t, 700, 60, 5))
