"""CLIPScore, retrieval, several files at once and the bootstrap: against versions of our own."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from importlib import import_module

import numpy as np
import pytest

from syntic_cli.errors import SynticError
from syntic_cli.metrics import (
    TEXT_METRICS,
    Features,
    Scores,
    bootstrap,
    comparability,
    compare,
    ngrams,
    score,
    score_files,
)
from syntic_cli.metrics.alignment import clip_score, recall, ref_clip_score
from syntic_cli.metrics.references import load_candidates, load_references, match
from syntic_cli.metrics.tokenizer import tokenize

from .conftest import DATA

PUBLISHED = DATA / "published_captions"
WORDS = TEXT_METRICS[:-1]
CHEAP = tuple(name for name in WORDS if name != "METEOR")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(17)


# Photos and a dual encoder.


def _cosine(a: Sequence[float], b: Sequence[float]) -> float:
    lengths = math.sqrt(math.fsum(x * x for x in a)) * math.sqrt(math.fsum(x * x for x in b))
    return math.fsum(x * y for x, y in zip(a, b, strict=True)) / lengths


@pytest.fixture
def features(rng: np.random.Generator) -> Features:
    """Some captions near their photos, some turned away; one to four references each, float32."""
    photos = rng.normal(size=(40, 24))
    captions = rng.uniform(-0.7, 1, (40, 1)) * photos + rng.normal(size=(40, 24))
    counts = rng.integers(1, 5, 40)
    near = np.repeat(captions, counts, axis=0) * rng.uniform(-1, 1, (counts.sum(), 1))
    references = near + rng.normal(size=near.shape)
    parts = [part.astype(np.float32) for part in (photos, captions, references)]
    return Features(*parts, counts.tolist())


def test_clip_score_as_in_the_paper(features: Features) -> None:
    pairs = zip(features.photos.tolist(), features.captions.tolist(), strict=True)
    expected = [2.5 * max(_cosine(caption, photo), 0) for photo, caption in pairs]
    assert 0 in expected
    assert max(expected) > 1
    found = clip_score(features.photos, features.captions)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_ref_clip_score_as_in_the_paper(features: Features) -> None:
    assert features.references is not None
    references = iter(features.references.tolist())
    expected = []
    for photo, caption, count in zip(
        features.photos.tolist(), features.captions.tolist(), features.counts, strict=True
    ):
        score = 2.5 * max(_cosine(caption, photo), 0)
        best = max(0.0, *(_cosine(caption, next(references)) for _ in range(count)))
        expected.append(2 / (1 / score + 1 / best) if score and best else 0.0)
    assert 0 in expected
    found = ref_clip_score(features.photos, features.captions, features.references, features.counts)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_recall_by_sorting(features: Features) -> None:
    photos, captions = features.photos.tolist(), features.captions.tolist()
    ranks = []
    for row, caption in enumerate(captions):
        order = sorted(range(40), key=lambda photo: -_cosine(caption, photos[photo]))
        ranks.append(order.index(row) + 1)
    found = recall(features.photos, features.captions, (1, 5, 10))
    expected = [[float(rank <= at) for rank in ranks] for at in (1, 5, 10)]
    np.testing.assert_array_equal(found, expected)
    assert 0 < found[0].mean() < found[1].mean() < found[2].mean() < 1


def test_recall_of_an_encoder_that_sees_no_difference_is_chance(rng: np.random.Generator) -> None:
    same = np.tile(rng.normal(size=64).astype(np.float32), (50, 1))
    captions = rng.normal(size=(50, 64)).astype(np.float32)
    np.testing.assert_allclose(recall(same, captions, (1, 5, 10)).mean(axis=1), [0.02, 0.1, 0.2])


def test_recall_shares_a_place_among_photos_that_tie(rng: np.random.Generator) -> None:
    photos = np.eye(6)
    photos[1] = photos[2] = photos[0] * 3  # three photos that look alike
    captions = np.eye(6) + 0.01 * rng.normal(size=(6, 6))
    captions[1] = captions[2] = captions[0]
    found = recall(photos, captions, (1, 2, 3))
    np.testing.assert_allclose(found[:, :3], [[1 / 3] * 3, [2 / 3] * 3, [1] * 3])
    np.testing.assert_array_equal(found[:, 3:], 1)


def test_recall_in_parts(features: Features, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = recall(features.photos, features.captions, (1, 5))
    monkeypatch.setattr("syntic_cli.metrics.alignment._BLOCK", 7 * 40)
    np.testing.assert_array_equal(recall(features.photos, features.captions, (1, 5)), whole)


def test_photo_metrics_among_the_scores(features: Features) -> None:
    names = ["R@5", "CLIPScore", "RefCLIPScore", "R@1"]
    texts = ["a dog"] * 40
    (scores,) = score_files([texts], [["a dog"]] * 40, names, [features])
    assert list(scores.corpus) == ["CLIPScore", "RefCLIPScore", "R@1", "R@5"]
    expected = clip_score(features.photos, features.captions)
    np.testing.assert_allclose(scores.per_item["CLIPScore"], 100 * expected)
    assert scores.corpus["CLIPScore"] == pytest.approx(100 * expected.mean())
    assert scores.corpus["R@5"] == pytest.approx(scores.per_item["R@5"].mean())


def test_photo_metrics_need_features(features: Features) -> None:
    with pytest.raises(SynticError, match="CLIPScore: need the photos"):
        score(["a"], [["a"]], ["CLIPScore"])
    texts, references = ["a"] * 40, [["a"]] * 40
    without = Features(features.photos, features.captions)
    with pytest.raises(SynticError, match="RefCLIPScore needs"):
        score_files([texts], references, ["RefCLIPScore"], [without])
    with pytest.raises(SynticError, match="39 photos, but of 40 captions"):
        score_files(
            [texts], references, ["R@1"], [Features(features.photos[1:], features.captions)]
        )
    broken = features.captions.copy()
    broken[3] = np.nan
    with pytest.raises(SynticError, match="not finite"):
        score_files([texts], references, ["CLIPScore"], [Features(features.photos, broken)])


def test_only_openai_vit_b_32_is_comparable() -> None:
    assert comparability("ViT-B-32", "openai") is None
    for model, tag in (
        ("ViT-B-32", "laion2b_s34b_b79k"),
        ("ViT-L-14", "openai"),
        ("tiny/clip", None),
    ):
        note = comparability(model, tag)
        assert note is not None
        assert model in note
        assert "\n" not in note


# Many words.


def _texts(rng: np.random.Generator, count: int, longest: int) -> list[str]:
    """Texts of few words, so that n-grams meet; some are empty, some repeat one word."""
    words = np.array(["a", "dog", "cat", "runs", "über", "a.", "0"])
    texts = [" ".join(rng.choice(words, rng.integers(0, longest))) for _ in range(count)]
    texts[0], texts[1] = "", "dog dog dog dog dog"
    return texts


def _peers(captions: list[str], references: list[list[str]]) -> dict[str, np.ndarray]:
    """pycocoevalcap's own scorers: the corpus score before those of the items."""
    found = {i: [text] for i, text in enumerate(captions)}
    expected = dict(enumerate(references))
    corpus, items = (
        import_module("pycocoevalcap.bleu.bleu").Bleu(4).compute_score(expected, found, 0)
    )
    scores = {TEXT_METRICS[i]: np.array([corpus[i], *items[i]]) for i in range(4)}
    for name, module, kind in (("ROUGE-L", "rouge", "Rouge"), ("CIDEr", "cider", "Cider")):
        scorer = getattr(import_module(f"pycocoevalcap.{module}.{module}"), kind)()
        one, each = scorer.compute_score(expected, found)
        scores[name] = np.array([one, *each])
    return scores


def _ours(files: list[list[str]], references: list[list[str]]) -> list[dict[str, np.ndarray]]:
    counts = ngrams.count(files, references)
    results = [dict(zip(TEXT_METRICS, scores, strict=False)) for scores in ngrams.bleu(counts)]
    for name, more in (
        ("ROUGE-L", ngrams.rouge_l(files, references)),
        ("CIDEr", ngrams.cider(counts)),
    ):
        for scores, result in zip(results, more, strict=True):
            scores[name] = result
    return [
        {name: np.array([result.corpus, *result.items]) for name, result in scores.items()}
        for scores in results
    ]


@pytest.mark.parametrize("seed", range(5))
def test_random_texts_equal_pycocoevalcap(seed: int) -> None:
    rng = np.random.default_rng(seed)
    photos = 60
    files = [_texts(rng, photos, longest) for longest in (10, 80)]
    references = [_texts(rng, 5, 14)[: rng.integers(1, 6)] for _ in range(photos)]
    references[7] = ["dog"]
    for captions, ours in zip(files, _ours(files, references), strict=True):
        for name, expected in _peers(captions, references).items():
            np.testing.assert_allclose(ours[name], expected, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("name", ["coco_zerocap", "flickr30k_magic"])
def test_published_captions_equal_pycocoevalcap(name: str) -> None:
    if not PUBLISHED.is_dir():
        pytest.skip(f"no published captions at {PUBLISHED}")
    matched = match(
        load_candidates(PUBLISHED / f"{name}.predictions.json"),
        load_references(PUBLISHED / f"{name}.references.json"),
    )
    tokens = iter(tokenize([t for texts in (*matched.references, matched.captions) for t in texts]))
    references = [[next(tokens) for _ in texts] for texts in matched.references]
    captions = list(tokens)
    (ours,) = _ours([captions], references)
    for metric, expected in _peers(captions, references).items():
        np.testing.assert_allclose(ours[metric], expected, atol=1e-9, err_msg=metric)


def test_long_texts_have_long_common_subsequences(rng: np.random.Generator) -> None:
    words = [str(word) for word in rng.permutation(300)]
    longer = [word for word in words for word in (word, "x")]
    (result,) = ngrams.rouge_l([[" ".join(words)]], [[" ".join(longer)]])
    precision, recalled = 1.0, 0.5
    weight = 1.2**2
    expected = (1 + weight) * precision * recalled / (recalled + weight * precision)
    assert result.corpus == pytest.approx(expected, rel=1e-12)


@pytest.fixture(scope="module")
def together() -> tuple[list[list[str]], list[list[str]], list[Scores]]:
    """Three files on the same references, scored at once."""
    subjects = ["A dog", "Two dogs", "A small child", "The man", "A cat"]
    verbs = ["runs", "is running quickly", "sleeps", "plays football", "eats"]
    references = [
        [f"{who} {what} in the park.", f"{who.lower()} that {what}"]
        for who in subjects
        for what in verbs
    ]
    files = [
        [texts[0] for texts in references],
        [f"{texts[1].split()[1]} running in a park" for texts in references],
        ["a photo" if row % 3 else "" for row in range(len(references))],
    ]
    return files, references, score_files(files, references, WORDS)


def test_several_files_score_as_each_alone(
    together: tuple[list[list[str]], list[list[str]], list[Scores]],
) -> None:
    files, references, scores = together
    for captions, found, names in zip(files, scores, (CHEAP, WORDS, CHEAP), strict=True):
        alone = score(captions, references, names)
        assert found.notes == alone.notes
        for name in names:
            assert found.corpus[name] == pytest.approx(alone.corpus[name], abs=1e-9)
            np.testing.assert_allclose(found.per_item[name], alone.per_item[name], atol=1e-9)
    assert scores[2].notes == ["9 captions are empty, of 25"]


def test_several_files_are_tokenized_in_one_start_of_java(
    together: tuple[list[list[str]], list[list[str]], list[Scores]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files, references, _ = together
    calls = []

    def counted(texts: Sequence[str]) -> list[str]:
        calls.append(len(texts))
        return [text.lower() for text in texts]

    monkeypatch.setattr("syntic_cli.metrics.tokenize", counted)
    score_files(files, references, CHEAP)
    assert calls == [25 * 2 + 3 * 25]


# How sure a difference is.


def test_bootstrap_of_means_by_a_loop(rng: np.random.Generator) -> None:
    a = rng.normal(size=50)
    b = a + rng.normal(0.1, 0.3, 50)
    found = bootstrap(a, b, samples=300, seed=4)
    draws = np.random.default_rng(4)
    differences = []
    for _ in range(300):
        rows = draws.integers(0, 50, 50)
        differences.append(np.mean([b[row] for row in rows]) - np.mean([a[row] for row in rows]))
    assert found.value == pytest.approx(b.mean() - a.mean())
    assert [found.low, found.high] == pytest.approx(list(np.percentile(differences, [2.5, 97.5])))
    assert found.low < found.value < found.high


def _bleu_4(pairs: Sequence[tuple[list[str], list[list[str]]]]) -> float:
    """BLEU-4 of drawn captions, counted from their words anew (Papineni et al. 2002)."""
    logs, length, closest = 0.0, 0, 0
    for caption, texts in pairs:
        length += len(caption)
        closest += min((abs(len(t) - len(caption)), len(t)) for t in texts)[1]
    for n in range(1, 5):
        matched = total = 0
        for caption, texts in pairs:
            one, *others = (
                Counter(zip(*(t[k:] for k in range(n)), strict=False)) for t in (caption, *texts)
            )
            total += sum(one.values())
            matched += sum(min(c, max(o[gram] for o in others)) for gram, c in one.items())
        logs += math.log(matched / total) / 4
    return math.exp(min(0.0, 1 - closest / length) + logs)


def test_bootstrap_of_bleu_by_counting_the_drawn_captions(rng: np.random.Generator) -> None:
    words = np.array(["a", "dog", "runs"])
    files = [[" ".join(rng.choice(words, rng.integers(4, 9))) for _ in range(30)] for _ in range(2)]
    references = [
        [" ".join(rng.choice(words, rng.integers(6, 12))) for _ in range(3)] for _ in range(30)
    ]
    one, other = (scores[3] for scores in ngrams.bleu(ngrams.count(files, references)))
    found = bootstrap(one.statistics, other.statistics, 40, 9, one.combine)
    draws = np.random.default_rng(9)
    pairs = [
        [(c.split(), [t.split() for t in texts]) for c, texts in zip(file, references, strict=True)]
        for file in files
    ]
    differences = []
    for _ in range(40):
        rows = draws.integers(0, 30, 30)
        a, b = (_bleu_4([file[row] for row in rows]) for file in pairs)
        differences.append(b - a)
    assert found.value == pytest.approx(_bleu_4(pairs[1]) - _bleu_4(pairs[0]), abs=1e-8)
    expected = list(np.percentile(differences, [2.5, 97.5]))
    assert [found.low, found.high] == pytest.approx(expected, abs=1e-8)


def test_meteor_of_a_part_comes_from_the_sums_of_its_captions(
    together: tuple[list[list[str]], list[list[str]], list[Scores]],
) -> None:
    files, references, scores = together
    result = scores[1].results["METEOR"]
    rows = [3, 3, 7, 11, 11, 11, 20]
    part = score([files[1][row] for row in rows], [references[row] for row in rows], ["METEOR"])
    found = result.combine(result.statistics[rows].sum(axis=0))
    assert 100 * found == pytest.approx(part.corpus["METEOR"], abs=1e-9)


def test_compare_says_which_file_is_better(
    together: tuple[list[list[str]], list[list[str]], list[Scores]],
) -> None:
    scores = together[2]
    differences = compare(scores[1], scores[0], samples=200)
    assert list(differences) == list(WORDS)
    for name, found in differences.items():
        assert found.value == pytest.approx(scores[0].corpus[name] - scores[1].corpus[name])
        assert 0 < found.low <= found.value <= found.high
    again = compare(scores[0], scores[1], samples=200)
    assert again["CIDEr"].low == pytest.approx(-differences["CIDEr"].high)
    none = compare(scores[0], scores[0], samples=50)
    assert all((d.value, d.low, d.high) == (0, 0, 0) for d in none.values())
    assert compare(scores[0], scores[1], 50, seed=1) == compare(scores[0], scores[1], 50, seed=1)
    assert compare(scores[0], scores[1], 50, seed=1) != compare(scores[0], scores[1], 50, seed=2)


def test_bootstrap_draws_alike_however_many_at_a_time(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = rng.normal(size=(2, 33))
    whole = bootstrap(a, b, samples=100)
    monkeypatch.setattr("syntic_cli.metrics.results._DRAWN", 7 * 33)
    parts = bootstrap(a, b, samples=100)
    assert [parts.low, parts.high] == pytest.approx([whole.low, whole.high])


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for seed in range(200):
        a = rng.normal(size=60)
        found = bootstrap(a, a + rng.normal(0.2, 1, 60), samples=200, seed=seed)
        held += found.low <= 0.2 <= found.high
    assert 0.88 <= held / 200 <= 0.99


def test_bootstrap_of_other_photos_is_refused() -> None:
    with pytest.raises(SynticError, match="same photos, not 2 and 3"):
        bootstrap([1, 2], [1, 2, 3])
    with pytest.raises(SynticError, match="same photos"):
        bootstrap([], [])
    with pytest.raises(SynticError, match="one sample or more"):
        bootstrap([1], [2], samples=0)
