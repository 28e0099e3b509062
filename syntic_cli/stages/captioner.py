"""A trained captioner with its frozen models: a photo in, a caption out (equations 3 to 6)."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import console
from ..artifacts import Artifact, Values
from ..errors import SynticError
from ..photos import load_photo
from ..settings import (
    PRESETS,
    CaptionSettings,
    DetectSettings,
    EncodeSettings,
    identity,
    load_preset,
    resolve,
)
from .detect import pack_objects
from .project import support_set
from .rows import Mapper, errors_of

if TYPE_CHECKING:
    from torch import Tensor

    from ..method.decoder import Decoder
    from ..models.clip import Clip
    from ..models.detector import Detector, Objects

SHIPPED = PRESETS / "tiny" / "captioner.h5"
# Activations of few photos stay in a processor's cache; the decoder gains from the whole batch.
IMAGES_A_PASS = {"cpu": 4}


@dataclass(frozen=True)
class DetectedObject:
    """An object in a photo: its name, score in 0..1, and box x0 y0 x1 y1 in shares of the photo."""

    label: str
    score: float
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class Caption:
    """What was said of one photo; error says why nothing was, and is empty where all went well."""

    path: str
    caption: str
    log_probability: float
    objects: list[DetectedObject]
    error: str = ""


@dataclass(frozen=True)
class _Photo:
    """A photo as the two image models take it."""

    pixels: Tensor
    detector_pixels: Tensor | None


@dataclass(frozen=True)
class _Described:
    caption: str
    log_probability: float
    objects: Objects


class Captioner:
    """A trained captioner with the frozen models it needs; made by `Captioner.load`."""

    def __init__(
        self,
        clip: Clip,
        detector: Detector | None,
        decoder: Decoder,
        tokenizer: Any,
        *,
        support: Tensor | None,
        temperature: float,
        names: Tensor,
        vocabulary: list[str],
        settings: CaptionSettings,
    ) -> None:
        from ..models.loading import FittingBatch

        self._clip, self._detector, self._decoder = clip, detector, decoder
        self._tokenizer, self._support, self._temperature = tokenizer, support, temperature
        self._names, self.vocabulary, self._settings = names, vocabulary, settings
        self._fitting = FittingBatch(console.warn)

    @staticmethod
    def load(
        path: str | Path | None = None,
        *,
        settings: CaptionSettings | None = None,
        support: str | Path | None = None,
        clip: str | None = None,
        detector: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
    ) -> Captioner:
        """Load a captioner and the frozen models that it names.

        Args:
            path: `captioner.h5`; without it, the captioner that ships with syntic.
            settings: beam, lengths and temperature; without them, those of the preset `tiny` for
                the shipped captioner, else the defaults.
            support: a features file whose text features replace the support set.
            clip, detector: other places of the frozen models than those it was trained with.
            device, dtype: where the models run, and in what.

        Raises:
            SynticError: where a file or a model cannot be loaded, or does not fit the captioner.
        """
        from ..models.loading import find_device, find_dtype

        where = find_device(device)
        preset = load_preset("tiny") if path is None else {}
        with Artifact(path or SHIPPED, "train") as artifact:
            return _load(
                artifact,
                settings or resolve(CaptionSettings, preset),
                Path(support) if support else None,
                _model_settings(artifact, clip, detector),
                where,
                find_dtype(dtype, where),
            )

    @property
    def device_type(self) -> str:
        return str(self._clip.device.type)

    def caption(self, photos: Sequence[str | Path], *, batch_size: int = 32) -> list[Caption]:
        """Caption photos, in their order.

        Args:
            photos: paths of image files; one that cannot be read gets an `error`.
            batch_size: photos computed at a time; does not change the result.
        """
        from concurrent.futures import ThreadPoolExecutor

        from .rows import READERS, Waits, compute_rows, cut_batches, read_ahead

        found: list[Caption] = []
        mapper = self.mapper(photos)
        batches = list(cut_batches([(0, len(photos))], batch_size, max(1, len(photos))))
        with ThreadPoolExecutor(READERS) as readers:
            for start, _, items in read_ahead(batches, mapper.read, readers, Waits()):
                for row, result in enumerate(compute_rows(mapper.compute, items), start):
                    found.append(self._as_caption(path_text(photos[row]), result))
        return found

    def mapper(self, photos: Sequence[str | Path]) -> Mapper[_Photo, _Described]:
        """Captioning as a pass over rows: read and prepare, describe, pack for the artifact."""

        def pack(first: int, results: Sequence[Any]) -> Mapping[str, Values]:
            good = [None if isinstance(result, SynticError) else result for result in results]
            return {
                "path": [path_text(photo) for photo in photos[first : first + len(results)]],
                "caption": [result.caption if result else "" for result in good],
                "log_probability": np.array(
                    [result.log_probability if result else np.nan for result in good], np.float32
                ),
                "error": errors_of(results),
                **pack_objects([r if isinstance(r, SynticError) else r.objects for r in results]),
            }

        return Mapper(lambda row: self._read(photos[row]), self._describe, pack)

    def _read(self, photo: str | Path) -> _Photo:
        sizes = [self._clip.image_size, self._detector.image_size if self._detector else 0]
        # Where the detector does not say how large it looks, the photo is decoded in full.
        image = load_photo(photo, at_least=None if None in sizes else max(map(int, sizes)))  # type: ignore[arg-type]
        return _Photo(
            self._clip.preprocess(image),
            self._detector.preprocess(image) if self._detector else None,
        )

    def _describe(self, photos: Sequence[_Photo]) -> list[_Described]:
        parts = self._fitting.run(lambda a, b: self._describe_batch(photos[a:b]), len(photos))
        return [described for part in parts for described in part]

    def _describe_batch(self, photos: Sequence[_Photo]) -> list[_Described]:
        import torch

        from ..method.projection import project
        from ..models.detector import NO_OBJECTS
        from ..transfer import stack_on

        device = self._names.device
        features, objects = [], []
        size = IMAGES_A_PASS.get(device.type, len(photos))
        for some in (photos[first : first + size] for first in range(0, len(photos), size)):
            pixels = stack_on([photo.pixels for photo in some], device)
            features.append(self._features(pixels))
            objects += (
                self._detector.detect([photo.detector_pixels for photo in some])  # type: ignore[misc]
                if self._detector
                else [NO_OBJECTS] * len(some)
            )
        images = torch.cat(features).to(device)
        prefixes = images
        if self._support is not None:
            prefixes = project(images, self._support, self._temperature)
        with torch.no_grad():
            tags, present = self._tags(objects)
            prefix = self._decoder.embed_prefix(prefixes, images, tags, present)
        captions, log_probabilities = self._write(prefix, images)
        return [
            _Described(*described)
            for described in zip(captions, log_probabilities, objects, strict=True)
        ]

    def _features(self, pixels: Tensor) -> Tensor:
        """v, (N, d); with `mirror`, the direction between a photo's and its mirror image's."""
        import torch.nn.functional as F

        features = self._clip.encode_images(pixels)
        if self._settings.mirror:
            features = F.normalize(features + self._clip.encode_images(pixels.flip(-1)), dim=-1)
        return features

    def _write(self, prefix: Tensor, images: Tensor) -> tuple[list[str], list[float]]:
        """The best caption of each prefix, (N, P, width), and its log-probability in nats.

        With `rerank`, the cosine of a caption's text feature to the photo's, (N, d), has a say.
        """
        from ..method.search import beam_candidates
        from ..tokenizer import decode_captions, end_token

        settings = self._settings
        found = beam_candidates(
            self._decoder,
            prefix,
            end=end_token(self._tokenizer),
            beam=settings.beam,
            max_length=min(settings.max_length, self._decoder.config.max_length),
            length_penalty=settings.length_penalty,
        )
        ranks = found.ranks
        if settings.rerank and settings.beam > 1:
            texts = decode_captions(self._tokenizer, found.tokens.flatten(0, 1).cpu().numpy())
            features = self._clip.encode_texts(texts).to(images.device)
            cosines = (features.view(*ranks.shape, -1) * images[:, None]).sum(dim=-1)
            ranks = ranks + settings.rerank * cosines
        tokens, log_probabilities = found.take(ranks.argmax(dim=1))
        return decode_captions(self._tokenizer, tokens.cpu().numpy()), log_probabilities.tolist()

    def _tags(self, objects: Sequence[Objects]) -> tuple[Tensor, Tensor]:
        """T, (N, K, d) with K ≥ 1, and which tags are there, (N, K)."""
        import torch

        from ..transfer import to_device

        most = max(1, *(len(found.labels) for found in objects))
        labels = np.zeros((len(objects), most), np.int64)
        present = np.zeros((len(objects), most), bool)
        for row, found in enumerate(objects):
            labels[row, : len(found.labels)] = found.labels
            present[row, : len(found.labels)] = True
        device = self._names.device
        there = to_device(torch.from_numpy(present), device)
        if not len(self._names):
            none = torch.zeros(*labels.shape, self._decoder.config.features, device=device)
            return none, there
        return self._names[to_device(torch.from_numpy(labels), device)], there

    def _as_caption(self, path: str, result: _Described | SynticError) -> Caption:
        if isinstance(result, SynticError):
            return Caption(path, "", float("nan"), [], str(result))
        found = result.objects
        objects = named_objects(found.labels, found.scores, found.boxes, self.vocabulary)
        return Caption(path, result.caption, result.log_probability, objects)


def path_text(photo: str | Path) -> str:
    """A path as UTF-8 text; bytes of a name that are not UTF-8 are shown escaped."""
    return os.fsencode(photo).decode("utf-8", "backslashreplace")


def named_objects(
    labels: np.ndarray, scores: np.ndarray, boxes: np.ndarray, vocabulary: Sequence[str]
) -> list[DetectedObject]:
    """Objects with their names, as they are printed."""
    return [
        DetectedObject(
            vocabulary[label],
            round(float(score), 4),
            (round(x0, 4), round(y0, 4), round(x1, 4), round(y1, 4)),
        )
        for label, score, (x0, y0, x1, y1) in zip(labels, scores, boxes.tolist(), strict=True)
    ]


@dataclass(frozen=True)
class _Models:
    clip: EncodeSettings
    detector: DetectSettings | None


def _model_settings(artifact: Artifact, clip: str | None, detector: str | None) -> _Models:
    """The frozen models that a captioner names, in the places where they are now.

    Raises:
        SynticError: where a model in its place is not the one it was trained with.
    """
    named = artifact.recipe.models
    values = dict(named["clip"])
    trained_with = values.pop("identity")
    encode = EncodeSettings(**values)
    if clip is not None:
        encode = EncodeSettings(clip, encode.pretrained)
    else:
        found = identity(encode.model, encode.revision, encode.pretrained)
        _refuse_another(artifact.path, "--clip", trained_with, found)
    detect = None
    if "detector" in named and artifact.recipe.settings.get("objects", True):
        values = dict(named["detector"])
        trained_with = values.pop("identity")
        detect = DetectSettings(**values)
        if detector is not None:
            detect = DetectSettings(detector, None, detect.threshold, detect.max_objects)
        else:
            found = identity(detect.model, detect.revision)
            _refuse_another(artifact.path, "--detector", trained_with, found)
    return _Models(encode, detect)


def _refuse_another(path: Path, option: str, trained_with: str, found: str) -> None:
    if found != trained_with:
        raise SynticError(
            f"{path}: was trained with {trained_with}, but here is {found}; "
            f"train it again, or give {option} with the right one"
        )


def _load(
    artifact: Artifact,
    settings: CaptionSettings,
    support: Path | None,
    models: _Models,
    device: Any,
    dtype: Any,
) -> Captioner:
    import torch

    from ..method.decoder import Decoder, DecoderConfig
    from ..models.clip import load_clip
    from ..models.detector import load_detector
    from ..tokenizer import from_bytes

    config = DecoderConfig(**json.loads(artifact.attributes["decoder_config"]))
    decoder = Decoder(config)
    try:
        decoder.load_state_dict(
            {
                name: torch.from_numpy(value).float()
                for name, value in artifact.group("decoder").items()
            }
        )
    except RuntimeError as error:
        raise SynticError(f"{artifact.path}: its decoder is damaged; train it again") from error
    keys = None
    if artifact.attributes["projection"]:
        keys = _support_features(artifact, support)
    detector = load_detector(models.detector, device, dtype) if models.detector else None
    vocabulary = artifact.texts("vocabulary")
    if detector is not None and detector.vocabulary != vocabulary:
        raise SynticError(
            f"{artifact.path}: was trained with another vocabulary than that of "
            f"{models.detector.model if models.detector else ''}; give --detector the right one"
        )
    return Captioner(
        load_clip(models.clip, device, dtype),
        detector,
        decoder.to(device).eval().requires_grad_(False),
        from_bytes(artifact.numbers("tokenizer")),
        support=torch.from_numpy(keys).float().to(device) if keys is not None else None,
        temperature=settings.temperature or float(artifact.attributes["projection_temperature"]),
        names=torch.from_numpy(artifact.numbers("vocabulary_features")).float().to(device),
        vocabulary=vocabulary,
        settings=settings,
    )


def _support_features(artifact: Artifact, path: Path | None) -> np.ndarray:
    if path is None:
        return artifact.numbers("support")
    with Artifact(path, "encode", "optimize") as other:
        mine = artifact.recipe.models["clip"]["identity"]
        if other.recipe.models.get("clip", {}).get("identity") != mine:
            raise SynticError(f"{path}: its features are not of {mine}, the captioner's CLIP model")
        return support_set(other)[0]
