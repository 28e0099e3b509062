"""Several texts an image: losses, groups, selection and retrieval against NumPy in float64."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from syntic_cli.method import grouping, neighbours, retrieval, selection
from syntic_cli.method.grouping import draw_heads, first_of_each_set, gather_groups
from syntic_cli.method.neighbours import k_nearest
from syntic_cli.method.ragged import join, take
from syntic_cli.method.refinement import (
    TextsOfImages,
    contrastive_loss,
    partition,
    refine,
    refine_batch,
)
from syntic_cli.method.retrieval import (
    Retriever,
    content_words,
    find_content_words,
    index_words,
    shared_words,
)
from syntic_cli.method.selection import choose_images, keep_best, texts_of_images
from syntic_cli.method.summary import NoScene, choose_sentences, summarise
from syntic_cli.method.training import caption_loss, clip_weights, held_out_loss

from .test_method import Array, make_decoder, make_pairs, random_rows, tensor, unit


class TestSeveralTextsAnImage:
    """Equation 2 with the texts P_i of each image."""

    IMAGE = np.array([2, 0, 1, 0, 2, 2, 3])

    @staticmethod
    def loss(images: Array, texts: Array, image: np.ndarray, temperature: float) -> float:
        e = np.exp(unit(images) @ unit(texts).T / temperature)
        total = 0.0
        for i in range(len(images)):
            own = [j for j in range(len(texts)) if image[j] == i]
            others = sum(e[i, k] for k in range(len(texts)) if image[k] != i)
            total += sum(np.log(e[i, j] / (e[i, j] + others)) for j in own) / len(own)
        return -total / len(images)

    def test_loss_is_the_equation(self) -> None:
        images, texts = random_rows(4, 5), random_rows(7, 5, seed=1)
        found = contrastive_loss(tensor(images), tensor(texts), 0.1, torch.from_numpy(self.IMAGE))
        assert float(found) == pytest.approx(self.loss(images, texts, self.IMAGE, 0.1), rel=1e-5)

    def test_gradient_is_that_of_the_equation(self) -> None:
        images, texts = random_rows(4, 5), random_rows(7, 5, seed=1)
        features = torch.from_numpy(images).requires_grad_(True)
        image = torch.from_numpy(self.IMAGE)
        contrastive_loss(features, torch.from_numpy(texts), 0.1, image).backward()
        wanted = np.zeros_like(images)
        for place in np.ndindex(images.shape):
            nudge = np.zeros_like(images)
            nudge[place] = 1e-6
            up, down = (self.loss(images + s * nudge, texts, self.IMAGE, 0.1) for s in (1, -1))
            wanted[place] = (up - down) / 2e-6
        assert features.grad is not None
        np.testing.assert_allclose(features.grad.numpy(), wanted, atol=1e-8)

    def test_one_text_an_image_is_the_paper_to_the_last_bit(self) -> None:
        """Against equation 2 as it is for pairs: cross-entropy over the mini-batch, and Adam."""
        images, texts = tensor(random_rows(50, 16)), tensor(random_rows(50, 16, seed=1))
        wanted = torch.empty_like(images)
        for batch in partition(50, 16, seed=3):
            features = images[batch].clone().requires_grad_(True)
            scaled = F.normalize(texts[batch], dim=-1) / 0.05
            optimizer = torch.optim.Adam([features], lr=0.01, fused=True)
            for _ in range(7):
                optimizer.zero_grad()
                logits = F.normalize(features, dim=-1) @ scaled.T
                F.cross_entropy(logits, torch.arange(len(batch))).backward()
                optimizer.step()
            wanted[batch] = F.normalize(features.detach(), dim=-1)
        for image in (None, torch.arange(50)):
            found = refine(
                images, texts, temperature=0.05, lr=0.01, epochs=7, batch_size=16, seed=3,
                image=image,
            )  # fmt: skip
            assert torch.equal(found, wanted)

    def test_refines_images_over_their_texts_and_leaves_those_without(self) -> None:
        texts = unit(random_rows(90, 16))
        image = np.repeat(np.arange(30), 3)
        image[image == 7] = -1
        image = np.random.default_rng(0).permutation(image)
        images = unit(random_rows(30, 16, seed=1))
        found = refine(
            tensor(images), tensor(texts), temperature=0.05, lr=0.01, epochs=60, batch_size=8,
            image=torch.from_numpy(image),
        ).numpy()  # fmt: skip
        np.testing.assert_allclose(found[7], images[7], atol=1e-6)
        owned = image >= 0
        before = (images[image[owned]] * texts[owned]).sum(axis=1).mean()
        after = (found[image[owned]] * texts[owned]).sum(axis=1).mean()
        assert after > before + 0.2
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)

    def test_an_image_alone_stays(self) -> None:
        """Without other texts there is nothing to be told apart from."""
        image, texts = tensor(unit(random_rows(1, 8))), tensor(random_rows(3, 8, seed=1))
        found, losses = refine_batch(
            image, texts, temperature=0.1, lr=0.1, epochs=3, image=torch.zeros(3).long()
        )
        assert torch.allclose(found, image, atol=1e-6)
        assert not losses.any()

    def test_an_image_without_a_text_is_refused(self) -> None:
        with pytest.raises(ValueError, match="no text"):
            contrastive_loss(torch.rand(3, 4), torch.rand(2, 4), 0.1, torch.tensor([0, 2]))

    def test_texts_of_images(self) -> None:
        image = np.random.default_rng(0).integers(-1, 20, 200)
        texts = TextsOfImages(torch.from_numpy(image), 20)
        chosen = [3, 19, 0, 7]
        rows, which = texts.of(torch.tensor(chosen))
        wanted = [(row, n) for n, own in enumerate(chosen) for row in np.flatnonzero(image == own)]
        assert list(zip(rows.tolist(), which.tolist(), strict=True)) == wanted


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "TILE", {"cpu": (7, 13)})
    monkeypatch.setattr(neighbours, "FIRST_KEYS", 3)
    for module in (grouping, selection, retrieval):
        monkeypatch.setattr(module, "TILE", 16)


@pytest.mark.usefixtures("small_tiles")
class TestNeighbours:
    def test_are_those_of_a_full_sort(self) -> None:
        queries, keys = unit(random_rows(40, 16)), unit(random_rows(200, 16, seed=1))
        cosines, rows = k_nearest(tensor(queries), tensor(keys), 10)
        wanted = np.argsort(-queries @ keys.T, axis=1)[:, :10]
        np.testing.assert_array_equal(rows.numpy(), wanted)
        np.testing.assert_allclose(
            cosines.numpy(), np.take_along_axis(queries @ keys.T, wanted, axis=1), atol=1e-6
        )

    def test_pairs_that_are_kept_apart(self) -> None:
        queries, keys = unit(random_rows(40, 16)), unit(random_rows(60, 16, seed=1))
        random = np.random.default_rng(2)
        apart = random.integers(0, 40, 300), random.integers(0, 60, 300)
        similar = queries @ keys.T
        similar[apart] = -np.inf
        without = torch.from_numpy(apart[0]), torch.from_numpy(apart[1])
        _, rows = k_nearest(tensor(queries), tensor(keys), 20, without=without)
        np.testing.assert_array_equal(rows.numpy(), np.argsort(-similar, axis=1)[:, :20])

    def test_equal_keys_are_in_their_order(self) -> None:
        keys = torch.eye(4).repeat(10, 1)
        _, rows = k_nearest(torch.eye(4)[:1], keys, 6)
        assert rows.tolist() == [[0, 4, 8, 12, 16, 20]]

    def test_too_few_keys(self) -> None:
        own = torch.tensor([0]), torch.tensor([1])
        cosines, rows = k_nearest(torch.eye(3)[:1], torch.eye(3), 9, without=own)
        assert rows.tolist() == [[0, 2, -1]]
        assert cosines[0, 2] == -torch.inf
        assert k_nearest(torch.eye(3), torch.eye(3), 0)[1].shape == (3, 0)
        assert k_nearest(torch.eye(3), torch.eye(3)[:0], 5)[1].shape == (3, 0)

    def test_half_precision_features_are_compared_in_float32(self) -> None:
        keys = tensor(unit(random_rows(50, 16))).half()
        cosines, _ = k_nearest(keys[:5], keys, 3)
        assert cosines.dtype == torch.float32
        wanted = keys.double() @ keys.double().T
        np.testing.assert_allclose(cosines.numpy(), wanted[:5].topk(3).values.numpy(), atol=1e-6)


@pytest.mark.usefixtures("small_tiles")
class TestGrouping:
    def test_a_group_is_its_head_and_what_is_nearest(self) -> None:
        texts = unit(random_rows(60, 8))
        texts[50:] = texts[4]  # more copies of a text than a group holds
        heads = draw_heads(60, 25, seed=1)
        groups = gather_groups(tensor(texts), heads, 6).numpy()
        similar = texts @ texts.T
        for head, group in zip(heads.tolist(), groups, strict=True):
            assert group[0] == head
            assert len(set(group.tolist())) == 6
            others = np.delete(similar[head], head)
            np.testing.assert_allclose(
                similar[head, group[1:]], np.sort(others)[::-1][:5], atol=1e-6
            )

    def test_heads_are_drawn_by_seed(self) -> None:
        drawn = draw_heads(1000, 100, seed=4)
        assert torch.equal(drawn, draw_heads(1000, 100, seed=4))
        assert not torch.equal(drawn, draw_heads(1000, 100, seed=5))
        assert torch.equal(drawn, drawn.unique())
        for groups in (None, 5, 9):
            assert draw_heads(5, groups, seed=0).tolist() == [0, 1, 2, 3, 4]

    def test_a_corpus_smaller_than_a_group(self) -> None:
        groups = gather_groups(torch.eye(3), torch.arange(3), 30)
        assert [sorted(row) for row in groups.tolist()] == [[0, 1, 2]] * 3
        assert first_of_each_set(groups.numpy()).tolist() == [0]

    def test_duplicates_of_one_set_once(self) -> None:
        random = np.random.default_rng(0)
        sets = [random.permutation(12)[:3] for _ in range(500)]
        seen: set[frozenset[int]] = set()
        wanted = []
        for row, members in enumerate(map(frozenset, sets)):
            if members not in seen:
                wanted.append(row)
            seen.add(members)
        assert 1 < len(wanted) < 500
        assert first_of_each_set(np.array(sets, np.int32)).tolist() == wanted


@pytest.mark.usefixtures("small_tiles")
class TestSelection:
    def test_is_that_of_the_paper(self) -> None:
        texts, images = unit(random_rows(70, 8)), unit(random_rows(50, 8, seed=1))
        own, shown = tensor(texts), tensor(images)
        standing = texts_of_images(shown, own, 2)
        chosen, scores, cosines = choose_images(own, own, shown, standing, 5)
        across, alike = texts @ images.T, texts @ texts.T
        for i in range(70):
            near = np.argsort(-across[i])[:5]
            back = {g: np.argsort(-across[:, g])[:2] for g in near}
            score = {g: max(alike[i, k] for k in back[g]) for g in near}
            best = max(near, key=lambda g: (round(score[g], 6), across[i, g]))
            assert chosen[i] == best
            assert float(scores[i]) == pytest.approx(score[best], abs=2e-6)
            assert float(cosines[i]) == pytest.approx(across[i, best], abs=1e-6)
        assert (np.array(chosen) != across.argmax(axis=1)).any()

    def test_an_image_that_shows_the_text_is_found(self) -> None:
        """Images of the texts themselves, in another order, beat the wrong pairs."""
        texts = unit(random_rows(40, 32))
        order = np.random.default_rng(0).permutation(40)
        own, shown = tensor(texts), tensor(texts[order])
        chosen, scores, _ = choose_images(own, own, shown, texts_of_images(shown, own, 2))
        np.testing.assert_array_equal(order[chosen.numpy()], np.arange(40))
        np.testing.assert_allclose(scores.numpy(), 1, atol=1e-6)

    def test_the_best_share_stays(self) -> None:
        scores = np.array([0.5, 0.9, 0.9, 0.1, 0.7, 0.9, 0.6, 0.2, 0.3, 0.4], np.float32)
        cosines = np.array([0, 0.1, 0.3, 0, 0, 0.1, 0, 0, 0, 0], np.float32)
        assert np.flatnonzero(~keep_best(scores, cosines, 0.9)).tolist() == [3]
        assert np.flatnonzero(keep_best(scores, cosines, 0.2)).tolist() == [1, 2]
        assert keep_best(scores, cosines, 1.0).all()


TEXTS = [
    "A man rides a horse.",
    "A Man on a HORSE, a horse!",
    "a cat sleeps on the bed",
    "The cat, on a bed",
    "« der Hund »  läuft",
    "…",
]


@pytest.mark.usefixtures("small_tiles")
class TestRetrieval:
    def test_words_are_cut_without_case_and_punctuation(self) -> None:
        words = index_words(TEXTS)
        found = [
            {words.vocabulary[w] for w in words.words[a:b]}
            for a, b in zip(words.offsets, words.offsets[1:], strict=False)
        ]
        assert found[:2] == [{"a", "man", "rides", "horse"}, {"a", "man", "on", "horse"}]
        assert found[4:] == [{"der", "hund", "läuft"}, set()]

    def test_only_some_words(self) -> None:
        words = index_words(TEXTS)
        kept = words.only(np.array([len(word) > 2 for word in words.vocabulary]))
        assert kept.vocabulary == [word for word in words.vocabulary if len(word) > 2]
        assert [kept.vocabulary[w] for w in kept.words[: kept.offsets[1]]] == [
            "man", "rides", "horse",
        ]  # fmt: skip
        assert kept.offsets[-1] == len(kept.words)

    def test_shared_words_by_counting(self) -> None:
        random = np.random.default_rng(0)
        texts = [" ".join(random.choice(list("abcdefgh"), 3)) for _ in range(60)]
        near = random.integers(-1, 60, (100, 7))
        words = index_words(texts)
        found, offsets = shared_words(words, near, 3)
        for row in range(100):
            counts = Counter(w for text in near[row] if text >= 0 for w in {*texts[text].split()})
            wanted = {word for word, count in counts.items() if count >= 3}
            held = [words.vocabulary[w] for w in found[offsets[row] : offsets[row + 1]]]
            assert set(held) == wanted
            assert len(held) == len(wanted)

    def test_content_words_by_counting(self) -> None:
        """Two topics and a word of grammar that any text may have."""
        random = np.random.default_rng(0)
        topics = [["cat", "bed", "sleeps"], ["horse", "man", "rides"]]
        texts = [
            " ".join([*random.choice(topics[row % 2], 2, replace=False), *["the"] * (row % 3 > 0)])
            for row in range(200)
        ]
        rows = np.arange(0, 200, 2) + np.arange(100) % 2
        near = np.array([random.choice(np.arange(row % 2, 200, 2), 5) for row in rows])
        words = index_words(texts)
        found = content_words(words, rows, near, lift=1.5)
        own, both = Counter[str](), Counter[str]()
        share = Counter(word for text in texts for word in {*text.split()})
        for row, others in zip(rows, near, strict=True):
            own.update({*texts[row].split()})
            for other in others:
                both.update({*texts[row].split()} & {*texts[other].split()})
        lifts = {w: both[w] / (5 * own[w]) / (share[w] / 200) for w in own}
        assert {w for w, f in zip(words.vocabulary, found, strict=True) if f} == {
            w for w, lift in lifts.items() if lift >= 1.5
        }
        assert {w for w, lift in lifts.items() if lift < 1.5} == {"the"}
        assert not content_words(words, rows, near, least=1000).any()

    def test_words_by_another_vocabulary(self) -> None:
        words = index_words(TEXTS)
        other = words.rename(["bed", "unknown", "man", "horse"])
        assert [set(row) for row in np.split(other.words, other.offsets[1:-1])] == [
            {2, 3}, {2, 3}, {0}, {0}, set(), set(),
        ]  # fmt: skip

    def test_tags_are_shared_words_and_the_texts_themselves(self) -> None:
        random = np.random.default_rng(0)
        texts = [" ".join(random.choice(list("abcdefgh"), 3)) for _ in range(60)]
        support, images = unit(random_rows(60, 8)), unit(random_rows(25, 8, seed=1))
        own = random.integers(0, 25, 40), random.integers(0, 60, 40)
        words = index_words(texts)
        retriever = Retriever(tensor(support), words, 7, 3)
        found, offsets = retriever.tags(
            tensor(images), (torch.tensor(own[0]), torch.tensor(own[1]))
        )
        similar = images @ support.T
        similar[own] = -np.inf
        for row in range(25):
            near = np.argsort(-similar[row])[:7]
            counts = Counter(word for text in near for word in {*texts[text].split()})
            wanted = {word for word, count in counts.items() if count >= 3}
            tags = found[offsets[row] : offsets[row + 1]]
            shared = tags[tags < len(words.vocabulary)]
            assert {words.vocabulary[word] for word in shared} == wanted
            assert sorted(tags[len(shared) :] - len(words.vocabulary)) == sorted(near)

    def test_ragged_rows(self) -> None:
        one = np.array([1, 2, 3]), np.array([0, 2, 2, 3])
        other = np.array([7, 8]), np.array([0, 0, 1, 2])
        values, offsets = join(one, other)
        assert [row.tolist() for row in np.split(values, offsets[1:-1])] == [[1, 2], [7], [3, 8]]
        values, offsets = take((values, offsets), np.array([2, 0, 2]))
        assert [row.tolist() for row in np.split(values, offsets[1:-1])] == [[3, 8], [1, 2], [3, 8]]
        assert take(one, np.zeros(0, int))[0].shape == (0,)

    def test_own_texts_are_not_retrieved(self) -> None:
        features = tensor(unit(random_rows(30, 8)))
        own = torch.arange(30)
        words = index_words([""] * 30)
        found, _ = Retriever(features, words, 4, 1).tags(features, (own, own))
        similar = features.numpy() @ features.numpy().T - 9 * np.eye(30)
        np.testing.assert_array_equal(found.reshape(30, 4), np.argsort(-similar, axis=1)[:, :4])

    def test_content_words_of_a_support_set(self) -> None:
        """Texts of two topics, each topic in a corner of its own, and a word that all may have."""
        random = np.random.default_rng(0)
        topics = [["cat", "bed", "sleeps"], ["horse", "man", "rides"]] * 4
        words = [[f"{word}{row // 2}" for word in topic] for row, topic in enumerate(topics)]
        texts = [" ".join([*words[row % 8], *["the"] * (row % 3 > 0)]) for row in range(400)]
        corners = unit(random_rows(8, 16))[np.arange(400) % 8]
        support = tensor(unit(corners + 0.05 * random.normal(size=(400, 16))))
        found = find_content_words(support, texts, 5, seed=0)
        assert sorted(found.vocabulary) == sorted(word for topic in words for word in topic)


def features_with(cosines: dict[tuple[int, int], float], rows: int) -> Array:
    """Unit vectors with the given cosines between some of them, 0.5 between the others."""
    gram = np.full((rows, rows), 0.5) + 0.5 * np.eye(rows)
    for (a, b), cosine in cosines.items():
        gram[a, b] = gram[b, a] = cosine
    values, vectors = np.linalg.eigh(gram)
    assert values.min() > 0
    return vectors * np.sqrt(values)


class TestSummary:
    GROUP = (
        "A man in a red shirt rides a horse",
        "A man in a blue shirt rides a horse",
        "A woman rides a horse",
        "Two men ride horses",
        "A brown horse walks on a beach",
        "A man wearing a hat rides on the beach",
        "Someone on a horse near the sea",
        "A horse with its rider",
    )

    def test_clashes_are_left_out(self) -> None:
        chosen = choose_sentences(self.GROUP, features_with({}, 8), least=5, most=10)
        assert sorted(chosen) == [0, 4, 5, 6, 7]
        assert chosen[0] == 0

    @pytest.mark.parametrize(
        ("one", "other", "fit"),
        [
            ("a red bus", "a blue bus", False),
            ("a red bus near a blue car", "a red bus", True),
            ("a red bus near a blue car", "a blue bus", False),
            ("two dogs", "three dogs", False),
            ("a dog runs", "two dogs run", False),
            ("a couple of dogs", "2 dogs", True),
            ("a man and a woman", "a woman", True),
            ("a boy plays", "a girl plays", False),
            ("a big brown dog", "a small white dog", False),
            ("ein Hund", "zwei Hunde", True),
        ],
    )
    def test_what_clashes(self, one: str, other: str, fit: bool) -> None:
        chosen = choose_sentences([one, other], features_with({}, 2), least=1, most=2)
        assert chosen == ([0, 1] if fit else [0])

    def test_near_copies_are_left_out_and_the_nearest_comes_first(self) -> None:
        texts = [f"text {letter}" for letter in "abcd"]
        pairs = {(0, 1): 0.96, (0, 2): 0.6, (0, 3): 0.8, (1, 2): 0.6, (1, 3): 0.75}
        features = features_with(pairs, 4)
        assert choose_sentences(texts, features, least=1, most=10) == [0, 3, 2]
        assert choose_sentences(texts, features, least=1, most=2) == [0, 3]

    def test_marginal_relevance(self) -> None:
        """Of two sentences as near to the head, the one unlike what is chosen."""
        texts = [f"text {letter}" for letter in "abcd"]
        features = features_with({(0, 1): 0.8, (0, 2): 0.7, (0, 3): 0.7, (1, 2): 0.9}, 4)
        assert choose_sentences(texts, features, least=1, most=3) == [0, 1, 3]

    def test_a_group_without_a_scene(self) -> None:
        with pytest.raises(NoScene, match="only 1 of its 2 texts"):
            choose_sentences(["a man", "a woman"], features_with({}, 2), least=2, most=2)

    def test_summary_is_the_head_and_what_brings_the_most_new_words(self) -> None:
        texts = ["a dog runs.", "a dog runs on a beach", "waves behind a dog", "a dog runs"]
        assert summarise(texts, 50) == "A dog runs. Waves behind a dog. A dog runs on a beach."
        assert summarise(texts, 8) == "A dog runs. Waves behind a dog."
        assert summarise(texts, 3) == "A dog runs."
        with pytest.raises(NoScene, match="3 words"):
            summarise(texts, 2)


class TestWeights:
    """The CLIP-weighted cross-entropy of PCM-Net."""

    def test_weights_rise_with_the_cosine_up_to_one(self) -> None:
        found = clip_weights(torch.tensor([-0.1, 0.0, 0.1, 0.25, 0.3]), 4.0)
        np.testing.assert_allclose(found.numpy(), [0, 0, 0.4, 1, 1], atol=1e-6)

    def test_a_caption_counts_by_its_weight(self) -> None:
        decoder, pairs = make_decoder(dropout=0.0), make_pairs(6)
        weights = torch.tensor([1.0, 0.2, 0.0, 0.7, 0.5, 0.9])
        weighted = replace(pairs, weights=weights)
        total = count = 0.0
        with torch.no_grad():
            found, _ = caption_loss(decoder, weighted, torch.arange(6), 0.1)
            for row in range(6):
                loss, tokens = caption_loss(decoder, pairs, torch.tensor([row]), 0.1)
                total += float(weights[row]) * float(loss) * tokens
                count += tokens
            plain, _ = caption_loss(decoder, pairs, torch.arange(6), 0.1)
            ones = replace(pairs, weights=torch.ones(6))
            alike, _ = caption_loss(decoder, ones, torch.arange(6), 0.1)
        assert float(found) == pytest.approx(total / count, rel=1e-5)
        assert float(alike) == pytest.approx(float(plain), rel=1e-6)

    def test_the_held_out_loss_does_not_depend_on_them(self) -> None:
        decoder, pairs = make_decoder(dropout=0.0), make_pairs(6)
        half = replace(pairs, weights=torch.full((6,), 0.5))
        losses = [held_out_loss(decoder, given, np.arange(6), 4) for given in (pairs, half)]
        assert losses[0] == losses[1]
