"""SGLang's deterministic inference: a row's choice must not depend on what happens to be beside it.

docs/design.md, "What a choice depends on", lists the dependences that this switches off.
"""

from __future__ import annotations

import logging
from dataclasses import replace

import torch

from sglang_hisa.config import alone
from sglang_hisa.kernels import tuning
from sglang_hisa.patches.runtime import Runtime

logger = logging.getLogger(__name__)


def settle(state: Runtime) -> None:
    """Serve so that company changes no choice: rows of prefill choose alone (and by all heads), every decode
    step runs HISA (not stock DSA where the whole batch has too little to prune), and one kernel serves any
    number of rows."""
    state.deterministic = True
    state.config = replace(alone(state.config), stock_decode_graphs=False)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tuning.use(replace(tuning.for_device(device), rank_pairs=0, refine_rows=0))
    logger.info("sglang-hisa: deterministic inference: prefill rows choose alone, no stock decode graphs")
