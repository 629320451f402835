"""Without a GPU, Triton kernels run in Triton's CPU interpreter; it must be chosen before any is defined."""

import os
import signal

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

# A shell's background job ignores SIGINT, and so would all its children, among them those that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
