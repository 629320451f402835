"""``python -m sglang_hisa.cli``: the ``hisa`` command of this very Python."""

import sys

from sglang_hisa.cli import main

sys.exit(main())
