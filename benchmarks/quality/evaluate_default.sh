#!/bin/sh
# Everything that the README and the model card say of the default adapter, by evaluate.py.
#
#     benchmarks/quality/evaluate_default.sh DATA OUT [OPTIONS of the commands]
#
# DATA holds books, code, papers, docs and qa .jsonl.xz (the `dev` folder); OUT gets one JSON, one
# table and one plot a command. Commands run side by side, in turn on GPUS cards (1): give ONLY some
# at a time, since one at 128K with `--batch 24` takes 11 GiB of a card.
#     SMALL=1 benchmarks/quality/evaluate_default.sh DATA OUT    # few items, short texts: does it run?
#     ONLY="qa chat" ...                                 # the commands whose names start so
set -eu
data=$1 out=$2
shift 2
mkdir -p "$out"
short=4K,8K long=128K,32K items=${ITEMS:-48} pasts=0,2K,4K,6K,14K,30K,62K,126K million=1M
[ -z "${SMALL:-}" ] || short=4K long=6K items=1 pasts=0,2K million=8K
filler="--filler $data/books.jsonl.xz"
turn=0
measured() { # name, command, options
  name=$1 command=$2
  shift 2
  ${PYTHON:-python} -m benchmarks.quality.evaluate "$command" --out "$out/$name.json" "$@" &&
    ${PYTHON:-python} -m benchmarks.quality.plot "$out/$name.json" --plot "$out/$name.png"
}
run() { # name, command, options
  name=$1 command=$2
  shift 2
  wanted=
  for start in ${ONLY:-$name}; do case $name in "$start"*) wanted=1 ;; esac; done
  [ "$wanted" ] || return 0
  turn=$((turn + 1))
  CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES:-$((turn % ${GPUS:-1}))} \
    measured "$name" "$command" "$@" >"$out/$name.txt" 2>&1 ||
    echo "$name failed: $(tail -n 1 "$out/$name.txt")" >&2 &
}
# Baselines that attend to everything take a minute an item at 128K: there the others run alone.
for task in niah_single_1 niah_single_2 niah_single_3 niah_multikey_1 niah_multivalue \
  niah_multiquery niah_multikey_2 niah_multikey_3 vt two_hop cwe,fwe; do
  run "needle-long-${task%%,*}" ruler --tasks $task --lengths $long --items $items \
    --baselines truncated,bm25 $filler "$@"
done
for task in niah_single_1 niah_single_2 niah_single_3; do
  run "needle-million-$task" ruler --tasks $task --lengths $million --items $((items / 3 + 1)) \
    --budget 1024 --baselines bm25 $filler "$@"
done
for tasks in niah_single_1,niah_single_2,niah_single_3,niah_multikey_1 \
  niah_multivalue,niah_multiquery,niah_multikey_2,niah_multikey_3 vt,two_hop,cwe,fwe; do
  run "needle-short-${tasks%%,*}" ruler --tasks $tasks --lengths $short --items $((items / 2 + 1)) \
    $filler "$@"
done
# left out: questions that mean something beside their passage only ("Summarize the paper.")
qa="--data $data/qa.jsonl.xz --absent 0.2 --baseline-adapter --skip PolicyQA --skip T0: \
  --skip SciTLDR --skip CRD3 --skip QMSum --skip Scisumm"
run qa-short qa $qa --within 8K --items $((items * 4)) $filler "$@"
for seed in 0 1 2 3; do # other questions in each
  [ "${SMALL:-}" ] || run qa-long-$seed qa $qa --within 128K --items $((items * 2)) --seed $seed \
    --baselines truncated,bm25,minilm $filler "$@"
done
for kind in books code papers docs; do
  run "perplexity-$kind" perplexity --data "$data/$kind.jsonl.xz" --join --lengths $pasts \
    --items $((items / 2 + 1)) --baselines full,truncated,bm25 --baseline-adapter "$@"
done
loading() { # of the options, those that say what is loaded: chat takes no others
  while [ $# -gt 1 ]; do
    case $1 in --model | --adapter | --device | --dtype) printf '%s %s ' "$1" "$2" ;; esac
    shift
  done
}
run chat chat $(loading "$@")
wait
