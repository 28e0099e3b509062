"""Equations 1 to 6 against independent versions in NumPy float64, written from the paper."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from syntic_cli.method.consensus import FEWEST_TEXTS, ORDERS, learn_consensus
from syntic_cli.method.decoder import Decoder, DecoderConfig, ObjectAttention
from syntic_cli.method.projection import nearest, project
from syntic_cli.method.refinement import contrastive_loss, partition, refine, refine_batch
from syntic_cli.method.repetition import Repetition, learn_repetition, make_repetition
from syntic_cli.method.search import (
    beam_candidates,
    beam_search,
    greedy,
    token_log_probabilities,
)
from syntic_cli.method.training import (
    Pairs,
    caption_loss,
    epoch_batches,
    held_out_loss,
    learning_rate,
    make_optimizer,
    token_loss,
    training_step,
)
from syntic_cli.tokenizer import encode_captions, make_tokenizer, word_marks

Array = NDArray[np.float64]
END = 0


def unit(rows: Array) -> Array:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def softmax(rows: Array) -> Array:
    shifted = np.exp(rows - rows.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def random_rows(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape)


def tensor(array: Array) -> torch.Tensor:
    return torch.from_numpy(array).float()


class TestRefinement:
    """Equations 1 and 2."""

    @staticmethod
    def loss(images: Array, texts: Array, temperature: float) -> float:
        cosines = unit(images) @ unit(texts).T
        return float(-np.log(np.diag(softmax(cosines / temperature))).mean())

    def test_loss_is_that_of_the_paper(self) -> None:
        images, texts = random_rows(7, 5), random_rows(7, 5, seed=1)
        found = contrastive_loss(tensor(images), tensor(texts), 0.1)
        assert float(found) == pytest.approx(self.loss(images, texts, 0.1), rel=1e-5)

    def test_two_steps_of_adam_by_hand(self) -> None:
        """The gradient by central differences, and Adam as Kingma and Ba (2015) write it."""
        start, texts = random_rows(4, 3), random_rows(4, 3, seed=1)
        values, first, second = start.copy(), np.zeros_like(start), np.zeros_like(start)
        for step in (1, 2):
            gradient = np.zeros_like(values)
            for place in np.ndindex(values.shape):
                nudge = np.zeros_like(values)
                nudge[place] = 1e-6
                gradient[place] = (
                    self.loss(values + nudge, texts, 0.1) - self.loss(values - nudge, texts, 0.1)
                ) / 2e-6
            first = 0.9 * first + 0.1 * gradient
            second = 0.999 * second + 0.001 * gradient**2
            corrected = first / (1 - 0.9**step), second / (1 - 0.999**step)
            values = values - 0.01 * corrected[0] / (np.sqrt(corrected[1]) + 1e-8)
        refined, losses = refine_batch(
            tensor(start), tensor(texts), temperature=0.1, lr=0.01, epochs=2
        )
        np.testing.assert_allclose(refined.numpy(), unit(values), atol=2e-5)
        assert float(losses[0]) == pytest.approx(self.loss(start, texts, 0.1), rel=1e-5)

    def test_moves_images_towards_their_own_texts_alone(self) -> None:
        texts = unit(random_rows(64, 16))
        images = unit(texts + 1.5 * random_rows(64, 16, seed=1))
        refined = refine(
            tensor(images), tensor(texts), temperature=0.05, lr=0.01, epochs=40, batch_size=32
        ).numpy()
        cosines = refined @ texts.T
        assert (cosines.argmax(axis=1) == np.arange(64)).mean() > (
            (images @ texts.T).argmax(axis=1) == np.arange(64)
        ).mean()
        np.testing.assert_allclose(np.linalg.norm(refined, axis=1), 1, atol=1e-5)

    def test_same_seed_same_result_and_inputs_untouched(self) -> None:
        images, texts = tensor(random_rows(20, 8)), tensor(random_rows(20, 8, seed=1))
        before = images.clone()
        runs = [refine(images, texts, epochs=3, batch_size=6, lr=0.1, seed=5) for _ in range(2)]
        assert torch.equal(*runs)
        assert torch.equal(images, before)

    @pytest.mark.parametrize(("items", "size"), [(10, 3), (9, 3), (10, 100), (1, 4), (2, 1)])
    def test_partition_has_every_item_once_and_no_single_one_left_over(
        self, items: int, size: int
    ) -> None:
        batches = list(partition(items, size, seed=0))
        assert sorted(torch.cat(batches).tolist()) == list(range(items))
        assert size == 1 or items == 1 or min(map(len, batches)) > 1


class TestProjection:
    """Equation 3."""

    @staticmethod
    def reference(features: Array, support: Array, temperature: float) -> Array:
        weights = softmax(unit(features) @ support.T / temperature)
        return unit(weights @ support)

    @pytest.mark.parametrize("temperature", [1 / 100, 1 / 80, 1 / 30, 1.0])
    def test_is_that_of_the_paper(self, temperature: float) -> None:
        features, support = random_rows(33, 64), unit(random_rows(5000, 64, seed=1))
        found = project(tensor(features), tensor(support), temperature).numpy()
        wanted = self.reference(features, support, temperature)
        assert np.abs(found - wanted).max() < 1e-4 * np.abs(wanted).max()

    def test_does_not_depend_on_the_batch(self) -> None:
        features, support = tensor(random_rows(40, 32)), tensor(unit(random_rows(300, 32, seed=1)))
        whole = project(features, support, 0.01)
        alone = torch.cat([project(row[None], support, 0.01) for row in features])
        assert (whole - alone).abs().max() < 1e-5

    def test_one_text_is_its_own_projection(self) -> None:
        support = tensor(unit(random_rows(1, 8)))
        found = project(tensor(random_rows(3, 8, seed=1)), support, 0.01)
        np.testing.assert_allclose(found.numpy(), support.expand(3, 8).numpy(), atol=1e-6)

    def test_bfloat16(self) -> None:
        features, support = random_rows(16, 64), unit(random_rows(2000, 64, seed=1))
        found = project(tensor(features).bfloat16(), tensor(support).bfloat16(), 1 / 30)
        rounded = self.reference(
            tensor(unit(features)).bfloat16().double().numpy(),
            tensor(support).bfloat16().double().numpy(),
            1 / 30,
        )
        cosine = (unit(found.double().numpy()) * rounded).sum(axis=1)
        assert cosine.min() > 0.999

    def test_nearest_over_tiles(self) -> None:
        features, support = unit(random_rows(9, 16)), unit(random_rows(100, 16, seed=1))
        cosines, rows = nearest(tensor(features), tensor(support), tile=7)
        np.testing.assert_array_equal(rows.numpy(), (features @ support.T).argmax(axis=1))
        np.testing.assert_allclose(cosines.numpy(), (features @ support.T).max(axis=1), atol=1e-6)


class TestObjectAttention:
    """Equation 5."""

    def test_is_multi_head_attention(self) -> None:
        torch.manual_seed(0)
        module = ObjectAttention(16, heads=4).double()
        image, tags = random_rows(3, 16), random_rows(3, 5, 16, seed=1)
        present = np.array([[1, 1, 1, 0, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]], bool)
        with torch.no_grad():
            found = module(*(torch.from_numpy(a) for a in (image, tags, present))).numpy()
        weights = {n: p.detach().numpy() for n, p in module.named_parameters()}

        def linear(name: str, x: Array) -> Array:
            return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

        for row in range(3):
            seen = tags[row][present[row]] if present[row].any() else weights["null"][None]
            heads = []
            for head in range(4):
                part = slice(4 * head, 4 * head + 4)
                query = linear("query", image[row])[part]
                scores = linear("key", seen)[:, part] @ query / np.sqrt(4)
                heads.append(softmax(scores) @ linear("value", seen)[:, part])
            np.testing.assert_allclose(found[row], linear("out", np.concatenate(heads)), atol=1e-12)

    def test_no_object_reaches_the_null_token_with_a_gradient(self) -> None:
        module = ObjectAttention(8)
        tags = torch.randn(2, 3, 8)
        module(torch.randn(2, 8), tags, torch.zeros(2, 3, dtype=torch.bool)).sum().backward()
        assert module.null.grad is not None
        assert module.null.grad.abs().sum() > 0


def make_decoder(**changes: object) -> Decoder:
    torch.manual_seed(0)
    sizes: dict[str, object] = {"vocabulary": 40, "features": 8, "width": 32, "heads": 4}
    return Decoder(DecoderConfig(**{**sizes, **changes})).eval()  # type: ignore[arg-type]


def make_prefix(decoder: Decoder, rows: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    size = decoder.config.features
    with torch.no_grad():
        return decoder.embed_prefix(
            torch.randn(rows, size, generator=generator),
            torch.randn(rows, size, generator=generator),
            torch.randn(rows, 3, size, generator=generator),
            torch.rand(rows, 3, generator=generator) > 0.5,
        )


def caption_scores(decoder: Decoder, prefix: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of captions, end token included, by one full forward pass."""
    with torch.no_grad():
        log_probabilities = decoder(prefix, tokens[:, :-1]).log_softmax(-1)
    own = log_probabilities.gather(2, tokens[..., None]).squeeze(2)
    ended = (tokens == END).cumsum(1) - (tokens == END).long()
    return (own * (ended == 0)).sum(dim=1)


class TestDecoder:
    """Equation 6."""

    def test_later_tokens_do_not_change_earlier_predictions(self) -> None:
        decoder = make_decoder()
        prefix = make_prefix(decoder, 2)
        tokens = torch.randint(1, 40, (2, 9))
        changed = tokens.clone()
        changed[:, 5:] = torch.randint(1, 40, (2, 4))
        with torch.no_grad():
            before, after = decoder(prefix, tokens), decoder(prefix, changed)
        assert torch.allclose(before[:, :6], after[:, :6], atol=1e-6)
        assert not torch.allclose(before[:, 6:], after[:, 6:], atol=1e-3)

    def test_cache_equals_full_forward(self) -> None:
        decoder = make_decoder()
        prefix = make_prefix(decoder, 3)
        tokens = torch.randint(0, 40, (3, 12))
        with torch.no_grad():
            full = decoder(prefix, tokens)
            logits, cache = decoder.start(prefix, steps=12)
            steps = [logits, *(decoder.step(tokens[:, t, None], cache)[:, 0] for t in range(12))]
        assert torch.allclose(torch.stack(steps, dim=1), full, atol=1e-4)

    def test_a_branch_sees_the_past_of_its_parents_alone(self) -> None:
        """Three captions a row swap parents at each step, and a row is dropped on the way."""
        decoder = make_decoder()
        prefix, generator = make_prefix(decoder, 4), torch.Generator().manual_seed(3)
        written = torch.empty(4, 3, 0, dtype=torch.long)
        with torch.no_grad():
            _, cache = decoder.start(prefix, steps=8, branches=3)
        for step in range(8):
            tokens = torch.randint(0, 40, (len(prefix), 3, 1), generator=generator)
            written = torch.cat([written, tokens], dim=2)
            with torch.no_grad():
                found = decoder.step(tokens.squeeze(2), cache)
                full = decoder(prefix.repeat_interleave(3, dim=0), written.flatten(0, 1))
            assert torch.allclose(found.flatten(0, 1), full[:, -1], atol=1e-4)
            parents = torch.randint(0, 3, (len(prefix), 3), generator=generator)
            written = written.gather(1, parents[..., None].expand_as(written))
            cache.branch(parents)
            if step == 4:
                kept = torch.tensor([0, 2, 3])
                cache.select(kept)
                prefix, written = prefix[kept], written[kept]

    def test_without_objects_the_prefix_is_one_token(self) -> None:
        decoder = make_decoder(objects=False)
        assert decoder.embed_prefix(torch.randn(4, 8)).shape == (4, 1, 32)
        assert decoder.objects is None


def make_pairs(rows: int, vocabulary: int = 40) -> Pairs:
    generator = torch.Generator().manual_seed(2)
    lengths = torch.randint(3, 9, (rows,), generator=generator)
    counts = torch.randint(0, 4, (rows,), generator=generator)
    zero = torch.zeros(1, dtype=torch.long)
    return Pairs(
        prefixes=torch.randn(rows, 8, generator=generator),
        images=torch.randn(rows, 8, generator=generator),
        tokens=torch.randint(1, vocabulary, (int(lengths.sum()),), generator=generator).int(),
        token_offsets=torch.cat([zero, lengths.cumsum(0)]),
        labels=torch.randint(0, 6, (int(counts.sum()),), generator=generator).int(),
        label_offsets=torch.cat([zero, counts.cumsum(0)]),
        names=torch.randn(6, 8, generator=generator),
        end=END,
    )


HalfTrained = tuple[Decoder, torch.Tensor]


@pytest.fixture(scope="module")
def half_trained() -> HalfTrained:
    """A decoder that ends its captions but is unsure of them, so that search is a real choice."""
    torch.manual_seed(0)
    decoder = Decoder(DecoderConfig(vocabulary=40, features=8, width=32, dropout=0.0))
    pairs, rows = make_pairs(64), torch.arange(64)
    optimizer = make_optimizer(decoder, 3e-3, 0.0)
    for _ in range(60):
        training_step(decoder, optimizer, pairs, rows, lr=3e-3, label_smoothing=0.0, autocast=None)
    return decoder.eval(), make_prefix(decoder, 50)


class TestSearch:
    """Greedy and beam search."""

    def test_a_beam_of_one_takes_the_likeliest_token_each_time(
        self, half_trained: HalfTrained
    ) -> None:
        """Against a loop without a cache, one photo at a time."""
        decoder, prefix = half_trained
        found, _ = beam_search(decoder, prefix, end=END, beam=1, max_length=20)
        for row, tokens in enumerate(found.tolist()):
            wanted: list[int] = []
            while len(wanted) < 20 and wanted[-1:] != [END]:
                with torch.no_grad():
                    past = torch.tensor([wanted], dtype=torch.long)
                    wanted.append(int(decoder(prefix[row : row + 1], past)[0, -1].argmax()))
            assert tokens == wanted + [END] * (20 - len(wanted))
        assert 1 < (found != END).sum(1).float().mean() < 19

    @pytest.mark.parametrize("beam", [1, 3])
    def test_reported_score_is_that_of_the_caption(
        self, half_trained: HalfTrained, beam: int
    ) -> None:
        decoder, prefix = half_trained
        tokens, scores = beam_search(decoder, prefix, end=END, beam=beam, max_length=20)
        assert torch.allclose(scores, caption_scores(decoder, prefix, tokens), atol=1e-3)

    def test_wider_beam_scores_at_least_greedy(self, half_trained: HalfTrained) -> None:
        decoder, prefix = half_trained
        results = [
            beam_search(decoder, prefix, end=END, beam=b, max_length=20, length_penalty=0.0)[1]
            for b in (1, 3)
        ]
        assert (results[1] >= results[0] - 1e-4).all()

    def test_wide_beam_finds_the_best_caption_of_all(self) -> None:
        """Every caption of up to 3 tokens of 5, scored one by one."""
        decoder = make_decoder(vocabulary=5)
        prefix = make_prefix(decoder, 1)
        every = torch.cartesian_prod(*[torch.arange(5)] * 3)
        ended = (every == END).cumsum(1) - (every == END).long() > 0
        every = every.masked_fill(ended, END)
        best = caption_scores(decoder, prefix.expand(len(every), -1, -1), every).max()
        _, found = beam_search(
            decoder, prefix, end=END, beam=5 * 5, max_length=3, length_penalty=0.0
        )
        assert float(found) == pytest.approx(float(best), abs=1e-4)

    def test_candidates_are_different_captions_with_their_scores(
        self, half_trained: HalfTrained
    ) -> None:
        decoder, prefix = half_trained
        found = beam_candidates(decoder, prefix, end=END, beam=3, max_length=20)
        for nth in range(3):
            tokens, scores = found.take(torch.full((len(prefix),), nth))
            assert torch.allclose(scores, caption_scores(decoder, prefix, tokens), atol=1e-3)
            lengths = ((tokens != END).sum(1) + 1).clamp(max=20)
            assert torch.allclose(found.ranks[:, nth], scores / lengths, atol=1e-4)
        for row in found.tokens.tolist():
            assert len(set(map(tuple, row))) == 3

    def test_rows_do_not_depend_on_each_other(self, half_trained: HalfTrained) -> None:
        decoder, prefix = half_trained
        whole, _ = beam_search(decoder, prefix, end=END, beam=3, max_length=20)
        alone = [
            beam_search(decoder, row[None], end=END, beam=3, max_length=20)[0] for row in prefix
        ]
        assert torch.equal(whole, torch.cat(alone))


class TestLogProbabilities:
    @pytest.mark.parametrize("beam", [1, 3])
    def test_are_those_that_the_search_found(self, half_trained: HalfTrained, beam: int) -> None:
        decoder, prefix = half_trained
        for length in (2, 20):
            tokens, totals = beam_search(decoder, prefix, end=END, beam=beam, max_length=length)
            with torch.no_grad():
                each = token_log_probabilities(decoder, prefix, tokens, END)
            assert each.shape == tokens.shape
            assert torch.allclose(each.sum(dim=1), totals, atol=1e-4)
            behind = (tokens == END).cumsum(dim=1) > 1
            assert (each[behind] == 0).all()
            assert (each[~behind] < 0).all()


class TestConsensus:
    """CIDEr of captions to the nearest texts, against a version written from its paper."""

    END = 9

    @staticmethod
    def vector(text: list[int], order: int, texts: list[list[int]]) -> dict[tuple[int, ...], float]:
        """The n-grams of a text, by how often they are there and how few texts have them."""

        def grams(words: list[int]) -> list[tuple[int, ...]]:
            return [tuple(words[at : at + order]) for at in range(len(words) - order + 1)]

        return {
            gram: grams(text).count(gram)
            * np.log(len(texts) / max(1, sum(gram in grams(other) for other in texts)))
            for gram in set(grams(text))
        }

    def cider(self, one: list[int], other: list[int], texts: list[list[int]]) -> float:
        total = 0.0
        for order in range(1, ORDERS + 1):
            mine, theirs = (self.vector(text, order, texts) for text in (one, other))
            # What few texts have is left out of what captions can share with them.
            product = sum(
                weight * theirs.get(gram, 0.0)
                for gram, weight in mine.items()
                if self.spread(gram, texts) >= FEWEST_TEXTS
            )
            sizes = [np.sqrt(sum(w * w for w in each.values())) for each in (mine, theirs)]
            total += product / np.prod(sizes) if np.prod(sizes) else 0.0
        return 10 * total / ORDERS

    @staticmethod
    def spread(gram: tuple[int, ...], texts: list[list[int]]) -> int:
        length = len(gram)
        return sum(
            any(tuple(text[at : at + length]) == gram for at in range(len(text) - length + 1))
            for text in texts
        )

    def evidence(
        self, caption: list[int], near: list[list[int]], shares: list[float], texts: list[list[int]]
    ) -> float:
        """Mean log share of the texts that have a token, the rarer the more it weighs."""
        total = weights = 0.0
        for token in set(caption):
            there = self.spread((token,), texts)
            rarity = np.log(len(texts) / max(1, there))
            often = sum(w * text.count(token) for text, w in zip(near, shares, strict=True))
            total += rarity * np.log(min(1, max(1e-3, often)))
            weights += rarity
        return total / weights if weights else np.log(1e-3)

    def test_is_the_mean_cider_to_the_nearest_texts_and_the_share_of_those_with_its_words(
        self,
    ) -> None:
        random = np.random.default_rng(0)
        texts = [random.integers(0, 6, size=random.integers(1, 9)).tolist() for _ in range(60)]
        texts[7] = []
        tokens = np.concatenate([np.array(text, np.int32) for text in texts])
        offsets = np.cumsum([0, *map(len, texts)])
        consensus = learn_consensus(tokens, offsets)
        # Token 7 is in no text.
        captions = [[texts[3], texts[11], [1, 1, 1, 1]], [[0, 7, 2, 3], [], [5, 4, 3, 2, 1, 0, 0]]]
        padded = np.full((2, 3, 12), self.END)
        for photo, row in enumerate(captions):
            for place, caption in enumerate(row):
                padded[photo, place, : len(caption)] = caption
        near = torch.from_numpy(random.permutation(60)[:40].reshape(2, 20))
        near[0, 0] = 3
        shares = torch.rand(2, 20).softmax(dim=1)
        sayings = consensus.ask(near, shares)
        found, evidence = consensus.judge(torch.from_numpy(padded), self.END, sayings)
        wanted = [
            [
                sum(
                    share * self.cider(caption, texts[row], texts)
                    for row, share in zip(near[photo].tolist(), shares[photo].tolist(), strict=True)
                )
                for caption in captions[photo]
            ]
            for photo in range(2)
        ]
        assert np.allclose(found.numpy(), wanted, atol=0.01)
        assert found[0, 0] > found[0, 2]
        wanted = [
            [
                self.evidence(caption, [texts[row] for row in rows], each, texts)
                for caption in captions[photo]
            ]
            for photo, (rows, each) in enumerate(zip(near.tolist(), shares.tolist(), strict=True))
        ]
        assert np.allclose(evidence.numpy(), wanted, atol=1e-4)
        assert evidence[0, 1] > evidence[1, 0] > evidence[1, 1]

    def test_of_texts_that_have_nothing_in_common_there_is_none(self) -> None:
        consensus = learn_consensus(np.arange(6, dtype=np.int32), np.array([0, 2, 4, 6]))
        captions = torch.tensor([[[0, 1, 9], [9, 9, 9]]])
        near, shares = torch.tensor([[0, 1, 2]]), torch.full((1, 3), 1 / 3)
        agreement, evidence = consensus.judge(captions, 9, consensus.ask(near, shares))
        assert agreement.tolist() == [[0.0, 0.0]]
        assert np.allclose(evidence, np.log(1e-3))
        long = torch.tensor([[[0, 1, 2, 3, 4, 5, 5, 9]]])
        assert consensus.shorten(long, 9, torch.tensor([5])).shape == (1, 0, 8)

    def closes(self, tokens: list[int], stop: int, texts: list[list[int]]) -> bool:
        """Whether a twentieth of the texts that have the tokens end there, and three at least."""
        ends = self.spread((*tokens, stop), texts)
        return ends >= FEWEST_TEXTS and ends >= self.spread(tuple(tokens), texts) / 20

    def test_captions_end_where_texts_do(self) -> None:
        stop, other = 8, 7
        random = np.random.default_rng(1)
        bodies = [random.integers(0, 3, size=random.integers(2, 20)).tolist() for _ in range(600)]
        # Hardly any text ends in token 2.
        unusual = [body[-1] == 2 and random.random() < 0.8 for body in bodies]
        texts = [[*body, *[0] * odd, stop] for body, odd in zip(bodies, unusual, strict=True)]
        offsets = np.cumsum([0, *map(len, texts)])
        consensus = learn_consensus(np.concatenate(texts).astype(np.int32), offsets)
        captions = [
            [random.integers(0, 3, size=length).tolist() for length in (12, 9, 4, 1, 0)]
            for _ in range(3)
        ]
        for photo, last in zip(captions, (stop, stop, other), strict=True):
            for caption in photo:
                caption.append(last)
        captions[1][0][-1] = other
        padded = np.full((3, 5, 14), self.END)
        for photo, row in enumerate(captions):
            for place, caption in enumerate(row):
                padded[photo, place, : len(caption)] = caption
        closing = torch.tensor([stop, stop, -1])
        made = consensus.shorten(torch.from_numpy(padded), self.END, closing)
        found = [
            [[token for token in one if token != self.END] for one in photo]
            for photo in made.tolist()
        ]
        wanted = [
            [
                [*caption[:kept], stop]
                for caption in row
                for kept in range(ORDERS, len(caption) - 1)
                if caption[-1] == mark and self.closes(caption[kept - 3 : kept], stop, texts)
            ]
            for row, mark in zip(captions, closing.tolist(), strict=True)
        ]
        assert [[one for one in photo if one] for photo in found] == wanted
        assert len(wanted[0]) < 12 - ORDERS + 9 - ORDERS
        assert len(found[0]) == max(map(len, wanted)) > len(wanted[1]) > 0 == len(wanted[2])


def make_repetition_of(costs: torch.Tensor, families: dict[int, list[int]]) -> Repetition:
    """Costs of a vocabulary whose tokens are alone but for the families given."""
    family = torch.arange(len(costs))
    for first, others in families.items():
        family[others] = first
    return make_repetition(family, costs.exp(), 1.0)


def payments(captions: torch.Tensor, costs: torch.Tensor, family: list[int]) -> list[float]:
    """What each caption pays, a token at a time."""
    found = []
    for caption in captions.tolist():
        seen: set[int] = set()
        total = 0.0
        for token in caption:
            total += float(costs[token]) if family[token] in seen else 0.0
            seen.add(family[token])
        found.append(total)
    return found


class TestRepetition:
    """What a caption pays for a word that it has already."""

    # Tokens 3, 7 and 9 are one word, and so are 11 and 12; END is free, as in what is learnt.
    FAMILIES: ClassVar = {3: [7, 9], 11: [12]}
    FAMILY: ClassVar = [{7: 3, 9: 3, 12: 11}.get(token, token) for token in range(40)]

    @pytest.fixture(scope="class")
    def costs(self) -> torch.Tensor:
        costs = -4 * torch.rand(40, generator=torch.Generator().manual_seed(5))
        costs[[7, 9, 12]] = costs[[3, 3, 11]]
        return costs.index_fill(0, torch.tensor([END]), 0.0)

    @pytest.mark.parametrize("tokenizer", ["bpe:400", "clip"])
    def test_counts_texts_that_have_a_word_again(self, tokenizer: str) -> None:
        """Against counting strings between spaces."""
        names = ["plate", "food", "table", "dog", "street", "tree", "bowl", "chair"]
        random = np.random.default_rng(0)
        texts = [" ".join(random.choice(names, 6)) for _ in range(300)]
        kind = make_tokenizer(tokenizer, texts)
        spellings, marked = word_marks(kind)
        _, share = learn_repetition(*encode_captions(kind, texts, 100)[:2], spellings, marked)
        words = [text.split() for text in texts]
        for name in names:
            once, again = (sum(row.count(name) >= n for row in words) for n in (1, 2))
            token = kind.encode(name).ids[0]
            assert spellings[token] == name
            assert share[token] == pytest.approx((again + 0.5) / (once + 1))
        unseen = np.setdiff1d(np.arange(len(share)), encode_captions(kind, texts, 100)[0])
        assert (share[unseen] == 1).all()

    def test_a_word_with_a_common_ending_or_a_capital_is_the_same_word(self) -> None:
        stems = ["plate", "dog", "street", "tree", "bowl", "chair", "table", "car"]
        texts = [f"{stem} {stem}s" for stem in stems] + ["Dog bike bicycle card"]
        kind = make_tokenizer("bpe:600", texts)
        spellings, marked = word_marks(kind)
        family, share = learn_repetition(*encode_captions(kind, texts, 9)[:2], spellings, marked)
        number = {
            word: family[kind.encode(word).ids[0]] for word in ["Dog", "dog", "dogs", "car", "cars"]
        }
        assert number["Dog"] == number["dog"] == number["dogs"]
        assert number["car"] == number["cars"]
        alone = [family[kind.encode(word).ids[0]] for word in ("bike", "bicycle", "card")]
        assert len({*alone, number["car"]}) == 4
        assert share[kind.encode("plates").ids[0]] == pytest.approx(1.5 / 2)

    def test_without_spaces_every_token_is_a_word(self) -> None:
        tokens = np.array([1, 2, 3, 2, 4, 1, 3, 5, 6, 3])
        marked = np.zeros(8, bool)
        _, share = learn_repetition(tokens, np.array([0, 5, 10]), list("一二三四五六七八"), marked)
        np.testing.assert_allclose(share, [1, 1 / 6, 3 / 4, 1 / 2, 1 / 4, 1 / 4, 1 / 4, 1])

    @pytest.mark.parametrize("beam", [1, 3])
    def test_captions_are_searched_by_what_they_pay_and_reported_without(
        self, half_trained: HalfTrained, costs: torch.Tensor, beam: int
    ) -> None:
        decoder, prefix = half_trained
        repetition = make_repetition_of(costs, self.FAMILIES)
        found = beam_candidates(
            decoder, prefix, end=END, beam=beam, max_length=20, repetition=repetition
        )
        plain = beam_candidates(decoder, prefix, end=END, beam=beam, max_length=20)
        assert not torch.equal(found.tokens, plain.tokens)
        for nth in range(beam):
            tokens, scores = found.take(torch.full((len(prefix),), nth))
            assert torch.allclose(scores, caption_scores(decoder, prefix, tokens), atol=1e-3)
            lengths = ((tokens != END).sum(1) + 1).clamp(max=20) if beam > 1 else 1
            paid = torch.tensor(payments(tokens, costs, self.FAMILY)) if beam > 1 else 0.0
            assert torch.allclose(found.ranks[:, nth], (scores + paid) / lengths, atol=1e-3)

    def test_wide_beam_finds_the_best_caption_of_all(self) -> None:
        """Every caption of up to 4 tokens of 4, scored and charged one by one."""
        decoder = make_decoder(vocabulary=4)
        prefix, costs = make_prefix(decoder, 1), torch.tensor([0.0, -0.7, -0.2, -0.7])
        every = torch.cartesian_prod(*[torch.arange(4)] * 4)
        ended = (every == END).cumsum(1) - (every == END).long() > 0
        every = every.masked_fill(ended, END)
        scores = caption_scores(decoder, prefix.expand(len(every), -1, -1), every)
        scores += torch.tensor(payments(every, costs, [0, 1, 2, 1]))
        found, _ = beam_search(
            decoder, prefix, end=END, beam=64, max_length=4, length_penalty=0.0,
            repetition=make_repetition_of(costs, {1: [3]}),
        )  # fmt: skip
        assert found[0].tolist() == every[scores.argmax()].tolist()

    def test_greedy_takes_the_best_charged_token_each_time(
        self, half_trained: HalfTrained, costs: torch.Tensor
    ) -> None:
        """Against a loop without a cache, one photo at a time."""
        decoder, prefix = half_trained
        repetition = make_repetition_of(costs, self.FAMILIES)
        found, _ = greedy(decoder, prefix, end=END, max_length=20, repetition=repetition)
        for row, tokens in enumerate(found.tolist()):
            wanted: list[int] = []
            while len(wanted) < 20 and wanted[-1:] != [END]:
                with torch.no_grad():
                    past = torch.tensor([wanted], dtype=torch.long)
                    scores = decoder(prefix[row : row + 1], past)[0, -1].log_softmax(-1)
                seen = {self.FAMILY[token] for token in wanted}
                charged = [token for token in range(40) if self.FAMILY[token] in seen]
                scores[charged] += costs[charged]
                wanted.append(int(scores.argmax()))
            assert tokens == wanted + [END] * (20 - len(wanted))

    @pytest.mark.parametrize("beam", [1, 3])
    def test_a_weight_of_nothing_changes_nothing(
        self, half_trained: HalfTrained, costs: torch.Tensor, beam: int
    ) -> None:
        decoder, prefix = half_trained
        free = make_repetition(torch.arange(40), costs.exp(), 0.0)
        found, plain = (
            beam_search(decoder, prefix, end=END, beam=beam, max_length=20, repetition=each)
            for each in (free, None)
        )
        assert torch.equal(found[0], plain[0])
        assert torch.equal(found[1], plain[1])


class TestTraining:
    def test_loss_is_the_mean_cross_entropy_of_all_tokens(self) -> None:
        """Caption by caption, without padding, in float64 NumPy, label smoothing included."""
        decoder, pairs = make_decoder(dropout=0.0), make_pairs(6)
        with torch.no_grad():
            found, count = caption_loss(decoder, pairs, torch.arange(6), 0.1)
        total, tokens = 0.0, 0
        for row in range(6):
            own = pairs.tokens[pairs.token_offsets[row] : pairs.token_offsets[row + 1]].long()
            labels = pairs.labels[pairs.label_offsets[row] : pairs.label_offsets[row + 1]].long()
            tags = pairs.names[labels] if len(labels) else torch.zeros(1, 8)
            present = torch.full((1, len(tags)), bool(len(labels)))
            with torch.no_grad():
                prefix = decoder.embed_prefix(
                    pairs.prefixes[row][None], pairs.images[row][None], tags[None], present
                )
                logits = decoder(prefix, own[None])[0].double().numpy()
            logs = np.log(softmax(logits))
            wanted = [*own.tolist(), END]
            total -= sum(
                0.9 * logs[t, token] + 0.1 * logs[t].mean() for t, token in enumerate(wanted)
            )
            tokens += len(wanted)
        assert count == tokens
        assert float(found) == pytest.approx(total / tokens, rel=1e-4)

    def test_noise_moves_the_prefix_by_as_much_as_it_says(self) -> None:
        decoder, pairs, rows = make_decoder(dropout=0.0), make_pairs(6), torch.arange(6)
        with torch.no_grad():
            torch.manual_seed(3)
            found, _ = caption_loss(decoder, pairs, rows, 0.1, noise=0.3)
            torch.manual_seed(3)
            moved = pairs.prefixes.numpy() + 0.3 * torch.randn(pairs.prefixes.shape).numpy()
            moved /= np.linalg.norm(moved, axis=1, keepdims=True)
            wanted, _ = caption_loss(
                decoder, replace(pairs, prefixes=torch.from_numpy(moved)), rows, 0.1
            )
            plain, _ = caption_loss(decoder, pairs, rows, 0.1)
        assert float(found) == pytest.approx(float(wanted), abs=3e-6)
        assert float(found) != pytest.approx(float(plain), abs=3e-5)

    def test_batches_of_any_shape_share_a_compilation(self) -> None:
        """Rows, tokens of the longest caption and tokens in all differ from batch to batch."""
        from torch._dynamo.testing import CompileCounter

        decoder, pairs = make_decoder(dropout=0.0), make_pairs(200)
        lengths = pairs.token_offsets.diff().numpy()
        counter = CompileCounter()
        compiled = torch.compile(token_loss, backend=counter, dynamic=True)
        for rows in [*epoch_batches(lengths, 12, 0), np.arange(17), np.arange(9)]:
            batch = torch.from_numpy(rows)
            found, _ = caption_loss(decoder, pairs, batch, 0.1, compiled)
            wanted, _ = caption_loss(decoder, pairs, batch, 0.1)
            assert torch.equal(found, wanted)
        assert counter.frame_count == 1

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
    def test_a_step_does_not_wait_for_the_device(self) -> None:
        decoder, pairs = make_decoder().cuda().train(), make_pairs(32)
        on_host = ("token_offsets", "label_offsets", "end")
        moved = {k: v if k in on_host else v.cuda() for k, v in vars(pairs).items()}
        optimizer = make_optimizer(decoder, 1e-3, 0.0)

        def step() -> None:
            training_step(
                decoder, optimizer, Pairs(**moved), torch.arange(32),
                lr=1e-3, label_smoothing=0.1, autocast=torch.bfloat16,
            )  # fmt: skip

        step()
        torch.cuda.set_sync_debug_mode("error")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode("default")

    def test_overfits_32_captions(self) -> None:
        torch.manual_seed(0)
        decoder = Decoder(DecoderConfig(vocabulary=40, features=8, width=64, dropout=0.0))
        pairs, rows = make_pairs(32), torch.arange(32)
        optimizer = make_optimizer(decoder, 3e-3, 0.0)
        for step in range(150):
            lr = learning_rate(step, 150, 10, 3e-3)
            loss, _ = training_step(
                decoder, optimizer, pairs, rows, lr=lr, label_smoothing=0.0, autocast=None
            )
        assert float(loss) < 0.05
        assert held_out_loss(decoder, pairs, np.arange(32), 8) < 0.05

    def test_batches_have_every_row_once_and_little_padding(self) -> None:
        lengths = np.random.default_rng(0).integers(4, 30, 5000)
        batches = epoch_batches(lengths, 64, seed=3)
        assert sorted(np.concatenate(batches).tolist()) == list(range(5000))
        padded = sum(lengths[batch].max() * len(batch) for batch in batches)
        assert padded < 1.1 * lengths.sum()
        again = epoch_batches(lengths, 64, seed=3)
        assert all(np.array_equal(a, b) for a, b in zip(batches, again, strict=True))

    def test_learning_rate_warms_up_and_falls_to_nothing(self) -> None:
        rates = [learning_rate(step, 100, 10, 1.0) for step in range(100)]
        assert rates[0] == pytest.approx(0.1)
        assert max(rates) == pytest.approx(1.0)
        assert rates[:10] == sorted(rates[:10])
        assert rates[10:] == sorted(rates[10:], reverse=True)
        assert rates[-1] < 0.01
