#!/usr/bin/env bash
# The GPU records of launch/results, one step a call, each meant to end within fifteen minutes on one H100 or H200 (ab-grid takes
# 22; ab-tp2 needs two GPUs of one machine, live2 uses two if there are, gpus needs GPUS=2, 4 or 8 of them, two by default):
#
#   records_h100.sh STEP OUT
#
#   ab          v32-tp8-rank, both presets beside one stock: a prompt of 8K to 128K; this and ab-many*: call again until complete -> OUT/ab-served
#   ab-four     the same, four at once                            -> OUT/ab-served-four
#   ab-256k     the same model at 256K; on an H200 without paper, since three such servers do not fit   -> OUT/ab-served-256k
#   ab-256k-decode-only   the same, pruned decode steps alone     -> OUT/ab-v32-tp8-rank-256k-decode-only
#   ab-grid     balanced and decode-only, alone and four at once, 8K to 128K   -> OUT/ab-v32-tp8-rank-grid
#   ab-many     the same model: 1 to 128 requests that share 128K -> OUT/ab-many
#   ab-many-32k   the same with a prefix of 32K                   -> OUT/ab-many-32k
#   ab-many-256k   1 to 64 requests that share 256K               -> OUT/ab-many-256k
#   ab-many-256k-128   128 of them                                -> OUT/ab-many-256k-128
#   ab-many-decode-only   the same with 128K, pruned decode steps alone -> OUT/ab-many-decode-only
#   ab-many-distinct   four full-width layers, 64 distinct prompts of 64K   -> OUT/ab-many-distinct
#   ab-4l-paper   four full-width layers, 8K to 128K              -> OUT/ab-v32-4l-paper
#   ab-4l-balanced   the same, the other preset                   -> OUT/ab-v32-4l-balanced
#   ab-4l-decode-only   the same, pruned decode steps alone       -> OUT/ab-v32-4l-decode-only
#   ab-4l-more  the same layers, the cells that those leave out   -> OUT/ab-v32-4l-more
#   ab-4l-1m    the same layers, a million tokens                 -> OUT/ab-v32-4l-1m
#   ab-glm5     four full-width layers of GLM-5, 8K to 128K       -> OUT/ab-glm5-4l
#   watching    what the audit costs, 8K and 128K                 -> OUT/ab-watching
#   watching-canary   the same of the sampling canary             -> OUT/ab-watching-canary
#   pairs       prefill rows in pairs and alone, 8K to 128K       -> OUT/ab-pairs
#   tail        the retriever's answers, by how much of a prompt's end keeps everything -> OUT/quality-tail
#   frontier    a prefill layer by candidates, index heads and rows that share pages   -> OUT/frontier-h200.json
#   frontier-answers   the retriever's answers by candidates and heads, with balanced's dense end -> OUT/quality-frontier
#   prose       the second trained model, made anew               -> OUT/prose
#   prose-answers      the second model's answers: the presets, and arms of frontier-answers -> OUT/quality-prose
#   prose-paper        the same at the arithmetic of the paper's 8K -> OUT/quality-prose-paper
#   decode-answers     the retriever's answers by decode budget, prefill left to stock DSA -> OUT/quality-decode-answers
#   decode-prose       the same of the second model               -> OUT/quality-decode-prose
#   frontier-paper     the same at the arithmetic of the paper's 8K -> OUT/quality-frontier-paper
#   frontier-strict    the first where a prompt's end is pruned, too -> OUT/quality-frontier-strict
#   recall-heads   what the retriever's rows still choose, offline, 16K to 128K -> OUT/recall-heads.json
#   stress      random prefixes, aborts, pauses, retractions; four calls make half an hour -> OUT/stress-h100.json
#   stress-kl   a full cache against an empty one, stock DSA      -> OUT/stress-h100.json
#   stress2     the same with HiCache and random delays           -> OUT/stress-h100.json
#   stress23    with SGLang 0.5.23: prefixes, aborts, pauses, a full cache; five minutes -> OUT/stress-h200-0.5.23.json
#   stress23-default   the same with SGLang's prefill graphs      -> OUT/stress-h200-0.5.23.json
#   stress23-radix   prefixes with HiCache and random delays, five minutes -> OUT/stress-h200-0.5.23.json
#   stress23-retract   the same with retractions                  -> OUT/stress-h200-0.5.23.json
#   stress23-abort   aborts and pauses, likewise                  -> OUT/stress-h200-0.5.23.json
#   acceptance  feature after feature beside stock; call it until no case is left -> OUT/coverage-h100.json
#   acceptance23   the same with SGLang 0.5.23 on an H200; several calls side by side share the cases -> OUT/coverage-h200-0.5.23.json
#   chunks      small chunks of prefill, in prefill graphs and eager   -> OUT/coverage-h100.json
#   chunks23    the same with SGLang 0.5.23                       -> OUT/coverage-h200-0.5.23.json
#   gpus        the whole model, ranks, prefill and decode servers, times, features; until none is left -> OUT/two-gpu.json, OUT/eight-gpu.json
#               (that of two GPUs with 0.5.23 is kept as two-gpu-0.5.23.json)
#   ab-tp2      four full-width layers on two GPUs, 8K and 128K   -> OUT/ab-v32-4l-tp2
#   live2       the same layers behind sglang-router, every fourth request to the second arm; one GPU they share -> OUT/ab-live
#   kernels     the kernel benchmark over the whole grid          -> OUT/kernels-h100.json
#               (that of an H200 with 0.5.23 is kept as kernels-h200-0.5.23.json)
#   server-layer   a decode layer's indexer in servers, 64 requests over a shared 128K -> OUT/server-layer.txt
#   tune        launch settings of our kernels, used by the steps after it -> OUT/tune-h100.json, OUT/tune-layers-h100.json
#   tests       the tests that need a GPU: kernels, SGLang's own attention kit -> OUT/tests-h100.txt
#   sanitize    the kernel tests under compute-sanitizer          -> OUT/sanitizer-h100.txt
#
#   records_h100.sh --lanes OUT 'STEP[:SECONDS]...' 'STEP[:SECONDS]...'
#
# takes lists of steps side by side, each on a GPU of its own; OUT/STEP.log is what a step said. A step that takes longer
# than its SECONDS is asked to end (SIGTERM).
#
#   records_h100.sh --beside OUT 'STEP[:SECONDS]...' 'STEP[:SECONDS]...'
#
# does the same on one GPU, for acceptance23, chunks23 and stress23*, whose servers are small; what list N said is in
# OUT/STEP.N.log. What SGLang 0.5.23 was put through on one H200, the first call again until no case is left:
#
#   records_h100.sh --beside OUT acceptance23 acceptance23 acceptance23 acceptance23 acceptance23 acceptance23
#   records_h100.sh --beside OUT chunks23 chunks23 chunks23 stress23 stress23 stress23-default stress23-radix \
#     stress23-retract stress23-abort
#
# Steps that end early keep what they have. stress* and acceptance* may be called several times at once, elsewhere with a
# GPU each (CUDA_VISIBLE_DEVICES): they add to the same record. A record says which commands made it. PYTHON names the interpreter that has SGLang (python3).
set -euo pipefail
step=${1:-} out=${2:-}
if [[ $step = --lanes || $step = --beside ]] && [ $# -gt 2 ]; then
  lane=0
  for steps in "${@:3}"; do
    if [ "$step" = --lanes ]; then
      export CUDA_VISIBLE_DEVICES=$lane
      name="GPU $lane" suffix=
    else
      name="list $lane" suffix=.$lane
    fi
    for one in $steps; do
      IFS=: read -r one limit <<<"$one"
      began=$SECONDS
      code=0
      timeout --kill-after=25 "${limit:-0}" "$0" "$one" "$out" >"$out/$one$suffix.log" 2>&1 || code=$?
      echo "$name, $one: exit $code after $((SECONDS - began)) s"
    done &
    lane=$((lane + 1))
  done
  wait
  exit
fi
usage() { sed -n '2,/^set /{/^#/p}' "$0" >&2; exit 2; }
[ -n "$step" ] || usage
[ -n "$out" ] || usage
python=${PYTHON:-python3}
hisa=("$python" -m sglang_hisa.launch.cli)
export SGLANG_DSA_PREFILL_DENSE_ATTN_KV_LEN_THRESHOLD=0 HF_HUB_OFFLINE=1
flags=(--load-format dummy --dsa-prefill-backend flashmla_sparse --dsa-decode-backend flashmla_sparse
  --grammar-backend none --skip-server-warmup) # all else but the next line is SGLang's default
running=8 chunk=8192 more=()

ab() { # SLICE CONTEXT POOL_TOKENS NAME OPTIONS...
  local slice=$1 context=$2 pool=$3 name=$4
  shift 4
  "${hisa[@]}" model slice "$slice" "$out/model-$slice"
  # Made-up weights answer alike whatever is pruned: quality is measured with the trained model.
  "${hisa[@]}" ab --timeout 600 --quality 0 --output-tokens 32 --out "$out/$name" "$@" "$out/model-$slice" \
    --context-length "$context" --max-total-tokens "$pool" "${flags[@]}" \
    --max-running-requests "$running" --chunked-prefill-size "$chunk" "${more[@]}"
}

gpu_mib() { # of the first GPU; 0 without one
  local mib
  mib=$(nvidia-smi --query-gpu=memory.total --format=csv,noheader,nounits 2>/dev/null | head -1) || true
  echo "${mib:-0}"
}

many() { # NAME PREFIX POOL_TOKENS ARMS CELLS: requests that share a prefix, 64 tokens an answer and one more for each other of them
  export SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN=1
  # Decode alone is measured: small chunks of prefill leave memory to the servers beside, and without graphs of them
  # a server starts in half of the time.
  running=128 chunk=4096 more=(--cuda-graph-max-bs-decode 128 --mem-fraction-static 0.95 --disable-prefill-cuda-graph)
  ab v32-tp8-rank "$((${2%k} * 1024 + 2128))" "$3" "$1" --resume --together --arms "$4" --cells "$5" --rounds 3 \
    --output-tokens 64
}

model=$(dirname "$0")/research/retriever
case $step in prose-* | decode-prose) model=$(dirname "$0")/research/prose ;; esac # the second model
answers() { # NAME ARMS: questions to the trained model, an arm a server, side by side
  "${hisa[@]}" eval "$model" --together --out "$out/$1" --contexts 16k,32k --samples 4 --at-once 8 \
    --arms "$2" --dsa-prefill-backend flashmla_sparse --dsa-decode-backend flashmla_sparse --grammar-backend none \
    --kv-cache-dtype bfloat16 --mem-fraction-static 0.85 --max-total-tokens 200000 --chunked-prefill-size 2048 \
    --max-running-requests 8 --cuda-graph-max-bs-decode 8 --skip-server-warmup
}

origin() { "$python" -c 'import json; from sglang_hisa.launch.common.provenance import provenance; print(json.dumps(provenance()))'; }

case $step in
  ab) # three such servers fit 140 GB, not 80
    together=(--rounds 2)
    [ "$(gpu_mib)" -lt 120000 ] || together=(--together --rounds 3)
    running=128 more=(--cuda-graph-max-bs-decode 128) # a larger --mem-fraction-static would have stock cut its scores
    ab v32-tp8-rank 133200 190000 ab-served "${together[@]}" --resume --arms stock,paper,balanced \
      --cells '8k:1 32k:1 128k:1' --output-tokens 64 ;;
  ab-four) ab v32-tp8-rank 133000 540000 ab-served-four --arms stock,paper,balanced --cells '8k:4 32k:4 128k:4' \
    --rounds 1 --warmup-tokens 40k ;;
  ab-256k) # stock's scores of a chunk alone are 8 GB
    export SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN=1
    together=(--rounds 1 --arms stock,paper,balanced)
    [ "$(gpu_mib)" -lt 120000 ] || together=(--together --rounds 2 --arms stock,balanced)
    ab v32-tp8-rank 263000 270000 ab-served-256k "${together[@]}" --resume --cells 256k:1 --warmup-tokens 40k ;;
  ab-256k-decode-only)
    export SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN=1
    ab v32-tp8-rank 263000 270000 ab-v32-tp8-rank-256k-decode-only --arms stock,decode-only --cells 256k:1 --rounds 2 \
      --warmup-tokens 40k ;;
  ab-grid) # decode-only leaves every step of one request below 288K to stock
    ab v32-tp8-rank 133000 540000 ab-v32-tp8-rank-grid --arms stock,balanced,decode-only --cells '8k:1,4 32k:1,4 128k:1,4' \
      --rounds 2 --warmup-tokens 40k ;;
  ab-many) many ab-many 128k 200000 stock,paper,balanced '128k+64:64,16,128,1,4' ;;
  ab-many-32k) many ab-many-32k 32k 90000 stock,paper,balanced '32k+64:64,16,128,1,4' ;;
  ab-many-256k) many ab-many-256k 256k 300000 stock,paper,balanced '256k+64:64,16,1,4' ;;
  ab-many-256k-128) many ab-many-256k-128 256k 300000 stock,paper,balanced 256k+64:128 ;; # takes as long as the others together
  ab-many-decode-only) many ab-many-decode-only 128k 200000 stock,decode-only '128k+64:64,16,128' ;;
  ab-many-distinct)
    running=64 more=(--cuda-graph-max-bs-decode 64)
    ab v32-4l 66000 4300000 ab-many-distinct --resume --together --arms stock,paper --cells 64k:64 --rounds 3 \
      --output-tokens 128 --warmup-tokens 66k ;;
  ab-4l-paper | ab-4l-balanced | ab-4l-decode-only) ab v32-4l 133000 560000 "ab-v32-4l-${step#ab-4l-}" --together --arms "stock,${step#ab-4l-}" \
    --cells '8k:1 32k:1 128k:1,4' --rounds 3 --warmup-tokens 300k ;;
  ab-4l-more)
    export SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN=1
    ab v32-4l 263000 270000 ab-v32-4l-more --arms stock,paper,balanced,decode-only --cells '8k:4 32k:4 256k:1' --rounds 2 \
      --warmup-tokens 40k ;;
  ab-glm5) ab glm5-4l 133000 560000 ab-glm5-4l --together --arms stock,paper --cells '8k:1 32k:1 128k:1,4' --rounds 3 \
    --warmup-tokens 300k ;;
  ab-4l-1m)
    export SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN=1
    ab v32-4l 1048576 1060000 ab-v32-4l-1m --resume --together --arms stock,paper --cells 1000k:1 --rounds 3 \
      --warmup-tokens 40k ;;
  watching | watching-canary)
    [ $step = watching ] || more=(--disable-prefill-cuda-graph) # half of a start; the canary runs beside graphs
    ab v32-tp8-rank 133000 140000 "ab-$step" --resume --together --arms "paper,$step" --arm 'watching={"preset": "paper", "audit": 0.01}' \
      --arm 'watching-canary={"preset": "paper", "canary": "sample"}' --cells '8k:1 128k:1' --rounds 5 --warmup-tokens 300k ;;
  pairs) ab v32-tp8-rank 133000 140000 ab-pairs --together --arms stock,paper,alone \
    --arm 'alone={"preset": "paper", "prefill_group": 1}' --cells '8k:1 32k:1 128k:1' --rounds 4 \
    --warmup-tokens 300k ;;
  tail) # budgets far too small for it, so that a difference would show
    small='paper-4to1:block=64:dense_tail_tokens'
    answers quality-tail "stock,none=$small=0,tail256=$small=256,tail1024=$small=1024,tail2048=$small=2048" ;;
  frontier) "$python" -m sglang_hisa.launch.bench.frontier --out "$out/frontier-h200.json" ;;
  prose) "$python" -m sglang_hisa.launch.research.train "$out/prose" --corpus prose --recipe-minutes 10 ;;
  frontier-answers | prose-answers) # arms named by candidates x share of the heads (L4x2: a quarter of the context, half of the heads)
    part='balanced:prefill_tokens=4096:prefill_fraction' all='prefill_heads=1:prefill_group=2'
    half='prefill_heads=0.5:prefill_group=4' quarter='prefill_heads=0.25:prefill_group=8'
    arms="stock,L4x1=$part=0.25:$all,L4x2=$part=0.25:$half,L4x4=$part=0.25:$quarter,3L8x4=$part=0.375:$quarter,L2x4=$part=0.5:$quarter"
    case $step in
      frontier-answers) answers quality-frontier "$arms,L2x2=$part=0.5:$half" ;;
      prose-answers) answers quality-prose "$arms,balanced,paper" ;;
    esac ;;
  decode-answers | decode-prose)
    all='decode-only:stock_decode_graphs=false' # pruned with few rows, too
    part="$all:decode_tokens=4096:decode_fraction" flat="$all:decode_fraction=0:decode_tokens"
    answers "quality-$step" "stock,4K=$flat=4096,8K=$flat=8192,16K=$flat=16384,L4=$part=0.25,L2=$part=0.5" ;;
  frontier-paper | prose-paper) # the paper's 8K, and at 32K the same arithmetic with fewer heads; decode steps are stock DSA's
    paper='paper:decode_tokens=0:dense_tail_tokens=1024:prefill_fraction'
    answers "quality-$step" "stock,8Kx1=$paper=0,16Kx2=$paper=0.5:prefill_heads=0.5:prefill_group=4,$(
    )32Kx4=$paper=1:prefill_heads=0.25:prefill_group=8" ;;
  frontier-strict) # each of the arithmetic of a quarter of the context; decode steps are stock DSA's
    part='balanced:decode_tokens=0:dense_tail_tokens=0:prefill_tokens=4096:prefill_fraction'
    answers quality-frontier-strict "stock,L4x1=$part=0.25:prefill_heads=1:prefill_group=2,$(
    )L2x2=$part=0.5:prefill_heads=0.5:prefill_group=4,Lx4=$part=1:prefill_heads=0.25:prefill_group=8" ;;
  recall-heads) "$python" -m sglang_hisa.launch.research.recall_heads "$(dirname "$0")/research/retriever" --device cuda \
    --contexts 16384 32768 65536 131072 --out "$out/recall-heads.json" ;;
  stress) "$python" -m sglang_hisa.launch.acceptance.stress --out "$out/stress-h100.json" --slice small --arms paper --minutes 1.4 ;;
  stress-kl) "$python" -m sglang_hisa.launch.acceptance.stress --out "$out/stress-h100.json" --slice small --arms stock \
    --scenes warm --minutes 2 ;;
  stress2) "$python" -m sglang_hisa.launch.acceptance.stress --out "$out/stress-h100.json" --slice small --arms paper --minutes 2.5 \
    --scenes radix retract --jitter 10 --plugin "$(dirname "$0")/../tests/plugins/jitter" --enable-hierarchical-cache \
    --hicache-ratio 2 ;;
  stress23 | stress23-default | stress23-radix | stress23-retract | stress23-abort)
    scenes=(radix abort pause warm) minutes=1.3 given=(--cuda-graph-backend-prefill disabled)
    case ${step#stress23} in
      -default) given=() ;;
      -radix | -retract) scenes=("${step#stress23-}") minutes=5.1 ;;&
      -abort) scenes=(abort pause) minutes=2.6 ;;&
      -*) given+=(--jitter 10 --plugin "$(dirname "$0")/../tests/plugins/jitter" --enable-hierarchical-cache --hicache-ratio 2) ;;
    esac
    "$python" -m sglang_hisa.launch.acceptance.stress --out "$out/stress-h200-0.5.23.json" --slice small --arms paper \
      --minutes $minutes --scenes "${scenes[@]}" "${given[@]}" ;;
  acceptance) "$python" -m sglang_hisa.launch.acceptance --out "$out/coverage-h100.json" --missing --seconds 420 ;;
  acceptance23) # those that take longest first, so that the calls end together; fa3 compiles for minutes
    "$python" -m sglang_hisa.launch.acceptance --out "$out/coverage-h200-0.5.23.json" --missing --seconds 420 --timeout 600 \
      --cases flashinfer-topk 1m glm5 fp8-kv-paged mtp-fp8 glm5-mtp mtp lora keyless-hicache torch-topk prefill-breakable windows \
      hicache fp8-kv keyless-layers plain dense-tail shared-layers no-overlap sleep ;;
  chunks23) "$python" -m sglang_hisa.launch.acceptance --out "$out/coverage-h200-0.5.23.json" --missing --seconds 420 --timeout 600 \
    --chunks "$(dirname "$0")/../tests/plugins/steps" ;;
  chunks) "$python" -m sglang_hisa.launch.acceptance --out "$out/coverage-h100.json" --missing \
    --chunks "$(dirname "$0")/../tests/plugins/steps" ;;
  gpus) # as SGLang has it by default
    unset SGLANG_DSA_PREFILL_DENSE_ATTN_KV_LEN_THRESHOLD
    "$python" -m sglang_hisa.launch.whole --gpus "${GPUS:-2}" --out "$out" --plugins "$(dirname "$0")/../tests/plugins" ;;
  ab-tp2)
    more=(--tp 2 --enforce-disable-flashinfer-allreduce-fusion)
    ab v32-4l 133000 140000 ab-v32-4l-tp2 --together --arms stock,paper --cells '8k:1 128k:1' --rounds 4 \
    --warmup-tokens 300k ;;
  live2)
    "${hisa[@]}" model slice v32-4l "$out/model-v32-4l"
    "${hisa[@]}" ab --live --arms stock,paper --share 0.25 --every 5 --port 30000 --timeout 400 --out "$out/ab-live" \
      "$out/model-v32-4l" --context-length 133000 --max-total-tokens 560000 "${flags[@]}" \
      --max-running-requests "$running" --chunked-prefill-size "$chunk" &
    live=$! sent=0
    until (: </dev/tcp/127.0.0.1/30000) 2>/dev/null || ! kill -0 $live 2>/dev/null; do sleep 1; done
    "$python" -m sglang.benchmark.serving --backend sglang --host 127.0.0.1 --port 30000 --model "$out/model-v32-4l" \
      --tokenize-prompt --dataset-name random-ids --random-input-len 32768 --random-output-len 64 --random-range-ratio 1 \
      --num-prompts 80 --max-concurrency 8 || sent=$?
    kill -TERM $live 2>/dev/null || true
    wait $live && exit $sent ;;
  kernels)
    record=("${hisa[@]}" bench kernels --out "$out/kernels-h100.json" --repeats 10 --cache-gb 36)
    "${record[@]}" --blocks 64 128
    "${record[@]}" --budgets 16384 L/4 --blocks 64 128 --decode-contexts 65536 131072 262144 --batches 1 16 64 \
      --prefill-contexts 65536 131072
    "${record[@]}" --heads 32 --decode-contexts 65536 131072 --batches 1 16 64 --prefill-contexts 131072
    "${record[@]}" --refine triton --decode-contexts 65536 131072 --batches 1 16 64 --prefill-contexts 65536 131072
    "${record[@]}" --rows 1024 4096 --decode-contexts --prefill-contexts 131072
    "${record[@]}" --budgets L/4 --tails 1024 2048 --groups 2 --decode-contexts --prefill-contexts 131072 ;;
  server-layer)
    "$python" -m sglang_hisa.launch.bench.server_layer --out "$out" | tee "$out/server-layer.txt" ;;
  tune)
    "${hisa[@]}" bench tune --apply --out "$out/tune-h100.json" --kernels coarse rank pick pick_many refine
    "${hisa[@]}" bench tune --apply --out "$out/tune-layers-h100.json" --kernels refine_rows ;;
  tests)
    { origin
      "$python" -m pytest -m gpu tests/kernels tests/sglang_hisa/test_schedule.py tests/sglang_hisa/test_transfer.py tests/patches/test_upstream_kits.py; } 2>&1 | tee "$out/tests-h100.txt" ;;
  sanitize) # a caching allocator would hide reads past a tensor; ties and the largest shapes take minutes there, a graph needs that allocator
    export PYTORCH_NO_CUDA_MEMORY_CACHING=1
    checked=("$python" -m pytest tests/kernels -m gpu -q -k "not ties and not follows and not (scores_and_choice and (4- or 32-))")
    { origin
      echo "\$ PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool memcheck --target-processes all ${checked[*]}"
      "${SANITIZER:-compute-sanitizer}" --tool memcheck --target-processes all "${checked[@]}"; } 2>&1 \
      | tee "$out/sanitizer-h100.txt" ;;
  *) usage ;;
esac
