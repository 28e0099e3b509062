"""How well captions fit photos, by a dual encoder: CLIPScore, RefCLIPScore and retrieval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..errors import SynticError
from .results import Array, Result, mean_of

PROMPT = "A photo depicts "
_SCALE = 2.5
# Cosines that differ by less are equal: features are float32.
_TIE = 1e-6
# Similarities held at a time.
_BLOCK = 16_000_000
_COMPARABLE = {
    ("ViT-B-32", "openai"),
    ("ViT-B-32-quickgelu", "openai"),
    ("timm/vit_base_patch32_clip_224.openai", None),
}


@dataclass(frozen=True)
class Features:
    """What a dual encoder makes of photos and of texts about them, of any length but zero.

    Attributes:
        photos: (P, d).
        captions: (P, d), of `PROMPT` before the caption of each photo.
        references: (R, d), of `PROMPT` before each reference, photo after photo; RefCLIPScore
            alone needs them.
        counts: (P,), how many references each photo has.
    """

    photos: npt.NDArray[np.floating]
    captions: npt.NDArray[np.floating]
    references: npt.NDArray[np.floating] | None = None
    counts: Sequence[int] = ()


def clip_score(photos: npt.ArrayLike, captions: npt.ArrayLike) -> Array:
    """CLIPScore of each caption, 0 to 2.5.

    Args:
        photos: (P, d) features.
        captions: (P, d) features, of captions with `PROMPT`.

    Source:
        Hessel et al., "CLIPScore: a reference-free evaluation metric for image captioning", EMNLP
        2021, section 3.
    """
    cosines = (_unit(photos) * _unit(captions)).sum(axis=1)
    return np.asarray(_SCALE * np.maximum(cosines, 0))


def ref_clip_score(
    photos: npt.ArrayLike,
    captions: npt.ArrayLike,
    references: npt.ArrayLike,
    counts: Sequence[int],
) -> Array:
    """RefCLIPScore: the harmonic mean of CLIPScore and the best cosine with a reference, or 0.

    Args:
        photos: (P, d) features.
        captions: (P, d) features, of captions with `PROMPT`.
        references: (R, d) features, of references with `PROMPT`, photo after photo.
        counts: (P,), how many references each photo has: one or more.

    Source:
        Hessel et al. 2021, section 3.
    """
    scores = clip_score(photos, captions)
    owners = np.repeat(np.arange(len(scores)), counts)
    cosines = (_unit(captions)[owners] * _unit(references)).sum(axis=1)
    best = np.zeros(len(scores))
    np.maximum.at(best, owners, cosines)
    total = scores + best
    return np.asarray(2 * scores * best / np.where(total > 0, total, 1))


def recall(photos: npt.ArrayLike, captions: npt.ArrayLike, at: Sequence[int]) -> Array:
    """Whether each caption finds its own photo among the nearest k of all photos: R@k.

    Args:
        photos: (P, d) features.
        captions: (P, d) features.
        at: the numbers k of photos that a caption may return.

    Returns:
        (len(at), P), 1 or 0; where the own photo ties with others at the edge, the share of the
        orders of the tied photos in which it is found, so that an encoder that sees no difference
        gets no more than chance.
    """
    images, texts = _unit(photos), _unit(captions)
    found = np.empty((len(at), len(texts)))
    rows = max(1, _BLOCK // max(1, len(images)))
    for start in range(0, len(texts), rows):
        part = slice(start, start + rows)
        own = (images[part] * texts[part]).sum(axis=1, keepdims=True)
        above = texts[part] @ images.T - own
        nearer = (above > _TIE).sum(axis=1)
        tied = np.maximum((np.abs(above) <= _TIE).sum(axis=1), 1)
        found[:, part] = np.clip((np.array(at)[:, None] - nearer) / tied, 0, 1)
    return found


def score_alignment(features: Features, metrics: Sequence[str]) -> dict[str, Result]:
    """The metrics among CLIPScore, RefCLIPScore and R@k that are asked for.

    Raises:
        SynticError: the features are not of the same photos, or one of them has no direction.
    """
    photos, captions = features.photos, features.captions
    if np.shape(photos) != np.shape(captions):
        raise SynticError(f"features of {len(photos)} photos, but of {len(captions)} captions")
    results = {}
    if "CLIPScore" in metrics:
        results["CLIPScore"] = mean_of(clip_score(photos, captions))
    if "RefCLIPScore" in metrics:
        if features.references is None or len(features.counts) != len(photos):
            raise SynticError("RefCLIPScore needs features of each photo's references")
        scores = ref_clip_score(photos, captions, features.references, features.counts)
        results["RefCLIPScore"] = mean_of(scores)
    recalls = [name for name in metrics if name.startswith("R@")]
    if recalls:
        found = recall(photos, captions, [int(name[2:]) for name in recalls])
        results |= {name: mean_of(hits) for name, hits in zip(recalls, found, strict=True)}
    return results


def comparability(model: str, pretrained: str | None) -> str | None:
    """Say in a line that scores by this encoder are not those of papers, or None where they are."""
    if (model, pretrained) in _COMPARABLE:
        return None
    name = f"{model} ({pretrained})" if pretrained else model
    return (
        f"CLIPScore, RefCLIPScore and R@k are by {name}: only those by OpenAI's ViT-B/32 can be"
        " compared with published ones"
    )


def _unit(features: npt.ArrayLike) -> Array:
    values = np.asarray(features, dtype=np.float64)
    norms = np.linalg.norm(values, axis=-1, keepdims=True)
    if not (np.isfinite(norms) & (norms > 0)).all():
        raise SynticError("a feature is zero or not finite: encode again in float32")
    return np.asarray(values / norms)
