"""A trained captioner with its frozen models: a photo in, a caption out (equations 3 to 6)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import console
from .artifacts.foreign import open_artifact
from .artifacts.reading import Artifact, Values
from .artifacts.records import (
    Caption,
    as_confidence,
    errors_of,
    named_objects,
    pack_objects,
    path_text,
    support_set,
)
from .artifacts.writing import copy_with_group
from .errors import ConflictError, DamagedError, MissingError, SynticError
from .models.identity import identity, is_folder, same_model
from .passes import READERS, Mapper, Waits, compute_rows, cut_batches, read_ahead
from .photos import preparing, read_photo
from .presets import SHIPPED, SHIPPED_PRESET, load_preset, resolve
from .settings import CLIPRE, DECODER, CaptionSettings, DetectSettings, EncodeSettings
from .wording import KEPT_AT, SIGNALS, Texts, Wording, Written

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from .baselines import Baseline
    from .method.calibration import Calibration
    from .method.consensus import Consensus
    from .method.decoder import Decoder
    from .method.repetition import Repetition
    from .method.retrieval import Retriever
    from .models.clip import Clip
    from .models.detector import Detector, Objects

# Activations of few photos stay in a processor's cache; the decoder gains from the whole batch.
IMAGES_A_PASS = {"cpu": 4}


# A feature of the same text by the same model differs by rounding alone.
SAME_FEATURE = 0.99
PROBED_TEXTS = 8
NOT_FINITE = "the models' numbers for it are not finite; is --temperature or --dtype to blame?"
CALIBRATION = "calibration"
CONSENSUS = "consensus"
READ_OUT = "read_out"


@dataclass(frozen=True)
class _Photo:
    """A photo as the two image models take it."""

    pixels: Tensor
    detector_pixels: Tensor | None
    note: str


@dataclass(frozen=True)
class _Described:
    caption: str
    log_probability: float
    objects: Objects
    note: str
    signals: np.ndarray | None = None


class Captioner:
    """A trained captioner with the frozen models it needs; made by `Captioner.load`."""

    def __init__(
        self,
        clip: Clip,
        detector: Detector | None,
        decoder: Decoder,
        wording: Wording,
        *,
        support: Tensor | None,
        temperature: float,
        names: Tensor,
        vocabulary: list[str],
        mirror: bool,
        object_tags: bool,
        retriever: Retriever | None,
        baseline: Baseline | None,
        calibration: Calibration | None,
    ) -> None:
        from .models.loading import FittingBatch

        self._clip, self._detector, self._decoder = clip, detector, decoder
        self._wording = wording
        self._support, self._temperature = support, temperature
        self._names, self.vocabulary, self._mirror = names, vocabulary, mirror
        self._object_tags, self._retriever = object_tags, retriever
        self._baseline = baseline
        self._calibration, self._with_signals = calibration, calibration is not None
        self._fitting = FittingBatch(console.warn)

    @staticmethod
    def load(
        path: str | Path | None = None,
        *,
        settings: CaptionSettings | None = None,
        support: str | Path | None = None,
        clip: str | None = None,
        detector: str | None = None,
        objects: DetectSettings | None = None,
        device: str = "auto",
        dtype: str = "auto",
        openvino: bool = True,
    ) -> Captioner:
        """Load a captioner and the frozen models that it names.

        Args:
            path: `captioner.h5`; without it, the captioner that ships with syntic.
            settings: beam, lengths and temperature; without them, those of the preset `tiny` for
                the shipped captioner, else the defaults.
            support: a features file whose text features replace the support set.
            clip, detector: other places of the frozen models than those it was trained with.
            objects: a detector of objects to be shown, for a captioner that uses none.
            device, dtype: where the models run, and in what.
            openvino: let OpenVINO run the frozen models on a processor, where it is installed.

        Raises:
            MissingError: where a file or a model is not there.
            DamagedError: where a file cannot be read.
            ConflictError: where a model is not the one that the captioner was trained with.
        """
        if settings is None:
            settings = resolve(CaptionSettings, load_preset(SHIPPED_PRESET) if path is None else {})
        with Artifact(path or SHIPPED, "train") as artifact:
            return Captioner.from_artifact(
                artifact,
                settings=settings,
                support=support,
                clip=clip,
                detector=detector,
                objects=objects,
                device=device,
                dtype=dtype,
                openvino=openvino,
            )

    @staticmethod
    def from_artifact(
        artifact: Artifact,
        *,
        settings: CaptionSettings,
        support: str | Path | None = None,
        clip: str | None = None,
        detector: str | None = None,
        objects: DetectSettings | None = None,
        device: str = "auto",
        dtype: str = "auto",
        openvino: bool = True,
    ) -> Captioner:
        """Load the captioner that is in an open artifact of `train`; see `load`."""
        import torch

        from .baselines import load_baseline
        from .models.clip import load_clip
        from .models.detector import load_detector
        from .models.loading import find_device, find_dtype
        from .tokenizer import from_bytes

        where = find_device(device)
        kind = find_dtype(dtype, where)
        decoder = _load_decoder(artifact).to(where).eval().requires_grad_(False)
        chosen = _clip_settings(artifact, clip)
        dual_encoder = load_clip(chosen, where, kind, with_openvino=openvino)
        _refuse_other_features(artifact, dual_encoder)
        speaks = settings.decoding == DECODER
        # A decoder may attend to retrieved texts alone.
        tags = speaks and decoder.config.objects and artifact.recipe.settings.get("objects", True)
        detect = _detector_settings(artifact, detector) if tags else objects
        finder = load_detector(detect, where, kind, with_openvino=openvino) if detect else None
        vocabulary = artifact.texts("vocabulary")
        if tags and finder is not None and finder.vocabulary != vocabulary:
            raise ConflictError(
                f"{artifact.path}: was trained with another vocabulary than that of "
                f"{detect.model if detect else ''}; give --detector the right one"
            )
        names = [torch.from_numpy(artifact.numbers("vocabulary_features")).float().to(where)]
        keys = retriever = None
        texts: Sequence[str] = []
        retrieves = speaks and "words" in artifact
        chooses = settings.decoding == CLIPRE
        projects = artifact.attribute("projection", bool)
        agrees = speaks and settings.consensus > 0
        if agrees and not (projects or retrieves):
            raise SynticError(
                f"--consensus {settings.consensus}: {artifact.path} keeps no support set, in whose "
                "texts a consensus could be sought; give --consensus 0"
            )
        if retrieves or chooses or (speaks and projects):
            counts = agrees and (support is not None or not artifact.group(CONSENSUS))
            said, texts = _support(artifact, support, with_texts=retrieves or chooses or counts)
            keys = torch.from_numpy(said).float().to(where)
        if keys is not None and retrieves:
            retriever = _retriever(artifact, keys, texts)
            words = torch.from_numpy(artifact.numbers("word_features")).float().to(where)
            names += [words, retriever.support]
        tokenizer = from_bytes(artifact.numbers("tokenizer"))
        temperature = artifact.attribute("projection_temperature", float)
        agreeing = None
        if agrees and keys is not None:
            consensus = _load_consensus(artifact, texts, tokenizer, where)
            fits = support is None and settings.repetition == KEPT_AT
            read_out = _load_read_out(artifact, where) if fits else None
            agreeing = Texts(keys, consensus, temperature, read_out)
        wording = Wording(
            decoder,
            tokenizer,
            dual_encoder,
            settings,
            repetition=_load_repetition(artifact, settings.repetition, where),
            texts=agreeing,
        )
        return Captioner(
            dual_encoder,
            finder,
            decoder,
            wording,
            support=keys if projects else None,
            temperature=settings.temperature or temperature,
            names=torch.cat(names),
            vocabulary=finder.vocabulary if finder else vocabulary,
            mirror=settings.mirror,
            object_tags=bool(tags),
            retriever=retriever,
            baseline=load_baseline(settings, dual_encoder, keys, texts),
            calibration=_load_calibration(artifact),
        )

    @property
    def device(self) -> torch.device:
        return self._clip.device

    @property
    def dtype(self) -> torch.dtype:
        return self._clip.dtype

    @property
    def runtime(self) -> str:
        """What runs the dual encoder: torch, or OpenVINO."""
        return self._clip.runtime

    @property
    def signals(self) -> tuple[str, ...]:
        """The names of what a calibration can go by."""
        return self._wording.signals

    def caption(self, photos: Sequence[str | Path], *, batch_size: int = 32) -> list[Caption]:
        """Caption photos, in their order.

        Args:
            photos: paths of image files; one that cannot be read gets an `error`.
            batch_size: photos computed at a time; does not change the result.
        """
        return [
            self._as_caption(path_text(photo), result)
            for photo, result in zip(photos, self._describe_all(photos, batch_size), strict=True)
        ]

    def caption_with_signals(
        self, photos: Sequence[str | Path], *, batch_size: int = 32
    ) -> tuple[list[Caption], np.ndarray]:
        """Caption photos, and give what a calibration goes by.

        Args:
            photos, batch_size: as for `caption`.

        Returns:
            The captions; the `signals` of each, (N, S), not a number for a photo that failed.
        """
        before, self._with_signals = self._with_signals, True
        try:
            results = list(self._describe_all(photos, batch_size))
        finally:
            self._with_signals = before
        unknown = np.full(len(self.signals), np.nan)
        signals = [getattr(result, "signals", unknown) for result in results]
        captions = [
            self._as_caption(path_text(photo), result)
            for photo, result in zip(photos, results, strict=True)
        ]
        return captions, np.array(signals).reshape(-1, len(self.signals))

    def _describe_all(
        self, photos: Sequence[str | Path], batch_size: int
    ) -> Iterator[_Described | SynticError]:
        from concurrent.futures import ThreadPoolExecutor

        mapper = self.mapper(photos, [""] * len(photos))
        batches = list(cut_batches([(0, len(photos))], batch_size, max(1, len(photos))))
        with ThreadPoolExecutor(READERS) as readers:
            for _, _, items in read_ahead(batches, mapper.read, readers, Waits()):
                yield from compute_rows(mapper.compute, items)

    def mapper(
        self, photos: Sequence[str | Path], states: Sequence[str]
    ) -> Mapper[_Photo, _Described]:
        """Captioning as a pass over rows: read and prepare, describe, pack for the artifact.

        Args:
            photos: paths of image files.
            states: what is stored of each, to know a photo again.
        """

        def pack(first: int, results: Sequence[Any]) -> Mapping[str, Values]:
            good = [None if isinstance(result, SynticError) else result for result in results]
            return {
                "path": [path_text(photo) for photo in photos[first : first + len(results)]],
                "caption": [result.caption if result else "" for result in good],
                "log_probability": np.array(
                    [result.log_probability if result else np.nan for result in good], np.float32
                ),
                "error": errors_of(results),
                "confidence": np.array(list(map(self._confidence, good)), np.float32),
                "note": [result.note if result else "" for result in good],
                "state": list(states[first : first + len(results)]),
                **pack_objects([r if isinstance(r, SynticError) else r.objects for r in results]),
            }

        return Mapper(lambda row: self._read(photos[row]), self._describe, pack)

    def _read(self, photo: str | Path) -> _Photo:
        sizes = [self._clip.image_size, self._detector.image_size if self._detector else 0]
        # Where the detector does not say how large it looks, the photo is decoded in full.
        read = read_photo(photo, at_least=None if None in sizes else max(map(int, sizes)))  # type: ignore[arg-type]
        with preparing(photo):
            return _Photo(
                self._clip.preprocess(read.image),
                self._detector.preprocess(read.image) if self._detector else None,
                read.note,
            )

    def _describe(self, photos: Sequence[_Photo]) -> list[_Described | SynticError]:
        parts = self._fitting.run(lambda a, b: self._describe_batch(photos[a:b]), len(photos))
        return [described for part in parts for described in part]

    def _describe_batch(self, photos: Sequence[_Photo]) -> list[_Described | SynticError]:
        import torch

        from .models.detector import NO_OBJECTS
        from .transfer import stack_on

        device = self._names.device
        features, objects = [], []
        size = IMAGES_A_PASS.get(device.type, len(photos))
        for group in (photos[first : first + size] for first in range(0, len(photos), size)):
            pixels = stack_on([photo.pixels for photo in group], device)
            features.append(self._features(pixels))
            objects += (
                self._detector.detect([photo.detector_pixels for photo in group])  # type: ignore[misc]
                if self._detector
                else [NO_OBJECTS] * len(group)
            )
        images = torch.cat(features).to(device)
        if self._baseline is not None:
            written = Written(*self._baseline(images), None)
        else:
            written = self._write(images, objects, with_signals=self._with_signals)
        notes = [photo.note for photo in photos]
        signals = [None] * len(photos) if written.signals is None else list(written.signals)
        rows = (written.captions, written.log_probabilities, objects, notes, signals)
        described = [_Described(*row) for row in zip(*rows, strict=True)]
        if self._baseline is not None:
            return [*described]
        return [
            one if np.isfinite(one.log_probability) else SynticError(NOT_FINITE)
            for one in described
        ]

    def _write(self, images: Tensor, objects: Sequence[Objects], *, with_signals: bool) -> Written:
        """The captions of features, (N, d), and objects  (SynTIC, equations 3 to 6)."""
        import torch

        from .method.projection import project

        projected = images
        if self._support is not None:
            projected = project(images, self._support, self._temperature)
        with torch.no_grad():
            tags, present = self._tags(objects, images)

            def embed(features: Tensor) -> Tensor:
                each = [
                    one.repeat_interleave(features.shape[1], dim=0)
                    for one in (images, tags, present)
                ]
                return self._decoder.embed_prefix(features.flatten(0, 1), *each)

            return self._wording.write(projected, embed, images, with_signals=with_signals)

    def _features(self, pixels: Tensor) -> Tensor:
        """v, (N, d); with `mirror`, the direction between a photo's and its mirror image's."""
        import torch.nn.functional as F

        features = self._clip.encode_images(pixels)
        if self._mirror:
            features = F.normalize(features + self._clip.encode_images(pixels.flip(-1)), dim=-1)
        return features

    def _tags(self, objects: Sequence[Objects], images: Tensor) -> tuple[Tensor, Tensor]:
        """T, (N, K, d) with K ≥ 1, and which tags are there, (N, K)."""
        import torch

        from .transfer import to_device

        tags = [row.labels if self._object_tags else row.labels[:0] for row in objects]
        if self._retriever is not None:
            first = len(self._names) - self._retriever.tag_count
            labels, offsets = self._retriever.tags(images)
            retrieved = np.split(labels + first, offsets[1:-1])
            tags = [np.concatenate(both) for both in zip(tags, retrieved, strict=True)]
        most = max(1, *(len(row) for row in tags))
        table = np.zeros((len(tags), most), np.int64)
        present = np.zeros((len(tags), most), bool)
        for row, own in enumerate(tags):
            table[row, : len(own)] = own
            present[row, : len(own)] = True
        device = self._names.device
        there = to_device(torch.from_numpy(present), device)
        if not len(self._names):
            none = torch.zeros(*table.shape, self._decoder.config.features, device=device)
            return none, there
        return self._names[to_device(torch.from_numpy(table), device)], there

    def _confidence(self, result: _Described | None) -> float:
        """How likely the caption's main noun is right; not a number where that is not known."""
        if result is None or result.signals is None or self._calibration is None:
            return float("nan")
        if not set(self._calibration.signals) <= set(self.signals):
            return float("nan")
        columns = [self.signals.index(name) for name in self._calibration.signals]
        return float(self._calibration.confidence(result.signals[None, columns])[0])

    def _as_caption(self, path: str, result: _Described | SynticError) -> Caption:
        if isinstance(result, SynticError):
            return Caption(path, "", float("nan"), [], str(result))
        found = result.objects
        objects = named_objects(found.labels, found.scores, found.boxes, self.vocabulary)
        sure = as_confidence(self._confidence(result))
        return Caption(path, result.caption, result.log_probability, objects, "", result.note, sure)


def _clip_settings(artifact: Artifact, clip: str | None) -> EncodeSettings:
    """The dual encoder that a captioner names, in the place where it is now.

    Raises:
        MissingError: where neither names one, as with features made by others.
        ConflictError: where the model in that place is another one.
    """
    values = dict(artifact.recipe.models.get("clip", {}))
    if not values and clip is None:
        raise MissingError(
            f"{artifact.path}: was trained on features of a model that nothing names; give --clip "
            "MODEL"
        )
    trained_with = values.pop("identity", "")
    settings = EncodeSettings(**values) if clip is None else EncodeSettings(clip)
    here = identity(settings.model, settings.revision, settings.pretrained)
    # Of a model that has but a name `_refuse_other_features` finds out whether it is another one.
    if clip is None or (is_folder(here) and is_folder(trained_with)):
        _refuse_another(artifact.path, "--clip", trained_with, here)
    return settings


def _detector_settings(artifact: Artifact, detector: str | None) -> DetectSettings:
    """The detector that a captioner names, in the place where it is now.

    Raises:
        ConflictError: where the model in that place is another one.
    """
    values = dict(artifact.recipe.models["detector"])
    trained_with = values.pop("identity")
    settings = DetectSettings(**values)
    if detector is not None:
        settings = DetectSettings(detector, None, settings.threshold, settings.max_objects)
    here = identity(settings.model, settings.revision)
    # One that has but a name is known by its vocabulary.
    if detector is None or (is_folder(here) and is_folder(trained_with)):
        _refuse_another(artifact.path, "--detector", trained_with, here)
    return settings


def _refuse_another(path: Path, option: str, trained_with: str, here: str) -> None:
    if not same_model(here, trained_with):
        raise ConflictError(
            f"{path}: was trained with {trained_with}, but here is {here}; "
            f"train it again, or give {option} with the right one"
        )


def _refuse_other_features(artifact: Artifact, clip: Clip) -> None:
    """Refuse a dual encoder that gives a text another feature than the captioner has stored."""
    names, kept = "vocabulary", "vocabulary_features"
    if not artifact.shape(kept)[0] and artifact.shape("support")[0]:
        names, kept = "support_captions", "support"
    texts = [text for text in artifact.texts(names, 0, PROBED_TEXTS) if text]
    stored = artifact.numbers(kept, 0, len(texts))
    features = clip.encode_texts(texts or [""]).numpy()
    same = features.shape[1] == _decoder_config(artifact).get("features")
    if texts and same:
        same = bool(((features * stored).sum(axis=1) > SAME_FEATURE).all())
    if not same:
        raise ConflictError(
            f"{artifact.path}: the dual encoder gives texts other features than the one it was "
            "trained with; give --clip the right one"
        )


def _decoder_config(artifact: Artifact) -> dict[str, Any]:
    return artifact.attribute("decoder_config", lambda text: dict(json.loads(text)))


def _load_decoder(artifact: Artifact) -> Decoder:
    import torch

    from .method.decoder import Decoder, DecoderConfig

    try:
        decoder = Decoder(DecoderConfig(**_decoder_config(artifact)))
    except (TypeError, ValueError, RuntimeError) as error:
        raise DamagedError(
            f"{artifact.path}: its decoder has a setting that this syntic does not know ({error}); "
            "upgrade syntic"
        ) from error
    parameters = artifact.group("decoder").items()
    try:
        decoder.load_state_dict({n: torch.from_numpy(v).float() for n, v in parameters})
    except RuntimeError as error:
        raise DamagedError(f"{artifact.path}: its decoder is damaged; train it again") from error
    return decoder


def _load_repetition(artifact: Artifact, weight: float, device: torch.device) -> Repetition | None:
    """What a repeated word costs, by what was learnt in training; older captioners know nothing."""
    import torch

    from .method.repetition import make_repetition

    learnt = artifact.group("repetition")
    if not weight or not learnt:
        return None
    family, share = (torch.from_numpy(learnt[name]).to(device) for name in ("family", "share"))
    return make_repetition(family.long(), share, weight)


def _load_consensus(
    artifact: Artifact, texts: Sequence[str], tokenizer: Any, device: torch.device
) -> Consensus:
    """The n-grams of the support set: those of its texts where these are given, else the stored.

    Raises:
        MissingError: where there are neither.
    """
    import torch

    from .method.consensus import Consensus, learn_consensus
    from .tokenizer import encode_captions

    if any(texts):
        most = int(_decoder_config(artifact)["max_length"])
        learnt = learn_consensus(*encode_captions(tokenizer, texts, most)[:2])
        counted = {name: value.numpy() for name, value in vars(learnt).items()}
    else:
        counted = artifact.group(CONSENSUS)
    if not counted:
        raise MissingError(
            f"{artifact.path}: keeps no texts of a support set, in which a consensus could be "
            "sought; give --support features.h5, or --consensus 0"
        )
    return Consensus(**{n: torch.from_numpy(value).to(device) for n, value in counted.items()})


def _load_read_out(artifact: Artifact, device: torch.device) -> Tensor | None:
    """What the decoder makes of the features of the support set, where it has been kept."""
    import torch

    kept = artifact.group(READ_OUT)
    return torch.from_numpy(kept["tokens"].astype(np.int32)).to(device) if kept else None


def _load_calibration(artifact: Artifact) -> Calibration | None:
    """How sure the captioner is, where it has been calibrated.

    Raises:
        DamagedError: where it goes by what this syntic does not know.
    """
    from .method.calibration import Calibration

    learnt = artifact.group(CALIBRATION)
    if not learnt:
        return None
    signals = tuple(name for name in SIGNALS if name in learnt)
    if set(learnt) != {*signals, "bias"} or any(value.ndim for value in learnt.values()):
        raise DamagedError(
            f"{artifact.path}: its calibration goes by what this syntic does not know "
            f"({', '.join(sorted(learnt))}); upgrade syntic, or calibrate it again"
        )
    weights = np.array([float(learnt[name]) for name in signals])
    return Calibration(signals, weights, float(learnt["bias"]))


def write_calibrated(source: str | Path, calibration: Calibration, target: str | Path) -> None:
    """Write a copy of a captioner that has a calibration, in the place of its own if it had one.

    Args:
        source: `captioner.h5`.
        calibration: of `SIGNALS`.
        target: where the copy is written; may be the source.

    Raises:
        SynticError: where the source is no captioner, or the copy cannot be written.
    """
    values = dict(zip(calibration.signals, map(float, calibration.weights), strict=True))
    values["bias"] = calibration.bias
    with Artifact(source, "train") as artifact:
        recipe = artifact.recipe
    copy_with_group(Path(source), recipe, Path(target), CALIBRATION, values)


def _support(
    artifact: Artifact, path: str | Path | None, *, with_texts: bool
) -> tuple[np.ndarray, list[str]]:
    """The captioner's support set, or that of another features file: features, and captions
    where they are looked at."""
    if path is None:
        captions = artifact.texts("support_captions") if with_texts else []
        return artifact.numbers("support"), captions
    with open_artifact(path, "encode", "optimize", "select") as other:
        mine, theirs = (
            one.recipe.models.get("clip", {}).get("identity", "") for one in (artifact, other)
        )
        if not (mine and theirs and same_model(theirs, mine)):
            raise ConflictError(
                f"{path}: its features are of {theirs or 'a model that nothing names'}, those of "
                f"{artifact.path} of {mine or 'a model that nothing names'}"
            )
        return support_set(other)


def _retriever(artifact: Artifact, support: Tensor, captions: Sequence[str]) -> Retriever:
    """What gives a photo its tags as training gave them to the images."""
    from .method.retrieval import Retriever, first_of_each, index_words

    settings = artifact.recipe.settings
    different = first_of_each(captions)
    words = index_words([captions[row] for row in different]).rename(artifact.texts("words"))
    return Retriever(support[different], words, settings["retrieve"], settings["retrieve_words"])
