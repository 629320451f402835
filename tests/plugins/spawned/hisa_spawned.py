"""SGLang plugin of the tests: processes are spawned, as on a GPU, and each loads its plugins itself.

The CPU stand-ins fork them, which saves their imports; a process that loads plugins is a line of ``SPAWNED``.
"""

import multiprocessing
import os


def register():
    with open(os.environ["SPAWNED"], "a") as told:
        told.write(f"{os.getpid()}\n")
    start = multiprocessing.set_start_method
    multiprocessing.set_start_method = lambda method, force=False: start("spawn", force=force)
