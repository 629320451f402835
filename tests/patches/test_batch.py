"""Which rows of an extend step end their prompt, and which are decode rows, in each form of a step."""

import ast
import gc
from types import SimpleNamespace

import pytest
import torch

from sglang_hisa.config import parse
from sglang_hisa.patches import batch, contract, runtime

VERSION = contract.installed_version()
RUNNER = "srt/model_executor/runner/prefill_cuda_graph_runner.py"


class ForwardBatch(SimpleNamespace):
    """As SGLang's, a plain object that may be referred to weakly."""


def mode(name):
    return SimpleNamespace(
        is_idle=lambda: name == "idle",
        is_extend_without_speculative=lambda: name in ("extend", "mixed"),
    )


def req(rid, prompt, output=()):
    return SimpleNamespace(rid=rid, origin_input_ids=[0] * prompt, output_ids=list(output))


@pytest.fixture
def step(monkeypatch):
    """Build a step as SGLang does, and tell the hook: its ``ForwardBatch``."""
    monkeypatch.setattr(batch, "_newest", None)
    runtime.start(runtime.Runtime(parse("balanced"), VERSION, 1))

    def build(reqs, lengths, contexts, kind="extend", decoding=None, chunked=None):
        forward = ForwardBatch(
            forward_mode=mode(kind),
            _original_forward_mode=None,
            extend_seq_lens_cpu=lengths,
            seq_lens_cpu=torch.tensor(contexts),
            req_pool_indices=torch.arange(len(reqs)),
            rids=[r.rid for r in reqs],
        )
        given = SimpleNamespace(reqs=reqs, chunked_req=chunked, decoding_reqs=decoding)
        batch.after_init_new(forward, None, given, None)
        return forward

    return build


def copied_fields():
    """Fields that the prefill graph's batch takes from the step as they are, read from SGLang's source."""
    tree = ast.parse((contract.installed_root() / RUNNER).read_text())
    (load,) = (node for node in ast.walk(tree) if getattr(node, "name", "") == "load_batch")
    (made,) = (
        node
        for node in ast.walk(load)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "ForwardBatch"
    )
    return {given.arg for given in made.keywords if ast.unparse(given.value) == f"forward_batch.{given.arg}"}


def in_a_prefill_graph(forward):
    fields = copied_fields()
    assert not fields & {"rids", "_original_forward_mode"}, "then this test shows nothing"
    static = {field: getattr(forward, field) for field in fields if hasattr(forward, field)}
    return SimpleNamespace(forward_mode=mode("extend"), **static)


def as_it_is(forward):
    return forward


@pytest.mark.parametrize("form", [as_it_is, in_a_prefill_graph])
def test_chunks_ends_and_decode_rows_of_a_step(step, form):
    middle, last, back = req("a", 5000), req("b", 7), req("d", 90, [5, 6])
    first, second = req("c", 30), req("e", 30, [5])  # with overlap the first token is not known yet
    reqs, contexts = [last, middle, first, second, back], [7, 1024, 31, 32, 92]
    forward = step(reqs, [7, 1024, 1, 1, 92], contexts, "mixed", decoding=[first, second], chunked=middle)
    expected = [7, 5000, None, None, 92]
    assert batch.prompts(form(forward), contexts) == expected, "a retracted request's answer is in its prompt"


@pytest.mark.parametrize("form", [as_it_is, in_a_prefill_graph])
def test_one_new_token_is_no_decode_row(step, form):
    """A request that comes back after a retraction, or a session's next turn: the rest is cached."""
    resumed, chunk = req("f", 90, [5, 6]), req("g", 900)
    forward = step([resumed, chunk], [1, 1], [92, 400], chunked=chunk)
    assert batch.prompts(form(forward), [92, 400]) == [92, 900]


@pytest.mark.parametrize("form", [as_it_is, in_a_prefill_graph])
@pytest.mark.parametrize("original", ["decode", "verify"])
def test_a_step_relabelled_for_a_peers_prefill_keeps_the_decode_budget(step, form, original):
    """0.5.17 and 0.5.23: ``prepare_mlp_sync_batch``, after the batch was built."""
    forward = step([req("a", 40, [1]), req("b", 50, [1])], None, [41, 51], original)
    forward._original_forward_mode, forward.forward_mode = forward.forward_mode, mode("extend")
    forward.extend_seq_lens_cpu = [1, 1]
    assert batch.prompts(form(forward), [41, 51]) == [None, None]


def test_a_decode_step_that_the_scheduler_converted_keeps_the_decode_budget(step):
    """0.5.23: ``convert_decode_to_extend``, before the batch is built."""
    reqs = [req("a", 40, [1]), req("b", 50)]
    forward = step(reqs, [1, 1], [41, 51], decoding=reqs)
    assert batch.prompts(in_a_prefill_graph(forward), [41, 51]) == [None, None]


@pytest.mark.parametrize("form", [as_it_is, in_a_prefill_graph])
def test_rows_of_no_request(step, form):
    idle = step([], None, [], "idle")
    idle._original_forward_mode, idle.forward_mode = idle.forward_mode, mode("extend")
    idle.extend_seq_lens_cpu, idle.seq_lens_cpu = [64], torch.tensor([64])
    assert batch.prompts(form(idle), [64]) is None, "the dummy request of an idle rank"
    capture = SimpleNamespace(
        extend_seq_lens_cpu=[64], seq_lens_cpu=torch.tensor([64]), req_pool_indices=None
    )
    assert batch.prompts(capture, [64]) is None, "the dummy batch of a capture"


def test_only_the_newest_step_is_known(step):
    old = step([req("a", 700)], [256], [256])
    new = step([req("b", 41)], [40], [40])
    assert batch.prompts(old, [256]) is None and batch.prompts(new, [40]) == [41]
    del new
    gc.collect()
    assert batch.prompts(old, [256]) is None


def test_rows_that_0_5_23_pads_an_extend_with_have_no_prompt_of_their_own(step):
    """``_pad_inputs_to_size``: requests of no tokens, after the real ones."""
    forward = step([req("a", 700)], [256], [256])
    assert batch.prompts(forward, [256, 1]) == [700, 1]


def test_metrics_are_told_of_every_forward(step):
    told = []
    runtime.current().on_forward = lambda: told.append("forward")
    step([req("a", 700)], [256], [256])
    step([req("a", 700, [1])], None, [701], "decode")
    assert len(told) == 2
