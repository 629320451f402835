"""SGLang plugin of the tests: the sender's page numbers without pinned memory, which needs a GPU."""


def register():
    from sglang.srt.disaggregation.mooncake.conn import MooncakeKVSender

    MooncakeKVSender.supports_host_tensor_indices = False
