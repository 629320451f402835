"""Which page summaries differ from their rebuild: used by tests and, inside servers, by the oracle."""

import torch

from sglang_hisa.kernels import reference
from sglang_hisa.summaries import PageSummaries


def stale_pages(summaries: PageSummaries, layer_id: int, pages: torch.Tensor) -> torch.Tensor:
    """Those of ``pages`` (int ``[n]``) with a summary bit unlike plain PyTorch's rebuild: int64 ``[m]``."""
    layer, pages = summaries.layer(layer_id), pages.long()
    keys, scales = torch.zeros_like(layer.keys), torch.zeros_like(layer.scales)
    reference.seal_pages(layer.index_k, pages, keys, scales)
    unlike = (keys.view(torch.uint8) != layer.keys.view(torch.uint8)).any(dim=1)
    unlike |= scales.view(torch.int32) != layer.scales.view(torch.int32)
    return pages[unlike[pages]]
