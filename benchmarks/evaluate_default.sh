#!/bin/sh
# Everything that the README and the model card say of the default adapter, by `sharedllm eval`.
#
#     benchmarks/evaluate_default.sh DATA OUT [OPTIONS of the commands]
#
# DATA holds books, code, papers, docs and qa .jsonl.xz (the `dev` folder); OUT gets one JSON and one
# plot a command. Commands run side by side; on one GPU of 141 GB allow half an hour.
#     SMALL=1 benchmarks/evaluate_default.sh DATA OUT    # few items, short texts: does it run?
set -eu
data=$1 out=$2
shift 2
mkdir -p "$out"
if [ "${SMALL:-}" ]; then
  lengths=4K items=1 within=4K pasts=0,2K
else
  lengths=4K,8K,32K,128K items=50 within=8K,128K pasts=0,2K,6K,14K,30K,62K,126K
fi
run() { # name, command, options
  name=$1 command=$2
  shift 2
  sharedllm eval "$command" --out "$out/$name.json" "$@" >"$out/$name.txt" 2>&1 ||
    echo "$name failed: $(tail -n 1 "$out/$name.txt")" >&2
}
filler="--filler $data/books.jsonl.xz"
for tasks in niah_single_1,niah_single_2,niah_single_3 niah_multikey_1,niah_multivalue,niah_multiquery \
  niah_multikey_2,niah_multikey_3 vt,cwe,fwe; do
  run "needle-$(echo $tasks | cut -d, -f1)" needle --tasks $tasks --lengths $lengths --items $items \
    $filler --plot "$out/needle-$(echo $tasks | cut -d, -f1).png" "$@" &
done
[ "${SMALL:-}" ] || run needle-1M needle --tasks niah_single_1,niah_single_2,niah_single_3 \
  --lengths 1M --items 20 --baselines bm25 $filler "$@" &
run qa qa --data "$data/qa.jsonl.xz" --within $within --items $((items * 4)) --absent 0.2 $filler \
  --plot "$out/qa.png" "$@" &
for kind in books code papers docs; do
  run "perplexity-$kind" perplexity --data "$data/$kind.jsonl.xz" --lengths $pasts --items $items \
    --plot "$out/perplexity-$kind.png" "$@" &
done
loading() { # of the options, those that say what is loaded: chat takes no others
  while [ $# -gt 1 ]; do
    case $1 in --model | --adapter | --device | --dtype) printf '%s %s ' "$1" "$2" ;; esac
    shift
  done
}
run chat chat --plot "$out/chat.png" $(loading "$@") &
wait
