#!/usr/bin/env bash
# Table 2: texts of one data set, photos of another; TT takes the other's texts as the support set
# that photos are projected on.
#
#   DATA=... bash examples/experiments/cross-domain.sh
set -euo pipefail
. "$(dirname "$0")/common.sh"

images
for name in flickr8k coco; do part "$RUN/$name" $name; done
for pair in "coco flickr8k" "flickr8k coco"; do
    read -r source target <<< "$pair"
    there=$RUN/$source
    learn "$there" full --objects "$RUN/images/objects.h5"
    learn "$there" DeCap --no-objects --from-texts
    learn "$there" CapDec --no-objects --from-texts --no-projection --noise 0.126
    for name in full DeCap CapDec; do describe "$there" $name "$target"; done
    for name in full DeCap; do
        describe "$there" $name "$target" $name-TT --support "$RUN/$target/selected.h5"
    done
    relatives "$there" "$target"
    table "$there" "$target" cross-domain CLIPRe MAGIC ZeroCap CapDec DeCap full DeCap-TT full-TT
done
