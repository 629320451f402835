"""Made-up weights: index scores must differ, or a top-k takes twice its time and an A/B misleads."""

import os
import subprocess
import sys

import pytest
import torch

from sglang_hisa.config import ENV, ENV_DUMMY
from sglang_hisa.kernels.reference import mqa_scores
from sglang_hisa.launch.common import made_up
from sglang_hisa.launch.common.server import cpu_env

HIDDEN, RANK, HEADS, DIM, TOKENS = 1024, 256, 64, 128, 2048

SERVER = """
import torch
from sglang.srt.plugins import load_plugins
from sglang.srt.layers.layernorm import LayerNorm, RMSNorm
load_plugins()
from sglang.srt.model_loader import loader
norms = {"rms": RMSNorm(8), "layer": LayerNorm(8), "torch": torch.nn.LayerNorm(8)}
model = torch.nn.ModuleDict({**norms, "linear": torch.nn.Linear(64, 64)})
loader.initialize_dummy_weights(model)
made = {name: value for name, value in model.state_dict().items() if not name.startswith("linear")}
print("norms", all((value == name.endswith("weight")).all() for name, value in made.items()))
linear = model["linear"].weight
print("linear", float(linear.abs().max()) <= 1e-3 and linear.std().item() > 1e-4)
"""


@pytest.mark.parametrize("hisa", [None, "paper"])
@pytest.mark.parametrize("spread", [False, True])
def test_norms_are_one_with_stock_and_with_hisa(hisa, spread):
    """As a server does it: SGLang loads its plugins and then makes up the weights."""
    env = {key: value for key, value in os.environ.items() if key not in (ENV, ENV_DUMMY)}
    env = made_up.spread_env(cpu_env(env, hisa), ["--load-format", "dummy"] if spread else [])
    done = subprocess.run([sys.executable, "-c", SERVER], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()[-2:]
    assert said == [f"norms {spread}", "linear True"], done.stdout + done.stderr


def crowded(norms):
    """Share of a row's index scores in the bin of its 512th best, where a bin is 12 bits of a float: what the
    first pass of a radix top-k leaves to the next."""
    made = torch.Generator().manual_seed(1)

    def weights(*shape):
        return (torch.rand(*shape, generator=made) * 2 - 1) * 1e-3

    def norm(x, size, layer=False):
        scale, bias = (torch.ones(size), torch.zeros(size)) if norms else (weights(size), weights(size))
        if layer:
            return torch.nn.functional.layer_norm(x, (size,), scale, bias, 1e-6)
        return torch.nn.functional.rms_norm(x, (size,), scale, 1e-6)

    x = norm(torch.randn(TOKENS, HIDDEN, generator=made), HIDDEN)
    keys = norm(x @ weights(HIDDEN, DIM), DIM, layer=True)
    q = norm(x[-1:] @ weights(HIDDEN, RANK), RANK) @ weights(RANK, HEADS * DIM)
    scores = mqa_scores(q.view(HEADS, DIM), x[-1] @ weights(HIDDEN, HEADS), keys)
    bins = scores.view(torch.int32) >> 20
    return float((bins == bins[scores.argsort(descending=True)[511]]).float().mean())


def test_scores_of_norms_of_one_are_spread():
    assert crowded(norms=False) > 0.1, "what SGLang makes up"
    assert crowded(norms=True) < 0.05


def test_only_made_up_weights_are_spread_and_the_user_decides():
    for flags in (["--load-format", "dummy"], ["--tp", "2", "--load-format=dummy"]):
        assert made_up.spread_env({"A": "1"}, flags) == {"A": "1", ENV_DUMMY: "spread"}
        plain = made_up.spread_env({ENV_DUMMY: "plain"}, flags)
        assert plain == {ENV_DUMMY: "plain"} and not made_up.spread(plain, flags)
    assert made_up.spread_env({}, ["--load-format", "auto"]) == {}
    assert not made_up.spread({ENV_DUMMY: "spread"}, ["--load-format", "auto"])
