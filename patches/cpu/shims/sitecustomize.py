"""Python imports this module first. A server's start on a CPU is mostly imports, and looking for garbage
among what they bring takes a fifth of their time."""

import gc

gc.set_threshold(50_000, 50, 50)
