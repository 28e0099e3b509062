"""Several texts an image: losses, groups, selection and retrieval against NumPy in float64."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from syntic_cli.method.refinement import (
    TextsOfImages,
    contrastive_loss,
    partition,
    refine,
    refine_batch,
)
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
