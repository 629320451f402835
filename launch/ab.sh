#!/usr/bin/env bash
# Is HISA faster here? Stock and HISA one after the other on the same GPUs: ab.sh MODEL [SGLang flags...]
# Arms, prompt lengths and everything else are options of `hisa ab`; ab.sh --help lists them with examples.
# Exit code: 0 measured, 1 a server failed, 2 not comparable (no verdict), 130 interrupted (what there is, is kept).
set -euo pipefail
exec "${PYTHON:-python3}" -m sglang_hisa.cli ab "$@"
