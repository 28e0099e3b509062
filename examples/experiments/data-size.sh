#!/usr/bin/env bash
# Figure 2: how many texts it takes. SHARES are percents of the texts; a decoder of fewer texts goes
# through them more often, so that all take about the same number of steps, and the epoch with the
# lowest held-out loss is kept. CORPUS is flickr8k or coco.
#
#   DATA=... SHARES="1 10 100" bash examples/experiments/data-size.sh
set -euo pipefail
# There are many decoders to train: half of what the other scripts take, unless told otherwise.
EPOCHS=${EPOCHS:-2}
PHOTOS=${PHOTOS:-500}
. "$(dirname "$0")/common.sh"

CORPUS=${CORPUS:-flickr8k}
SHARES=${SHARES:-1 5 10 20 50 100}
there=$RUN/data-size-$CORPUS
images
names=()
for share in $SHARES; do
    folder=$there/$share
    part "$folder" "$CORPUS" --sample "$(awk "BEGIN { print $share / 100 }")"
    epochs=(--epochs $((EPOCHS * 100 / share)))
    learn "$folder" "../full@$share" --objects "$RUN/images/objects.h5" "${epochs[@]}"
    learn "$folder" "../DeCap@$share" --no-objects --from-texts "${epochs[@]}"
    for name in "full@$share" "DeCap@$share"; do
        describe "$there" "$name" "$CORPUS"
        names+=("$name")
    done
done
table "$there" "$CORPUS" data-size "${names[@]}"
python "$here/table.py" "$there/on-$CORPUS/data-size.json" --plot "$there/data-size.png"
