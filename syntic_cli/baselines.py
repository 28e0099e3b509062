"""Who captions in the place of the trained decoder, for comparison: CLIPRe, MAGIC, ZeroCap."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from .errors import MissingError
from .settings import CLIPRE, DECODER, MAGIC, CaptionSettings

if TYPE_CHECKING:
    from torch import Tensor

    from .models.clip import Clip
    from .models.language import CausalLanguage

# Features of photos, (N, d), to their captions and what a language model gives each, in nats.
Baseline = Callable[["Tensor"], tuple[list[str], list[float]]]

# What ZeroCap has its language model go on from; it is no part of the caption.
ZEROCAP_PROMPT = "Image of a"


def load_baseline(
    settings: CaptionSettings, clip: Clip, support: Tensor | None, texts: Sequence[str]
) -> Baseline | None:
    """What `--decoding` names, None for the decoder.

    Args:
        settings: what, and with which language model.
        clip: the captioner's dual encoder.
        support: the features of the support set, (S, d), where there is one.
        texts: its texts.

    Raises:
        MissingError: where CLIPRe has no texts to choose from.
        SynticError: where the language model cannot be loaded.
    """
    if settings.decoding == DECODER:
        return None
    if settings.decoding == CLIPRE:
        if support is None or not any(texts):
            raise MissingError(
                "--decoding clipre: the captioner keeps no texts of a support set; give --support"
                " features.h5"
            )
        return partial(_clipre, support, texts)
    from .models.language import load_causal_language

    name = settings.language_model or ""
    language = load_causal_language(name, settings.language_revision, clip.device, clip.dtype)
    if settings.decoding == MAGIC:
        return partial(_one_by_one, partial(_magic, language, clip, settings.max_length))
    return partial(_one_by_one, partial(_zerocap, language, clip, settings.max_length))


def _clipre(support: Tensor, texts: Sequence[str], images: Tensor) -> tuple[list[str], list[float]]:
    """The nearest text of the support set to each photo."""
    from .method.projection import nearest

    rows = nearest(images, support)[1].tolist()
    return [texts[row] for row in rows], [float("nan")] * len(rows)


def _one_by_one(
    write: Callable[[Tensor], tuple[str, float]], images: Tensor
) -> tuple[list[str], list[float]]:
    captions, log_probabilities = zip(*map(write, images), strict=True)
    return list(captions), list(log_probabilities)


def _magic(
    language: CausalLanguage, clip: Clip, max_length: int, image: Tensor
) -> tuple[str, float]:
    from .method.magic import magic_search

    def likeness(tokens: Tensor) -> Tensor:
        return clip.scale * _cosines(clip, image, language.read(tokens))

    tokens, log_probability = magic_search(
        language, language.prompt(""), likeness, ends=language.ends, max_length=max_length
    )
    return language.read(tokens[None])[0], log_probability


def _zerocap(
    language: CausalLanguage, clip: Clip, max_length: int, image: Tensor
) -> tuple[str, float]:
    """Of the beam's captions the one that the dual encoder finds nearest."""
    from .method.zerocap import ZeroCapSettings, zerocap_search

    tokens, means = zerocap_search(
        language,
        language.prompt(ZEROCAP_PROMPT),
        lambda rows: _cosines(clip, image, language.read(rows)),
        end=language.full_stop,
        by=ZeroCapSettings(max_length=min(max_length, ZeroCapSettings.max_length)),
    )
    ended = (tokens == language.full_stop).cumsum(dim=1) > 1
    texts = [language.read(row[~over][None])[0] for row, over in zip(tokens, ended, strict=True)]
    cosines = _cosines(clip, image, [f"{ZEROCAP_PROMPT} {text}" for text in texts])
    best = int(cosines.argmax())
    return texts[best], float(means[best]) * int((~ended[best]).sum())


def _cosines(clip: Clip, image: Tensor, texts: Sequence[str]) -> Tensor:
    """Of a photo's feature, (d,), and each of N texts, (N,)."""
    # A copy, for what was computed in inference mode takes no part in a gradient.
    return clip.encode_texts(texts).to(image.device).clone() @ image
