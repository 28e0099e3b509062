#!/usr/bin/env bash
# ICSD: an image a text, against an image for each of SCENES groups of texts that could describe one
# scene, of which all are learnt from it. CORPUS is coco or flickr8k.
#
#   DATA=... bash examples/experiments/multi-context.sh
set -euo pipefail
. "$(dirname "$0")/common.sh"

CORPUS=${CORPUS:-coco}
there=$RUN/multi-context
images
part "$there" "$CORPUS"
learn "$there" one-text --objects "$RUN/images/objects.h5"

scenes=$there/scenes
texts=$(corpus "$CORPUS" "$TEXTS")
syntic compose "$texts" -w "$scenes" --groups "${SCENES:-2000}"
syntic synthesize "$scenes/composed.h5" -w "$scenes"
syntic encode -w "$scenes"
syntic detect -w "$scenes"
syntic optimize -w "$scenes"
syntic project -w "$scenes"
learn "$scenes" ../several-texts
for name in one-text several-texts; do describe "$there" $name "$CORPUS"; done
table "$there" "$CORPUS" multi-context one-text several-texts
