#!/usr/bin/env bash
# Table 1: texts and photos of one data set, by SynTIC and by what it is compared with.
#
#   DATA=... CORPORA="flickr8k coco" bash examples/experiments/in-domain.sh
set -euo pipefail
. "$(dirname "$0")/common.sh"

images
for name in $CORPORA; do
    there=$RUN/$name
    part "$there" "$name"
    learn "$there" full --objects "$RUN/images/objects.h5"
    learn "$there" DeCap --no-objects --from-texts
    learn "$there" CapDec --no-objects --from-texts --no-projection --noise 0.126
    learn "$there" CLOSE --no-objects --from-texts --no-projection --noise 0.08
    for captioner in full DeCap CapDec CLOSE; do describe "$there" $captioner "$name"; done
    relatives "$there" "$name"
    table "$there" "$name" in-domain CLIPRe MAGIC ZeroCap CapDec CLOSE DeCap full
done
