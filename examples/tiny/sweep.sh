#!/usr/bin/env bash
# The table that settings of the preset tiny are chosen from: one of refinement, projection or beam
# is changed at a time; the decoders attend to no objects. Variables as in experiments/common.sh.
#
#   DATA=... CORPORA=flickr8k SEEDS=0 bash examples/tiny/sweep.sh
set -euo pipefail
. "$(dirname "$0")/../experiments/common.sh"

there=$RUN/flickr8k
names=()

# try NAME TEMPERATURE [OPTION of optimize ...]
try() {
    syntic optimize -w "$there" "${@:3}" -o "$there/sweep/$1-refined.h5"
    syntic project -w "$there" --features "$there/sweep/$1-refined.h5" --temperature "$2" \
        -o "$there/sweep/$1-projected.h5"
    learn "$there" "sweep/$1" --projected "$there/sweep/$1-projected.h5" --no-objects
    describe "$there" "sweep/$1" flickr8k "$1" --temperature "$2"
    names+=("$1")
}

images
part "$there" flickr8k
try preset 0.033
for beam in 1 5; do
    describe "$there" sweep/preset flickr8k "beam-$beam" --beam $beam
    names+=("beam-$beam")
done
for epochs in 1 4 8 16; do try "epochs-$epochs" 0.033 --epochs $epochs; done
for batch in 128 2048; do try "batch-$batch" 0.033 --batch-size $batch; done
for temperature in 0.01 0.02 0.05; do try "temperature-$temperature" $temperature; done
table "$there" flickr8k sweep "${names[@]}"
