#!/usr/bin/env bash
# Table 4: the method's parts one by one and together. FO refines the images' features, FP projects
# them, AF attends to the names of objects. CORPUS is flickr8k or coco.
#
#   DATA=... CORPUS=coco bash examples/experiments/ablation.sh
set -euo pipefail
. "$(dirname "$0")/common.sh"

CORPUS=${CORPUS:-flickr8k}
there=$RUN/$CORPUS
images
part "$there" "$CORPUS"
# The same without refinement.
syntic project -w "$there" --features "$there/selected.h5" -o "$there/unrefined.h5"

plain=(--projected "$there/unrefined.h5")
objects=(--objects "$RUN/images/objects.h5")
learn "$there" baseline "${plain[@]}" --no-projection --no-objects
learn "$there" FO --no-projection --no-objects
learn "$there" FP "${plain[@]}" --no-objects
learn "$there" AF "${plain[@]}" --no-projection "${objects[@]}"
learn "$there" FO+FP --no-objects
learn "$there" FO+AF --no-projection "${objects[@]}"
learn "$there" FP+AF "${plain[@]}" "${objects[@]}"
learn "$there" full "${objects[@]}"
names=(baseline FO FP AF FO+FP FO+AF FP+AF full)
for name in "${names[@]}"; do describe "$there" "$name" "$CORPUS"; done
table "$there" "$CORPUS" ablation "${names[@]}"
