"""Copies to and from a device, and how much of its memory a batch may take."""

from __future__ import annotations

import pytest
import torch

from syntic_cli.models import loading
from syntic_cli.models.loading import batch_that_fits, fill_device, worth_compiling
from syntic_cli.transfer import HostCopy, pinned, stack_on, to_device

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
MIB, GIB = 1 << 20, 1 << 30

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class TestBatchThatFits:
    @pytest.mark.parametrize(
        ("free", "an_item", "most", "wanted"),
        [
            (20 * GIB, 1 * GIB, 64, 16),  # 17 fit into 85 %
            (140 * GIB, 1 * GIB, 64, 64),
            (140 * GIB, 1 * GIB, 48, 32),
            (1 * GIB, 2 * GIB, 64, 1),
            (0, 2 * GIB, 64, 1),
            (20 * GIB, 1 * GIB, 0, 1),
            (20 * GIB, 0, 64, 64),
        ],
    )
    def test_power_of_two_within_the_memory(
        self, free: int, an_item: int, most: int, wanted: int
    ) -> None:
        assert batch_that_fits(free, an_item, most) == wanted

    @needs_cuda
    def test_fills_a_device(self) -> None:
        free, _ = torch.cuda.mem_get_info(CUDA)
        an_item = free // 100

        def compute(items: int) -> None:
            torch.empty(items, an_item, dtype=torch.uint8, device=CUDA)

        assert fill_device(compute, CUDA, 1024) == 64
        assert fill_device(compute, CUDA, 8) == 8

    @needs_cuda
    def test_a_probe_that_does_not_fit(self) -> None:
        free, _ = torch.cuda.mem_get_info(CUDA)

        def compute(items: int) -> None:
            torch.empty(items, free // 2, dtype=torch.uint8, device=CUDA)

        assert fill_device(compute, CUDA, 64) == 2


class TestWorthCompiling:
    def test_a_choice_stands(self) -> None:
        assert worth_compiling(True, CPU, 0, 1000)
        assert not worth_compiling(False, CUDA, 10_000, 1000)

    def test_else_where_it_is_repaid(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(loading, "can_compile", lambda: True)
        assert worth_compiling(None, CUDA, 1000, 1000)
        assert not worth_compiling(None, CUDA, 999, 1000)
        assert not worth_compiling(None, CPU, 10_000, 1000)

    def test_not_without_a_compiler(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CC", "no-such-compiler")
        assert not worth_compiling(None, CUDA, 1000, 1000)
        assert worth_compiling(True, CUDA, 1000, 1000)


class TestTransfer:
    def test_on_the_cpu_nothing_is_copied(self) -> None:
        image = torch.rand(3, 4)
        assert pinned(image, CPU, torch.bfloat16) is image
        assert to_device(image, CPU) is image
        assert HostCopy(image).wait()[0] is image

    def test_stacks(self) -> None:
        images = list(torch.rand(5, 3, 4))
        assert torch.equal(stack_on(images, CPU), torch.stack(images))

    @needs_cuda
    def test_there_and_back(self) -> None:
        images = [pinned(image, CUDA) for image in torch.rand(5, 64, 64)]
        assert all(image.is_pinned() for image in images)
        assert pinned(images[0], CUDA, torch.bfloat16).dtype == torch.bfloat16
        batch = stack_on(images, CUDA)
        squares, sums = HostCopy(batch @ batch, batch.sum(dim=(1, 2))).wait()
        assert squares.is_pinned()
        whole = torch.stack(images)
        assert torch.allclose(squares, whole @ whole, rtol=1e-4)
        assert torch.allclose(sums, whole.sum(dim=(1, 2)), rtol=1e-4)

    @needs_cuda
    def test_the_host_does_not_wait(self) -> None:
        busy, done = torch.rand(8192, 8192, device=CUDA), torch.cuda.Event()
        # The host's memory is taken before: the driver may wait for that.
        HostCopy(busy @ busy).wait()
        for _ in range(50):
            busy = busy @ busy
        copy = HostCopy(busy)
        done.record()
        assert not done.query()
        copy.wait()
        assert done.query()
