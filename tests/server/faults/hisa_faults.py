"""SGLang plugin of the tests: once 5 pages of layer 1 were sealed, that layer forgets its seals."""

PAGE, HONEST = 64, 5


def register():
    from sglang_hisa.summaries import PageSummaries

    honest = PageSummaries.seal_tokens
    sealed = []

    def seal_tokens(self, layer_id, slots):
        if layer_id != 1 or len(sealed) < HONEST:
            honest(self, layer_id, slots)
        if layer_id == 1:
            sealed.extend(slots[slots % PAGE == PAGE - 1].tolist())

    PageSummaries.seal_tokens = seal_tokens
