"""The PyTorch model that we train and stock SGLang compute the same: projections, rope, norms, indexer."""

from __future__ import annotations

import os
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sglang_hisa.launch.common.server import ServerProcess, cpu_env, cpu_flags
from sglang_hisa.launch.research.train.course import Course
from sglang_hisa.launch.research.train.export import export
from sglang_hisa.launch.research.train.model import Model
from sglang_hisa.launch.research.train.prose.course import PROSE
from sglang_hisa.launch.research.train.records import RECORDS

pytestmark = [pytest.mark.server, pytest.mark.timeout(1800), pytest.mark.once("0.5.23")]
TOPK = 64


@pytest.fixture(scope="module", params=[RECORDS, PROSE], ids=["records", "prose"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Path]:
    """Random weights of the full size; gains and biases too, which a fresh model has at 1 and 0."""
    course: Course = request.param
    torch.manual_seed(5)
    model = Model(replace(course.shape, index_topk=TOPK, copies=False))
    with torch.no_grad():
        for value in model.parameters():
            if value.dim() == 1:
                value += 0.3 * torch.randn_like(value)
    folder = export(model, tmp_path_factory.mktemp("trained"))
    course.write(folder)
    assert (folder / "model.safetensors").stat().st_size < 12e6
    return model.to(torch.bfloat16).float(), folder


def test_log_probabilities_are_sglangs(trained: tuple[Model, Path], tmp_path: Path) -> None:
    """Short prompts are dense; in longer ones each row attends to its 64 best tokens.

    The indexer of the long prompts matters: without it the same comparison is off by five times as much.
    """
    model, folder = trained
    source = random.Random(2)
    with ServerProcess(cpu_flags(folder), env=cpu_env(os.environ, None), log=tmp_path / "log") as server:
        server.wait_ready(900)
        for length, mean in ((61, 0.01), (333, 0.04), (517, 0.04)):
            prompt = [source.randrange(3, 259) for _ in range(length)]
            answer = server.generate(prompt, 1, return_logprob=True, logprob_start_len=0)
            theirs = torch.tensor([one[0] for one in answer["meta_info"]["input_token_logprobs"][1:]])
            tokens = torch.tensor([prompt])
            off = {}
            for topk in (TOPK, None):
                with torch.no_grad():
                    logs = model(tokens, topk).log_softmax(dim=-1)[0, :-1]
                ours = logs.gather(1, tokens[0, 1:, None])[:, 0]
                off[topk] = float((ours - theirs).abs().mean())
            assert off[TOPK] < mean < float(ours.std()) / 20
            if length > 2 * TOPK:
                assert off[None] > 3 * off[TOPK]
            else:
                assert int(model(tokens)[0, -1].argmax()) == answer["output_ids"][0]
