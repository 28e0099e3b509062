# What the experiments share; each script begins by reading this file.
#
# DATA     folder with flickr8k/ and coco/, each with captions.csv (image, split, caption) and images/
# RUN      where everything is made; another size needs another folder (./syntic-experiments)
# PRESET   a preset's name or file (small.toml, which goes over the preset tiny)
# SEEDS    of the decoders ("0 1 2"); images, features and refinement are made once, with seed 0
# TEXTS    most texts of a corpus that decoders learn from, drawn at random (10000)
# IMAGES   most texts of a corpus that get an image (TEXTS); once made, they serve all smaller TEXTS
# PHOTOS   most dev photos of a data set (1000)
# EPOCHS   of a decoder (4)
# DTYPE    that decoders are trained in (auto; bfloat16 is faster on processors that have it)
# CORPORA  data sets whose texts get images ("flickr8k coco"); a file RUN/texts/NAME-TEXTS.txt that
#          is there already is taken as it is
# LANGUAGE_MODEL   a causal language model of transformers, for MAGIC and ZeroCap (none)
#
# A rerun goes on where it was: every command knows what it has made, and refuses another size.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
DATA=${DATA:?give the folder with flickr8k/ and coco/ as DATA}
RUN=${RUN:-syntic-experiments}
SEEDS=${SEEDS:-0 1 2}
TEXTS=${TEXTS:-10000}
IMAGES=${IMAGES:-$TEXTS}
PHOTOS=${PHOTOS:-1000}
EPOCHS=${EPOCHS:-4}
DTYPE=${DTYPE:-auto}
CORPORA=${CORPORA:-flickr8k coco}
LANGUAGE_MODEL=${LANGUAGE_MODEL:-}
export SYNTIC_PRESET=${PRESET:-$here/small.toml}

# corpus NAME COUNT: the file of a corpus of at most so many texts, written where it is not there
corpus() {
    local file=$RUN/texts/$1-$2.txt
    mkdir -p "$RUN/texts"
    if [ ! -f "$file" ]; then
        python "$here/texts.py" "$1" --data "$DATA" --texts "$2" > "$file.part"
        mv "$file.part" "$file"
    fi
    echo "$file"
}

# images: an image, its features and its objects for IMAGES texts of CORPORA, once for all scripts
images() {
    local name file files=()
    for name in $CORPORA; do
        file=$(corpus "$name" "$IMAGES")
        files+=("$file")
    done
    cat "${files[@]}" > "$RUN/texts/all.txt"
    syntic synthesize "$RUN/texts/all.txt" -w "$RUN/images"
    syntic encode -w "$RUN/images"
    syntic detect -w "$RUN/images"
}

# part WORKSPACE NAME [OPTION ...]: TEXTS texts of a corpus with their images, refined and projected
part() {
    local file
    file=$(corpus "$2" "$TEXTS")
    syntic select -w "$1" --features "$RUN/images/features.h5" --only "$file" "${@:3}"
    syntic optimize -w "$1"
    syntic project -w "$1"
}

# learn WORKSPACE NAME [OPTION ...]: a captioner a seed, WORKSPACE/NAME-SEED.h5; ../NAME puts it above
learn() {
    local seed
    for seed in $SEEDS; do
        syntic train -w "$1" --dtype "$DTYPE" --epochs "$EPOCHS" --seed "$seed" "${@:3}" -o "$1/$2-$seed.h5"
    done
}

# photos SET: the dev photos of flickr8k or coco
photos() {
    awk -F, -v n="$PHOTOS" -v folder="$DATA/$1/images/" \
        '$2 == "dev" && !seen[$1]++ && count++ < n { print folder $1 }' "$DATA/$1/captions.csv"
}

# describe WORKSPACE CAPTIONER SET [NAME [OPTION ...]]: captions of a set's photos by the captioners
# of all seeds, WORKSPACE/on-SET/NAME-SEED.h5
describe() {
    local seed name=${4:-$2}
    for seed in $SEEDS; do
        photos "$3" | syntic caption - -w "$1" --captioner "$1/$2-$seed.h5" \
            "${@:5}" -o "$1/on-$3/$name-$seed.h5" --format txt > /dev/null
    done
}

# describe_once: the same by what does not depend on the seed
describe_once() {
    local SEEDS=${SEEDS%% *}
    describe "$@"
}

# relatives WORKSPACE SET: what needs no training of its own, by a captioner of WORKSPACE named `full`
relatives() {
    describe_once "$1" full "$2" CLIPRe --decoding clipre
    [ -n "$LANGUAGE_MODEL" ] || return 0
    describe_once "$1" full "$2" MAGIC --decoding magic --language-model "$LANGUAGE_MODEL"
    describe_once "$1" full "$2" ZeroCap --decoding zerocap --language-model "$LANGUAGE_MODEL"
}

# table WORKSPACE SET TITLE NAME ...: scores of all seeds, as Markdown, kept in WORKSPACE/on-SET/TITLE.md
table() {
    local folder=$1/on-$2 name file files=()
    for name in "${@:4}"; do
        for file in "$folder/$name"-[0-9]*.h5; do [ ! -f "$file" ] || files+=("$file"); done
    done
    syntic evaluate "${files[@]}" -w "$folder/$3" --references "$DATA/$2/captions.csv" --split dev \
        --metrics BLEU-4,METEOR,ROUGE-L,CIDEr --bootstrap 1 --format json > "$folder/$3.json"
    echo "$3, photos of $2"
    python "$here/table.py" "$folder/$3.json" | tee "$folder/$3.md"
}
