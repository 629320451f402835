#!/usr/bin/env bash
# Train the model that retrieves on one GPU, then ask stock DSA and HISA the same questions, within one call.
#
#   launch/research/train_h100.sh --out DIR [--minutes N] [--recipe-minutes N] [--resume] [--eval-seconds S] [--samples N]
#
# --minutes: training in this call (5); --recipe-minutes: of the whole recipe (as --minutes); --eval-seconds:
# most time for servers and questions (0: none). DIR/model and DIR/eval hold the results, whole at any moment.
set -euo pipefail
out="" minutes=5 recipe="" resume="" seconds=240 samples=6
while (($#)); do
  case $1 in
    --out) out=$2; shift ;;
    --minutes) minutes=$2; shift ;;
    --recipe-minutes) recipe=$2; shift ;;
    --resume) resume=--resume ;;
    --eval-seconds) seconds=$2; shift ;;
    --samples) samples=$2; shift ;;
    *) sed -n '2,7p' "$0" >&2; exit 2 ;;
  esac
  shift
done
[ -n "$out" ] || { echo "train_h100.sh: --out DIR is missing" >&2; exit 2; }
hisa=("${PYTHON:-python3}" -m sglang_hisa.launch.cli)

"${PYTHON:-python3}" -m sglang_hisa.launch.research.train "$out/model" --minutes "$minutes" --recipe-minutes "${recipe:-$minutes}" $resume
((seconds)) || exit 0

# FlashMLA everywhere, so that the arms differ in the indexer alone; the model is small, so all servers fit.
export SGLANG_DSA_PREFILL_DENSE_ATTN_KV_LEN_THRESHOLD=0
timeout --signal=INT "$seconds" "${hisa[@]}" eval "$out/model" --together --out "$out/eval" \
  --arms "${ARMS:-stock,paper,balanced,paper-4to1,tight=paper:block=64:prefill_tokens=2048:decode_tokens=2048}" \
  --contexts "${CONTEXTS:-2k,8k,16k,32k}" --samples "$samples" --at-once 8 \
  --dsa-prefill-backend flashmla_sparse --dsa-decode-backend flashmla_sparse --grammar-backend none \
  --kv-cache-dtype bfloat16 --mem-fraction-static 0.5 --max-total-tokens 400000 --chunked-prefill-size 8192 \
  --max-running-requests 8 --cuda-graph-max-bs-decode 8 --skip-server-warmup
