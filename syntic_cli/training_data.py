"""What `train` reads: texts with the features and tags of their images, as a decoder takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from . import console
from .artifacts.reading import Artifact, Values
from .artifacts.records import features, image_of_texts, support_set
from .errors import DamagedError, SynticError
from .method.ragged import Ragged, join, take
from .models.identity import refuse_another
from .schema import TRAIN
from .settings import EncodeSettings, Run, TrainSettings
from .tokenizer import encode_captions, end_token, make_tokenizer

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from .method.training import Pairs


@dataclass(frozen=True)
class TrainingData:
    """Valid texts with the features of the image of each, and what goes into the captioner.

    labels are rows of names, then of the words, then of the support set, where texts are retrieved.
    """

    prefixes: np.ndarray
    images: np.ndarray
    image: np.ndarray
    weights: np.ndarray | None
    tokens: np.ndarray
    token_offsets: np.ndarray
    labels: np.ndarray
    label_offsets: np.ndarray
    names: np.ndarray
    vocabulary: list[str]
    words: dict[str, Values]
    support: np.ndarray
    support_captions: list[str]
    temperature: float
    tokenizer: Any

    def on_device(self, device: torch.device) -> Pairs:
        """What the decoder is trained on."""
        import torch

        from .method.training import Pairs

        def on_host(array: np.ndarray) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array))

        def moved(array: np.ndarray, dtype: torch.dtype) -> Tensor:
            return on_host(array).to(device=device, dtype=dtype)

        names = [self.names]
        if self.words:
            names += [np.asarray(self.words["word_features"]), self.support]
        return Pairs(
            prefixes=moved(self.prefixes, torch.float32),
            images=moved(self.images, torch.float32),
            tokens=moved(self.tokens, torch.int32),
            token_offsets=on_host(self.token_offsets).long(),
            labels=moved(self.labels, torch.int32),
            label_offsets=on_host(self.label_offsets).long(),
            names=moved(np.concatenate(names), torch.float32),
            weights=None if self.weights is None else moved(self.weights, torch.float32),
            end=end_token(self.tokenizer),
        )


def read_training_data(
    inputs: Mapping[str, Artifact], settings: TrainSettings, run: Run, seed: int
) -> TrainingData:
    """Read the texts that have images.

    Args:
        inputs: open artifacts: `projected`; `objects` where the decoder attends to such; `support`
            where it is projected on, or retrieved from; `texts` where their own features stand in
            for those of images.
        settings: what the decoder is to see.
        run: where retrieving runs.
        seed: of the sample that tells which words are of content.

    Raises:
        SynticError: where too few texts have an image, or an artifact lacks what is asked for.
    """
    pairs = inputs["projected"]
    image = image_of_texts(pairs)
    valid = _enough(pairs, image, run)
    if pairs.shape("projected") != pairs.shape("image_features"):
        raise DamagedError(
            f"{pairs.path}: 'projected' is not as wide as 'image_features'; make it again with "
            "`syntic project --force`"
        )
    captions = pairs.texts("captions")
    image, captions = image[valid], [captions[row] for row in valid]
    images = features(pairs, "image_features")[image]
    prefixes = features(pairs, "projected")[image] if settings.projection else images
    if settings.from_texts:
        prefixes = images = features(inputs["texts"], "text_features")[valid]
    tokenizer = make_tokenizer(settings.tokenizer, captions)
    tokens, token_offsets, cut = encode_captions(tokenizer, captions, settings.max_length - 1)
    if cut:
        console.warn(
            f"{TRAIN.name}: {console.count(cut, 'caption')} cut at "
            f"{console.count(settings.max_length, 'token')} (--max-length)"
        )
    labels, label_offsets, vocabulary = _objects(inputs.get("objects"), image)
    support = np.zeros((0, images.shape[1]), np.float32)
    support_captions: list[str] = []
    if "support" in inputs:
        support, support_captions = support_set(inputs["support"])
    clip = pairs.recipe.models.get("clip", {})
    words: dict[str, Values] = {}
    if settings.retrieve:
        if not clip:
            raise SynticError(
                f"{pairs.path}: --retrieve needs to know the dual encoder, which nothing names; "
                "name it in the attribute `model` of the features"
            )
        content, retrieved = _retrieve(
            (support, support_captions), images, image, captions, settings, run, seed
        )
        words = {
            "words": content,
            "word_features": _name_features(clip, content, images.shape[1]),
        }
        retrieved = (retrieved[0] + len(vocabulary), retrieved[1])
        labels, label_offsets = join((labels, label_offsets), retrieved)
    return TrainingData(
        prefixes=prefixes,
        images=images,
        image=image,
        weights=_weights(pairs, valid, settings.weigh, run) if settings.weigh else None,
        tokens=tokens,
        token_offsets=token_offsets,
        labels=labels,
        label_offsets=label_offsets,
        names=_name_features(clip, vocabulary, images.shape[1]),
        vocabulary=vocabulary,
        words=words,
        support=support,
        support_captions=support_captions,
        temperature=float(pairs.recipe.settings["temperature"]),
        tokenizer=tokenizer,
    )


def _enough(pairs: Artifact, image: np.ndarray, run: Run) -> np.ndarray:
    """The texts that have an image, and a word on those whose image failed."""
    valid = np.flatnonzero(image >= 0)
    if len(valid) < 2:
        raise SynticError(
            f"{pairs.path}: {console.count(len(valid), 'valid pair')}; at least 2 are needed"
        )
    if failed := int((pairs.image()[image < 0] >= 0).sum()):
        console.note(
            f"{TRAIN.name}: {console.count(failed, 'pair')} left out (failed or blanked)",
            quiet=run.quiet,
        )
    return valid


def _objects(
    artifact: Artifact | None, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Labels of the rows' objects, where each row's begin, and the names."""
    if artifact is None:
        return np.zeros(0, np.int32), np.zeros(len(rows) + 1, np.int64), []
    found = artifact.objects(0, artifact.rows)
    return *take((found["label"], found["offsets"]), rows), artifact.texts("vocabulary")


def _weights(pairs: Artifact, rows: np.ndarray, scale: float, run: Run) -> np.ndarray:
    """How much the caption of each of some texts counts, (n,)."""
    import torch

    from .method.training import clip_weights

    if "cosine" not in pairs:
        raise SynticError(
            f"{pairs.path}: has no cosines of texts and images, for an earlier syntic made it; "
            "run `syntic optimize --force` and `syntic project --force` to use --weigh"
        )
    cosines = pairs.numbers("cosine")[rows]
    weights = clip_weights(torch.from_numpy(cosines), scale).numpy()
    low, middle, high = np.quantile(cosines, [0.1, 0.5, 0.9])
    console.note(
        f"{TRAIN.name}: cosines of images and their texts {low:.2f} to {high:.2f}, median "
        f"{middle:.2f}; {100 * (weights == 1).mean():.0f} % of the captions count in full",
        quiet=run.quiet,
    )
    return weights


def _retrieve(
    support: tuple[np.ndarray, list[str]],
    images: np.ndarray,
    image: np.ndarray,
    captions: Sequence[str],
    settings: TrainSettings,
    run: Run,
    seed: int,
) -> tuple[list[str], Ragged]:
    """The content words of the support set, and the tags that texts near its image give a caption.

    A text of the support set that is word for word a caption of the image is left out: the photos
    to come have none such. Texts that are there several times are retrieved once.
    """
    import torch

    from .method.retrieval import Retriever, find_content_words, first_of_each
    from .models.loading import find_device

    device = find_device(run.device)
    different = first_of_each(support[1])
    texts = [support[1][row] for row in different]
    keys = torch.from_numpy(support[0][different]).float().to(device)
    words = find_content_words(keys, texts, settings.retrieve, seed)
    _, first, which = np.unique(image, return_index=True, return_inverse=True)
    place = {text: row for row, text in enumerate(texts)}
    pairs = zip(which, captions, strict=True)
    own = {(int(row), place[text]) for row, text in pairs if text in place}
    apart = torch.tensor(sorted(own), dtype=torch.int64, device=device).reshape(-1, 2)
    retriever = Retriever(keys, words, settings.retrieve, settings.retrieve_words)
    queries = torch.from_numpy(images[first]).float().to(device)
    labels, offsets = retriever.tags(queries, (apart[:, 0], apart[:, 1]))
    count = len(words.vocabulary)
    # From rows of the different texts to rows of the support set.
    in_support = np.concatenate([np.arange(count), count + different])
    return words.vocabulary, take((in_support[labels], offsets), which)


def _name_features(clip: Mapping[str, Any], names: list[str], width: int) -> np.ndarray:
    """E_text(name) of the vocabulary, (K, d)  (SynTIC, equation 4).

    Raises:
        ConflictError: where the dual encoder is no longer the one that the features are of.
    """
    if not names:
        return np.zeros((0, width), np.float32)
    import torch

    from .models.clip import load_clip

    settings = EncodeSettings(**{k: v for k, v in clip.items() if k != "identity"})
    refuse_another(clip["identity"], settings.model, settings.revision, settings.pretrained)
    model = load_clip(settings, torch.device("cpu"), torch.float32)
    return model.encode_texts(names).numpy()
