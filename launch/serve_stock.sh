#!/usr/bin/env bash
# The same server without HISA: serve_stock.sh MODEL [SGLang flags...]
set -euo pipefail
exec "${PYTHON:-python3}" -m sglang_hisa.cli serve --stock "$@"
