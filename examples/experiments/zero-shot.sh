#!/usr/bin/env bash
# Table 3: texts that were written for no photo. Everyday sentences of at most 15 words, 510 of
# examples/corpus.txt and the rest composed by rule (texts.py); photos of both data sets.
#
#   DATA=... bash examples/experiments/zero-shot.sh
set -euo pipefail
. "$(dirname "$0")/common.sh"

there=$RUN/everyday
texts=$(corpus everyday "$TEXTS")
syntic synthesize "$texts" --max-words 15 -w "$there"
syntic encode -w "$there"
syntic detect -w "$there"
syntic optimize -w "$there"
syntic project -w "$there"
learn "$there" full
learn "$there" DeCap --no-objects --from-texts
learn "$there" CapDec --no-objects --from-texts --no-projection --noise 0.126
for set in flickr8k coco; do
    for name in full DeCap CapDec; do describe "$there" $name $set; done
    relatives "$there" $set
    table "$there" $set zero-shot CLIPRe MAGIC ZeroCap CapDec DeCap full
done
