#!/usr/bin/env bash
# SGLang with HISA: serve_hisa.sh MODEL [SGLang flags...]
# Settings: SGLANG_HISA, a preset name or JSON (`hisa presets`); the preset "balanced" where it is unset.
set -euo pipefail
exec "${PYTHON:-python3}" -m sglang_hisa.cli serve "$@"
