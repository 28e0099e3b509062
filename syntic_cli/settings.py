"""Settings: a typed dataclass a stage. A field carries its help, its range and its option.

Presets (TOML), the command line and Python fill the same classes, which check themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from types import UnionType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from .errors import SynticError

# Panels of the help texts.
COMMON, MODEL, METHOD = "Common options", "Models and inputs", "Method"
RAY = "More than one device"


@dataclass(frozen=True)
class Range:
    """Which values a number may have, as a test and in words."""

    holds: Callable[[Any], bool]
    says: str


def up_to(most: int, least: int = 1) -> Range:
    """A number of things, of which more would only fill the memory or be a slip of the hand."""
    return Range(
        lambda value: least <= value <= most, f"must be at least {least} and at most {most:,}"
    )


# Of what costs no memory but time, or is cut to what there is.
COUNT = up_to(1_000_000_000)
# What a device computes at a time; each item is at least a row of a batch by batch matrix.
BATCH = up_to(65_536)
# The weights of a decoder, with their gradients and Adam's two moments, take 16 bytes each.
MOST_WEIGHTS = 2_000_000_000
POSITIVE = Range(lambda value: 0 < value < inf, "must be a number above 0")
# The cosines over it must stay numbers in float32, and differ.
TEMPERATURE = Range(
    lambda value: 1e-6 <= value <= 1e6, "must be a number of at least 0.000001 and at most 1000000"
)
SECONDS = Range(lambda value: 0 < value <= 86_400, "must be above 0 and at most 86,400 (a day)")
NOT_NEGATIVE = Range(lambda value: 0 <= value < inf, "must be a number of 0 or more")
SHARE = Range(lambda value: 0 <= value < 1, "must be at least 0 and below 1")
PART = Range(lambda value: 0 < value <= 1, "must be above 0 and at most 1")
PIXELS = Range(
    lambda value: 16 <= value <= 4096 and value % 8 == 0,
    "must be a multiple of 8, from 16 to 4,096",
)
QUALITY = Range(lambda value: 1 <= value <= 100, "must be from 1 to 100")
ENGINE = Range(lambda value: value in ("local", "ray"), "must be local or ray")
DECODER, CLIPRE, MAGIC, ZEROCAP = "decoder", "clipre", "magic", "zerocap"
DECODING = Range(
    lambda value: value in (DECODER, CLIPRE, MAGIC, ZEROCAP),
    "must be decoder, clipre, magic or zerocap",
)
# Ray lends shares of a GPU, or GPUs by the number.
GPUS = Range(
    lambda value: 0 < value <= 1 or value in range(2, 1025),
    "must be a share of a GPU, such as 0.5, or a whole number",
)


@dataclass(frozen=True)
class Option:
    """How a field stands on the command line.

    names are those of the option where they are not `--` and the field's name; auto lets the word
    `auto` stand for None; envvar is the variable that gives the value where the option does not.
    """

    help: str
    range: Range | None = None
    names: tuple[str, ...] = ()
    panel: str = METHOD
    auto: bool = False
    envvar: str | None = None


@dataclass(frozen=True)
class Field:
    """A field of a settings class: its type without None, and how it is given."""

    name: str
    type: type
    optional: bool
    option: Option

    @property
    def flag(self) -> str:
        """The option as an error names it."""
        return (self.option.names or ("--" + self.name.replace("_", "-"),))[0].partition("/")[0]

    def check(self, value: Any) -> str:
        """Why the field cannot have the value; empty where it can."""
        if value is None:
            return "" if self.optional else "needs a value"
        # A bool is no int here, but an int is a float.
        if type(value) is not self.type and (self.type, type(value)) != (float, int):
            return f"not {self.type.__name__}"
        allowed = self.option.range
        return "" if allowed is None or allowed.holds(value) else allowed.says


def fields_of(kind: type[Any]) -> tuple[Field, ...]:
    """The fields of a settings class, in their order."""
    hints = get_type_hints(kind, include_extras=True)
    found = []
    for name in hints:
        annotated, option = get_args(hints[name])
        optional = get_origin(annotated) is UnionType
        plain = get_args(annotated)[0] if optional else annotated
        found.append(Field(name, plain, optional, option))
    return tuple(found)


def check(settings: Any) -> None:
    """Refuse values out of their range, wherever they come from.

    Raises:
        SynticError: naming the field's option.
    """
    for field in fields_of(type(settings)):
        if wrong := field.check(value := getattr(settings, field.name)):
            raise SynticError(f"{field.flag} {value}: {wrong}")


@dataclass(frozen=True)
class CorpusSettings:
    """Which texts of a corpus are taken, and how its file is read."""

    text_field: Annotated[
        str | None,
        Option("Field of the texts, if not caption, text, sentence or raw.", panel=MODEL),
    ] = None
    split: Annotated[str | None, Option("Split of the corpus to take.", panel=MODEL)] = None
    encoding: Annotated[str, Option("Encoding of the corpus.", panel=MODEL)] = "utf-8"
    max_words: Annotated[int | None, Option("Leave out longer texts.", COUNT, panel=MODEL)] = None
    sample: Annotated[
        float | None, Option("Share of the texts to draw, such as 0.1.", PART, panel=MODEL)
    ] = None

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class ComposeSettings:
    """Groups of texts, and who makes a scene of each: sentences that fit together, and a summary.

    writer is `extractive` (rules, no model), `model:` and a hub id or folder, or the URL of a
    server that speaks OpenAI's chat protocol. tries, concurrency and timeout are not part of what
    is made.
    """

    groups: Annotated[int | None, Option("Groups to draw; one a text if not given.", COUNT)] = None
    neighbours: Annotated[int, Option("Texts of a group, nearest to its head.", up_to(1_000))] = 30
    least: Annotated[int, Option("Least sentences of a scene.", up_to(1_000))] = 5
    most: Annotated[int, Option("Most sentences of a scene.", up_to(1_000))] = 10
    words: Annotated[int, Option("Most words of a summary.", up_to(1_000))] = 50
    writer: Annotated[
        str, Option("extractive, model:HUB_ID_OR_FOLDER, or a server's URL.", panel=MODEL)
    ] = "extractive"
    writer_model: Annotated[
        str | None, Option("Name by which the server knows its model.", panel=MODEL)
    ] = None
    writer_revision: Annotated[
        str | None, Option("Revision of the writer's hub id.", panel=MODEL)
    ] = None
    tries: Annotated[
        int, Option("How often a model is asked about a group at most.", up_to(100))
    ] = 2
    concurrency: Annotated[int, Option("Requests to a server at a time.", up_to(1_024))] = 8
    timeout: Annotated[float, Option("Seconds that a server may take.", SECONDS)] = 120.0

    def __post_init__(self) -> None:
        check(self)
        if not self.least <= self.most <= self.neighbours:
            raise SynticError(
                f"--least {self.least} --most {self.most} --neighbours {self.neighbours}: "
                "each must be at least the one before"
            )


@dataclass(frozen=True)
class SynthesizeSettings:
    """Text to image. steps, guidance and size (pixels a side) as diffusers takes them."""

    model: Annotated[str, Option("Hub id or diffusers folder.", panel=MODEL)]
    revision: Annotated[str | None, Option("Revision of the hub id.", panel=MODEL)] = None
    steps: Annotated[int, Option("Denoising steps.", up_to(1_000))] = 20
    size: Annotated[int, Option("Pixels a side.", PIXELS)] = 512
    guidance: Annotated[float, Option("Guidance scale.", NOT_NEGATIVE)] = 7.5
    safety_checker: Annotated[
        bool,
        Option("Blank and mark unsafe images.", names=("--safety-checker/--no-safety-checker",)),
    ] = False
    quality: Annotated[int, Option("JPEG quality of the stored images, 1 to 100.", QUALITY)] = 95

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class EncodeSettings:
    """A dual encoder: an open_clip name and pretrained tag, a hub id and revision, or a folder."""

    model: Annotated[str, Option("open_clip name, hub id or folder.", panel=MODEL)]
    pretrained: Annotated[
        str | None, Option("Pretrained tag of an open_clip name.", panel=MODEL)
    ] = None
    revision: Annotated[str | None, Option("Revision of the hub id.", panel=MODEL)] = None

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class SelectSettings:
    """SynC (2025): texts paired anew with the images from which they are found again."""

    images: Annotated[int, Option("Nearest images a text is compared with.", up_to(10_000))] = 15
    texts: Annotated[int, Option("Nearest texts that an image stands for.", up_to(10_000))] = 2
    keep_best: Annotated[float, Option("Share of the texts that stay.", PART)] = 0.9

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class OptimizeSettings:
    """Equations 1 and 2. batch_size is the contrastive mini-batch: it changes the result."""

    temperature: Annotated[float, Option("τ of equation 2.", TEMPERATURE)] = 0.01
    lr: Annotated[float, Option("Adam's learning rate.", POSITIVE)] = 1e-5
    epochs: Annotated[int, Option("Passes over the items.", COUNT)] = 100
    batch_size: Annotated[int, Option("The contrastive mini-batch, part of the method.", BATCH)] = (
        512
    )

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class DetectSettings:
    """Objects with at least `threshold` of confidence, the best `max_objects` of an image."""

    model: Annotated[str, Option("Hub id or transformers folder.", panel=MODEL)]
    revision: Annotated[str | None, Option("Revision of the hub id.", panel=MODEL)] = None
    threshold: Annotated[float, Option("Least score of an object, 0 to 1.", SHARE)] = 0.7
    max_objects: Annotated[int, Option("Most objects of an image.", up_to(1_000, least=0))] = 10

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class ProjectSettings:
    """Equation 3."""

    temperature: Annotated[float, Option("τ of equation 3.", TEMPERATURE)] = 0.01

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class TrainSettings:
    """Equations 5 and 6. warmup is in optimiser steps, max_length in tokens; noise is the standard
    deviation of Gaussian noise on the prefix in training, as CapDec's.

    from_texts conditions on each text's own feature in training, in the place of its image's: what
    DeCap (Li et al., ICLR 2023), CapDec (Nukrai et al., EMNLP Findings 2022: a variance of 0.016)
    and CLOSE (Gu et al., ICCV 2023: a deviation of 0.08) have in common. DeCap projects photos on
    the support set; the other two take them as they are, and add noise in training instead.
    """

    tokenizer: Annotated[str, Option("clip, or bpe:SIZE trained on the corpus.")] = "clip"
    layers: Annotated[int, Option("Transformer layers.", up_to(128))] = 4
    heads: Annotated[int, Option("Attention heads.", up_to(256))] = 4
    width: Annotated[int, Option("Width of the decoder.", up_to(16_384))] = 512
    dropout: Annotated[float, Option("Dropout.", SHARE)] = 0.1
    epochs: Annotated[int, Option("Passes over the pairs.", COUNT)] = 10
    lr: Annotated[float, Option("Peak learning rate.", POSITIVE)] = 5e-4
    batch_size: Annotated[int, Option("Captions a step, part of the method.", BATCH)] = 128
    warmup: Annotated[
        int, Option("Steps until the peak learning rate.", up_to(1_000_000_000, least=0))
    ] = 500
    weight_decay: Annotated[float, Option("AdamW's weight decay.", NOT_NEGATIVE)] = 0.01
    label_smoothing: Annotated[float, Option("Share spread over all tokens.", SHARE)] = 0.1
    max_length: Annotated[int, Option("Tokens kept of a caption.", up_to(1_024, least=2))] = 40
    noise: Annotated[float, Option("Deviation of noise on the prefix, as CapDec's.", SHARE)] = 0.0
    validation: Annotated[float, Option("Share of the pairs held out.", SHARE)] = 0.02
    weigh: Annotated[
        float,
        Option(
            "W: a caption counts min(1, W · its cosine with its image), as PCM-Net (ECCV 2024); "
            "0: all alike.",
            NOT_NEGATIVE,
        ),
    ] = 0.0
    retrieve: Annotated[
        int,
        Option(
            "Attend to so many nearest texts of the support set, as IFCap (EMNLP 2024); 0: none.",
            up_to(1_000, least=0),
        ),
    ] = 0
    retrieve_words: Annotated[
        int, Option("A word that so many of them share becomes a tag.", up_to(1_000))
    ] = 3
    from_texts: Annotated[
        bool,
        Option(
            "Train on the texts' own features: DeCap (ICLR 2023), whose photos alone are projected;"
            " with --no-projection and --noise 0.126 CapDec, with 0.08 CLOSE.",
            names=("--from-texts/--from-images",),
        ),
    ] = False
    objects: Annotated[
        bool, Option("Attend to object names.", names=("--with-objects/--no-objects",))
    ] = True
    projection: Annotated[
        bool,
        Option("Condition on projected features.", names=("--with-projection/--no-projection",)),
    ] = True

    def __post_init__(self) -> None:
        check(self)
        if self.width % self.heads:
            raise SynticError(
                f"--width {self.width} --heads {self.heads}: "
                "the width must be a multiple of the heads"
            )
        weights = 12 * self.layers * self.width**2
        if weights > MOST_WEIGHTS:
            raise SynticError(
                f"--layers {self.layers} --width {self.width}: a decoder of some "
                f"{weights / 1e9:.0f} billion weights, of at most {MOST_WEIGHTS // 10**9}; "
                "give fewer"
            )


@dataclass(frozen=True)
class CaptionSettings:
    """Decoding. max_length is in tokens; temperature is equation 3's (the captioner's if None).

    rerank is the weight of the dual encoder's cosine between photo and caption, beside the
    log-probability a token, where the beam's captions are ranked; 0 is the paper's method.
    repetition is the weight of what a caption pays for a word that it has already: the logarithm
    of how often the training texts repeat theirs; 0 is the paper's method.
    consensus is how many of the support set's nearest texts are asked: of the beam's captions, and
    of what the decoder makes of the very nearest texts, the one is taken that agrees best with them
    (Devlin et al., 2015), by CIDEr and with equation 3's weights; 0 is the paper's method.
    evidence is the weight there of how many of these texts have a caption's words. shorten lets a
    caption end earlier, as texts do, where agreement and evidence are then better by so much, which
    they cannot be by 20.
    mirror averages a photo's feature with that of its mirror image.

    decoding lets others speak in the place of the trained decoder, for comparison; of the captioner
    they take the dual encoder, clipre the support set, too. magic and zerocap need a language_model
    that has learnt to write: their papers' figures are those of a GPT-2 trained on captions
    (magic) and of GPT-2 medium (zerocap).
    """

    beam: Annotated[int, Option("Width of the beam; 1 is greedy.", up_to(100))] = 3
    max_length: Annotated[int, Option("Most tokens of a caption.", up_to(1_024))] = 30
    length_penalty: Annotated[
        float, Option("0 ranks by log-probability, 1 by its mean a token.", NOT_NEGATIVE)
    ] = 1.0
    rerank: Annotated[
        float,
        Option("Weight of the dual encoder's cosine in choosing from the beam.", NOT_NEGATIVE),
    ] = 0.0
    repetition: Annotated[
        float, Option("Weight of the charge for a word that is there already.", NOT_NEGATIVE)
    ] = 0.0
    consensus: Annotated[
        int,
        Option(
            "Take the caption that agrees best with so many nearest texts; 0: the likeliest.",
            up_to(10_000, least=0),
        ),
    ] = 0
    evidence: Annotated[
        float,
        Option(
            "With --consensus, weight of how many of these texts have the caption's words.",
            NOT_NEGATIVE,
        ),
    ] = 0.0
    shorten: Annotated[
        float | None,
        Option(
            "With --consensus, end a caption earlier where that is better by so much; 20: never.",
            NOT_NEGATIVE,
        ),
    ] = None
    mirror: Annotated[
        bool, Option("Look at each photo mirrored, too.", names=("--mirror/--no-mirror",))
    ] = False
    temperature: Annotated[
        float | None, Option("τ of equation 3, if not the captioner's.", TEMPERATURE)
    ] = None
    decoding: Annotated[
        str,
        Option(
            "decoder; or, for comparison, clipre (the nearest text of the support set), magic (Su "
            "et al., 2022) or zerocap (Tewel et al., CVPR 2022), which steer a --language-model.",
            DECODING,
        ),
    ] = DECODER
    language_model: Annotated[
        str | None,
        Option("Hub id or folder of a causal language model, for magic and zerocap.", panel=MODEL),
    ] = None
    language_revision: Annotated[
        str | None, Option("Revision of the language model's hub id.", panel=MODEL)
    ] = None

    def __post_init__(self) -> None:
        check(self)
        if self.decoding in (MAGIC, ZEROCAP) and not self.language_model:
            raise SynticError(
                f"--decoding {self.decoding}: needs a --language-model, a hub id or folder such as "
                "openai-community/gpt2"
            )


@dataclass(frozen=True)
class Run:
    """How a stage runs.

    Of these only dtype changes what is computed, and only by rounding: it is part of the artifact's
    recipe where it is chosen, and recorded where it is not. device, openvino and batch_size (None:
    the stage chooses) change the last bits at most. shard_size is in items. preset is what a
    workspace that follows none yet is to follow; None leaves it alone. On Ray, ray_address None
    starts a cluster on this machine alone, and workers None takes one a GPU, or one a core where
    there is none.
    """

    device: Annotated[str, Option("auto, cpu, cuda, cuda:N or mps.", panel=COMMON)] = "auto"
    dtype: Annotated[str, Option("auto, float32, bfloat16 or float16.", panel=COMMON)] = "auto"
    batch_size: Annotated[
        int | None,
        Option(
            "Items computed at a time, or auto; not part of the result.",
            BATCH,
            panel=COMMON,
            auto=True,
        ),
    ] = None
    openvino: Annotated[
        bool,
        Option(
            "Let OpenVINO run the models on a processor, where it is installed.",
            names=("--openvino/--no-openvino",),
            panel=COMMON,
        ),
    ] = True
    shard_size: Annotated[
        int, Option("Items committed at a time.", up_to(1_000_000), panel=COMMON)
    ] = 256
    force: Annotated[bool, Option("Make the artifact again.", panel=COMMON)] = False
    retry_failed: Annotated[bool, Option("Run only the rows that failed.", panel=COMMON)] = False
    quiet: Annotated[
        bool,
        Option("Print results, warnings and errors only.", names=("--quiet", "-q"), panel=COMMON),
    ] = False
    keep: Annotated[
        int,
        Option("Earlier results of other input to keep.", up_to(1_000_000, least=0), panel=COMMON),
    ] = 5
    preset: Annotated[str | None, Option("The preset to remember.", panel=COMMON)] = None
    engine: Annotated[str, Option("local, or ray for more than one device.", ENGINE, panel=RAY)] = (
        "local"
    )
    ray_address: Annotated[
        str | None,
        Option(
            "HOST:PORT of a Ray cluster, or auto; without it Ray starts here.",
            panel=RAY,
            envvar="RAY_ADDRESS",
        ),
    ] = None
    workers: Annotated[
        int | None,
        Option("Workers on Ray; by default one a GPU, else one a core.", up_to(4_096), panel=RAY),
    ] = None
    gpus_per_worker: Annotated[float, Option("GPUs of a worker, or a share.", GPUS, panel=RAY)] = (
        1.0
    )

    def __post_init__(self) -> None:
        check(self)
        if self.engine == "ray":
            self._check_ray()

    def _check_ray(self) -> None:
        if self.device.startswith("cuda:"):
            raise SynticError(
                f"--device {self.device}: on Ray each worker is given a GPU; give --device cuda"
            )
        if "://" in (self.ray_address or ""):
            raise SynticError(
                f"--ray-address {self.ray_address}: Ray's client is not supported; give the "
                "HOST:PORT of the cluster's head, on a machine of the cluster"
            )

    def chosen_dtype(self) -> dict[str, str]:
        """The dtype as a setting: it changes the result, so it counts where it was chosen."""
        return {} if self.dtype == "auto" else {"dtype": self.dtype}
