#!/usr/bin/env bash
# What each part of the method brings: trains every variant and its relatives on the same features,
# scores them on the dev photos, prints the table and saves it in the workspace.
#
#   bash examples/ablation.sh DATA CLIP [OPTION ...]
#
# DATA holds flickr8k/; CLIP is a dual encoder trained without half B of Flickr8k's training photos
# (`python examples/tiny/dual_encoder.py --half ...`). The texts are the captions of half B. Options
# are those of ablation.py: --seeds, --epochs, --batch-size; PER_PHOTO takes fewer than 5 captions a photo.
set -euo pipefail

data=${1:?usage: ablation.sh DATA CLIP [OPTION ...]} clip=${2:?usage: ablation.sh DATA CLIP [OPTION ...]}
shift 2
here=$(cd "$(dirname "$0")" && pwd)
export SYNTIC_WORKSPACE="${SYNTIC_WORKSPACE:-syntic-ablation}" SYNTIC_PRESET=tiny
per_photo="${PER_PHOTO:-5}"

mkdir -p "$SYNTIC_WORKSPACE"
python "$here/tiny/ablation.py" corpus --data "$data" --per-photo "$per_photo" > "$SYNTIC_WORKSPACE/corpus.txt"
syntic synthesize "$SYNTIC_WORKSPACE/corpus.txt"
syntic encode --model "$clip"
syntic detect
python "$here/tiny/ablation.py" run --data "$data" --per-photo "$per_photo" --clip "$clip" \
    --workspace "$SYNTIC_WORKSPACE" "$@"
