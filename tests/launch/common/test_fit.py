"""Layers that fit some GPUs, beside what is published of DeepSeek's models and what SGLang reserves."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import astuple
from pathlib import Path
from typing import Any

import pytest

from sglang_hisa.launch.common import fit, models
from sglang_hisa.launch.common.server import cpu_env

V32 = models.SLICES["v32"][1]
H100, H200 = 81559, 143771
"""MiB, as nvidia-smi says."""
SGLANGS_OWN = """
import json, sys
from types import SimpleNamespace
from sglang.srt.arg_groups import memory_hook
from sglang.srt.model_executor.cuda_graph_config import Backend, CudaGraphConfig
from sglang.srt.server_args import ServerArgs

def fraction(ranks, dp, mib):
    args = ServerArgs(model_path="m", tp_size=ranks, attn_dp_size=dp, device="cuda")
    args.cuda_graph_config = CudaGraphConfig()
    args.cuda_graph_config.prefill.backend = Backend.BREAKABLE
    memory_hook.get_device_memory_capacity = lambda device: mib
    found = {}
    def declare(args, where, **given):
        found.update(given)
        told(args, where, **given)
    memory_hook.declare_resolution = declare
    memory_hook.handle_gpu_memory_settings(args)
    return found["mem_fraction_static"]

told = memory_hook.declare_resolution
memory_hook.use_mla_backend = lambda args: True
memory_hook.post_capture_kv_sizing_planned = lambda args: False
memory_hook.model_config_of = lambda args: SimpleNamespace(is_multimodal=False)
print(json.dumps([fraction(*one) for one in json.loads(sys.argv[1])]))
"""
POOL = 4 * (128 * 1024 + 256)


def every(weights: fit.Weights) -> int:
    """Parameters, wherever they are."""
    return sum(astuple(weights))


def parameters(config: Mapping[str, Any], layers: int) -> int:
    """Of a model of so many layers, without draft layers."""
    dense = min(layers, config["first_k_dense_replace"])
    ends = 2 * config["vocab_size"] * config["hidden_size"] + config["hidden_size"]
    of_dense, of_sparse = (every(fit.layer(config, sparse)) for sparse in (False, True))
    return int(ends + dense * of_dense + (layers - dense) * of_sparse)


def test_parameters_are_those_that_deepseek_publishes() -> None:
    """671 billion of DeepSeek-V3 and 11.5 of its draft layer (arXiv 2412.19437), and the indexers of V3.2."""
    indexer = 1536 * 64 * 128 + 7168 * 128 + 7168 * 64 + 2 * 128
    assert round((parameters(V32, 61) - 61 * indexer) / 1e9, 1) == 671.0
    assert round((every(fit.draft(V32)) - indexer) / 1e9, 1) == 11.6


@pytest.mark.parametrize("layers", [1, 3])
def test_parameters_are_those_of_a_model_that_is_there(tmp_path: Path, layers: int) -> None:
    from safetensors import safe_open

    def written(folder: Path) -> int:
        with safe_open(folder / "model.safetensors", "pt") as file:
            return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118

    plain = written(models.make_tiny(tmp_path / "plain", layers=layers))
    config = {**models.DEEPSEEK_V32, **models._TINY}
    assert parameters(config, layers) == plain
    drafting = written(models.make_tiny(tmp_path / "drafting", layers=layers, draft=True))
    assert every(fit.draft(config)) == drafting - plain


def test_a_rank_has_its_part_of_the_weights() -> None:
    """All of them on one; what eight have together beyond that is what each has whole."""
    one, eight = (fit.weight_bytes(V32, 61, ranks) for ranks in (1, 8))
    embeddings = 2 * V32["vocab_size"] * V32["hidden_size"]
    latent = 61 * 2 * 128 * 512 * 256
    assert one == pytest.approx(parameters(V32, 61) + embeddings + latent, rel=1e-3)
    small = 61 * (7168 * (1536 + 576) + 1536 * 64 * 128 + 7168 * 128 + 2 * 7168 * 64) + 58 * 2 * 256 * 7168
    assert 8 * eight - one == pytest.approx(7 * small, rel=1e-2)
    assert fit.weight_bytes({**V32, "quantization_config": {}}, 61, 8) == eight
    assert fit.weight_bytes(models.DEEPSEEK_V32, 61, 8) == pytest.approx(2 * eight, rel=2e-2)
    attention = 61 * 128 * (1536 * 192 + 512 * 256 + 128 * 7168)
    more = fit.weight_bytes(V32, 61, 8, dp=8) - eight
    assert more == pytest.approx(7 / 8 * (attention + 2 * embeddings + latent), rel=1e-3)


@pytest.mark.parametrize(
    ("ranks", "mib", "dp", "drafts", "layers"),
    [
        (8, H200, 1, False, 61),
        (8, H200, 1, True, 61),
        (8, H200, 8, False, 61),
        (8, H100, 1, False, 32),
        (8, H100, 8, False, 25),
        (4, H200, 1, False, 38),
        (2, H200, 2, False, 23),
        (1, H200, 1, False, 13),
        (1, H100, 1, True, 6),
    ],
)
def test_layers_that_fit(ranks: int, mib: int, dp: int, drafts: bool, layers: int) -> None:
    """The whole model fits eight H200s alone, and no layer more fits any other."""
    pool = POOL if dp == 1 else -(-4 // dp) * POOL // 4
    assert fit.layers_that_fit(V32, ranks, mib, pool, dp, drafts) == layers
    free = (fit.static_mib(mib, ranks, dp) - fit.SLACK_MIB) * fit.MIB

    def need(layers: int) -> float:
        return fit.weight_bytes(V32, layers, ranks, dp, drafts) + (layers + drafts) * pool * fit.token_bytes(
            V32
        )

    assert need(layers) <= free and (layers == 61 or need(layers + 1) > free)


def test_gpus_that_are_too_small_are_refused_in_words() -> None:
    with pytest.raises(ValueError, match="no layer fits 1 GPUs of 16,384 MiB with 525,312 tokens"):
        fit.layers_that_fit(V32, 1, 16384, POOL)


@pytest.mark.once("0.5.23")
@pytest.mark.once("0.5.23")  # whose rule it is
def test_what_sglang_keeps_free() -> None:
    """Beside its own arithmetic, in a process of its own, for GPUs that are not there."""
    asked = [(ranks, dp, mib) for ranks, dp in ((8, 1), (8, 8), (2, 1), (2, 2)) for mib in (H100, H200)]
    done = subprocess.run(
        [sys.executable, "-c", SGLANGS_OWN, json.dumps(asked)],
        env=cpu_env(os.environ, None),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-800:]
    theirs = json.loads(done.stdout.splitlines()[-1])
    ours = [fit.static_mib(mib, ranks, dp) / mib for ranks, dp, mib in asked]
    assert theirs == pytest.approx(ours, abs=1e-3)
