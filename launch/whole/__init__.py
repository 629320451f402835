"""The whole model on all GPUs of a machine: ranks, times, prefill and decode apart."""
