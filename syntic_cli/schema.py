"""The one table of stages: what each is called, the file it writes, that file's columns, and its
settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from .settings import (
    CaptionSettings,
    ComposeSettings,
    DetectSettings,
    EncodeSettings,
    OptimizeSettings,
    ProjectSettings,
    SelectSettings,
    SynthesizeSettings,
    TrainSettings,
)

# Schema 1: row i of every dataset is text i. From schema 2 on a text names its image.
SCHEMA = 2
Kind = Literal["text", "bytes", "number"]


@dataclass(frozen=True)
class Column:
    """One dataset of an artifact: what its rows hold and along which axis they run.

    axis is "item" (row i is image or photo i), "text" (row i is text i of the corpus), "object"
    (objects of all items, one after the other, cut by `offsets`) or a free name for a dataset with
    a length of its own. ndim is 2 where a row is a vector. Artifacts of earlier versions may lack
    an optional column, those of a schema before `since` this one; what stood for it is `before`.
    Numbers of a whole column are integers or truth values.
    """

    kind: Kind
    axis: str = "item"
    ndim: int = 1
    optional: bool = False
    since: int = 1
    before: str = ""
    whole: bool = False


@dataclass(frozen=True)
class Stage:
    """A row of the table; settings is None for a stage that a preset has nothing to say of."""

    name: str
    file: str
    columns: Mapping[str, Column]
    settings: type | None


TEXT, BYTES = Column("text"), Column("bytes")
NUMBER, WHOLE = Column("number"), Column("number", whole=True)
VECTOR = Column("number", ndim=2)
OBJECTS = {
    "offsets": Column("number", "offsets", whole=True),
    "label": Column("number", "object", whole=True),
    "score": Column("number", "object"),
    "box": Column("number", "object", ndim=2),
    "vocabulary": Column("text", "vocabulary"),
}
# The texts of the corpus, and the image of each, -1 for none. In schema 1 that is 0, 1, 2, ...
TEXTS = {"captions": Column("text", "text"), "image": Column("number", "text", since=2, whole=True)}
# Of each text with its image as it was encoded.
COSINE = {"cosine": Column("number", "text", optional=True)}
FEATURES = {
    **TEXTS,
    "image_features": VECTOR,
    "text_features": Column("number", "text", ndim=2),
    "valid": WHOLE,
    "error": TEXT,
}

COMPOSE = Stage(
    "compose",
    "composed.h5",
    {
        "captions": Column("text", "text"),
        "text_features": Column("number", "text", ndim=2),
        # The texts of each group, its head first; the sentences of its scene; what they say.
        "groups": Column("number", ndim=2, whole=True),
        "offsets": Column("number", "offsets", whole=True),
        "sentence": Column("number", "object", whole=True),
        "prompts": TEXT,
        "error": TEXT,
    },
    ComposeSettings,
)
SYNTHESIZE = Stage(
    "synthesize",
    "synthetic.h5",
    {
        **TEXTS,
        "prompts": Column("text", since=2, before="captions"),
        "images": BYTES,
        "seeds": WHOLE,
        "flagged": WHOLE,
        "error": TEXT,
    },
    SynthesizeSettings,
)
ENCODE = Stage("encode", "features.h5", FEATURES, EncodeSettings)
SELECT = Stage("select", "selected.h5", FEATURES, SelectSettings)
OPTIMIZE = Stage("optimize", "optimized.h5", {**FEATURES, **COSINE}, OptimizeSettings)
DETECT = Stage("detect", "objects.h5", {**OBJECTS, "error": TEXT}, DetectSettings)
PROJECT = Stage(
    "project",
    "projected.h5",
    {**TEXTS, **COSINE, "projected": VECTOR, "image_features": VECTOR, "valid": WHOLE},
    ProjectSettings,
)
TRAIN = Stage(
    "train",
    "captioner.h5",
    {
        "support": Column("number", "support", ndim=2),
        "support_captions": Column("text", "support"),
        "vocabulary": Column("text", "vocabulary"),
        "vocabulary_features": Column("number", "vocabulary", ndim=2),
        # What tags of retrieved texts can say, where the decoder attends to such.
        "words": Column("text", "word", optional=True),
        "word_features": Column("number", "word", ndim=2, optional=True),
        "tokenizer": Column("number", "tokenizer", whole=True),
    },
    TrainSettings,
)
CAPTION = Stage(
    "caption",
    "captions.h5",
    {
        "path": TEXT,
        "caption": TEXT,
        "log_probability": NUMBER,
        "error": TEXT,
        # Of a captioner that is calibrated; not a number where it is not.
        "confidence": Column("number", optional=True),
        # What a photo was like (size and time of change), to know it again.
        "state": Column("text", optional=True),
        # What a reader of the caption should know of the photo.
        "note": Column("text", optional=True),
        **OBJECTS,
    },
    CaptionSettings,
)
EVALUATE = Stage("evaluate", "scores.h5", {"path": TEXT}, None)

STAGES = {
    stage.name: stage
    for stage in (
        COMPOSE,
        SYNTHESIZE,
        ENCODE,
        SELECT,
        OPTIMIZE,
        DETECT,
        PROJECT,
        TRAIN,
        CAPTION,
        EVALUATE,
    )
}
