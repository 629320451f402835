"""``python -m sglang_hisa.launch.cli``: the ``hisa`` command of this very Python."""

import sys

from sglang_hisa.launch.cli import main

sys.exit(main())
