"""Without a GPU, Triton kernels run in Triton's CPU interpreter; it must be chosen before any is defined."""

import os

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
