#!/usr/bin/env bash
# From nothing to captions: set up a virtual environment, run the whole chain with the models that
# ship with syntic on examples/corpus.txt, and caption photos.
#
#   bash examples/quickstart.sh [PHOTO ...]
#
# Without photos it takes six that come with scikit-image, and scores their captions against
# examples/references.csv. The artifacts go to ./syntic-run, or where SYNTIC_WORKSPACE says.
set -euo pipefail

examples=$(cd "$(dirname "$0")" && pwd)

if [ -z "${VIRTUAL_ENV:-}" ]; then
    environment="$examples/../.venv"
    [ -x "$environment/bin/python" ] || python3 -m venv "$environment"
    . "$environment/bin/activate"
    activate=". $(cd "$environment" && pwd)/bin/activate"
fi
echo "Installing syntic (some minutes the first time: torch is large) ..."
python -m pip install --quiet "$examples/..[demo]"

export SYNTIC_WORKSPACE="${SYNTIC_WORKSPACE:-syntic-run}"

photos=("$@")
references=()
if [ $# -eq 0 ]; then
    folder=$(python -c "import skimage, pathlib; print(pathlib.Path(skimage.__file__).parent / 'data')")
    for name in astronaut.png chelsea.png coffee.png rocket.jpg motorcycle_left.png camera.png; do
        photos+=("$folder/$name")
    done
    references=(--references "$examples/references.csv")
fi

syntic run "$examples/corpus.txt" "${photos[@]}" "${references[@]}" --preset "$examples/quickstart.toml"
echo "Captions:  $SYNTIC_WORKSPACE/captions.h5"
echo "Captioner: $SYNTIC_WORKSPACE/captioner.h5"
echo
echo "A corpus of $(wc -l < "$examples/corpus.txt") texts shows how the chain works; for good captions of your own"
echo "photos, use the captioner that ships with syntic, trained on many more:"
[ -z "${activate:-}" ] || echo "    $activate"
echo "    cd somewhere-else && syntic caption PHOTO ..."
