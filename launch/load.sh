#!/usr/bin/env bash
# How much load does a running server take? load.sh [URL] [options of `hisa load`]; load.sh --help lists them.
# Start the server first, e.g. serve_hisa.sh MODEL --tp 8, in another terminal.
# Without arguments: the server on port 30000, 1 to 8 requests at once, good where the first token comes within 2 s.
# Exit code: 0 measured, 1 no server or a dead one, 2 wrong usage, 130 interrupted (finished loads are kept).
set -euo pipefail
[ $# -gt 0 ] || set -- http://127.0.0.1:30000 --concurrency 1,2,4,8 --slo ttft=2
exec "${PYTHON:-python3}" -m sglang_hisa.cli load "$@"
