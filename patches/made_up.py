"""Made-up weights (``--load-format dummy``) whose index scores differ as those of a trained model do.

SGLang draws every weight from within ±0.001, those of the norms, too. All index keys are then nearly the bias
of their norm and the scores of a row lie within some five per cent of each other. A radix top-k finds them in
few bins and takes twice as long as with scores that differ (``launch/results/plan-h200.server-layer.txt``
beside ``kernels-h200-0.5.23.json``). Stock DSA's top-k reads every score and HISA's a part of them, so such
weights flatter HISA. With norms of one, as training leaves them about, keys and queries are those of random
projections. Attention and experts gain likewise: tokens differ.
"""

from __future__ import annotations

import logging
from typing import Any

from sglang_hisa.patches import contract, source, syntax
from sglang_hisa.patches.plugin import Reason, refuse

logger = logging.getLogger(__name__)

TARGET = "sglang.srt.model_loader.loader.initialize_dummy_weights"


def register() -> None:
    """Have SGLang call :func:`after_dummy_weights`; stops where it has no such place.

    The place is looked up in the source: modules that are imported before all hooks are set keep what they
    imported of others.
    """
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    try:
        found = syntax.locate(contract.installed_root(), TARGET)[1]
    except source.SourceError:  # SGLang would go on without this plugin
        found = None
    if found is None:
        text = f"there is no {TARGET}: made-up weights would have index scores that are nearly equal"
        refuse("this SGLang makes up weights in another way", [Reason(text, "unset SGLANG_HISA_DUMMY")])
    HookRegistry.register(TARGET, after_dummy_weights, HookType.AFTER)


def after_dummy_weights(result: None, model: Any, *args: Any, **kwargs: Any) -> None:
    """Set the weight of each norm of ``model`` to one and its bias to zero."""
    norms = [module for module in model.modules() if type(module).__name__.endswith("Norm")]
    for norm in norms:
        if (weight := getattr(norm, "weight", None)) is not None:
            weight.data.fill_(1.0)
        if (bias := getattr(norm, "bias", None)) is not None:
            bias.data.zero_()
    logger.info("sglang-hisa: the weights are made up; %d norms of them are one", len(norms))
