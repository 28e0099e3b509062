"""Exact nearest neighbours by inner products, for any number of texts on little memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

# Queries and keys compared at a time: large enough for matrix products at full speed, small enough
# for the cosines to stay in a processor's cache while they are looked through.
TILE = {"cpu": (512, 2048)}
TILE_ELSEWHERE = (4096, 8192)
# Keys of the first tile; the next ones are twice as wide each, up to the size above. Of twice as
# many keys only a few belong among the best, while a wide first tile would have to be sorted.
FIRST_KEYS = 128

Pairs = tuple[Tensor, Tensor]


@torch.no_grad()
def k_nearest(
    queries: Tensor, keys: Tensor, count: int, *, without: Pairs | None = None
) -> tuple[Tensor, Tensor]:
    """The most similar keys of each query, by the inner products of all of them.

    Args:
        queries: (N, d), of unit length.
        keys: (M, d), of unit length.
        count: K, how many keys a query gets.
        without: rows of queries and rows of keys, (P,) each, that are not to meet.

    Returns:
        The cosines, (N, K) float32, falling, and the rows of the keys, (N, K) int32; equal cosines
        are in the order of the keys. K is at most M; where `without` leaves a query fewer than K
        keys, the rest is −∞ and −1.
    """
    count = min(count, len(keys))
    cosines = torch.full((len(queries), count), -torch.inf, device=queries.device)
    rows = torch.full(cosines.shape, -1, dtype=torch.int32, device=queries.device)
    if not count:
        return cosines, rows
    height, width = TILE.get(queries.device.type, TILE_ELSEWHERE)
    buffer = cosines.new_empty(min(height, len(queries)) * min(width, len(keys)))
    starts = range(0, len(queries), height)
    parted = _part(without, len(queries), starts) if without else [None] * len(starts)
    for start, apart in zip(starts, parted, strict=True):
        some = queries[start : start + height].float()
        best = cosines[start : start + height], rows[start : start + height]
        for first, tile in _tiles(keys, width):
            # One buffer for all tiles: fresh memory costs as much as what is computed in it.
            similar = buffer[: len(some) * len(tile)].view(len(some), len(tile))
            torch.mm(some, tile.float().T, out=similar)
            if apart is not None:
                _separate(similar, apart, first)
            _merge(*best, similar, first)
    return cosines, rows


def _tiles(keys: Tensor, most: int) -> Iterator[tuple[int, Tensor]]:
    """The keys in tiles, each with the row that it begins at."""
    first, width = 0, min(FIRST_KEYS, most)
    while first < len(keys):
        yield first, keys[first : first + width]
        first, width = first + width, min(2 * width, most)


def _part(without: Pairs, queries: int, starts: range) -> list[Pairs]:
    """The pairs of each tile of queries, the query counted from the tile's first."""
    order = without[0].argsort()
    rows, keys = without[0][order], without[1][order]
    first = torch.tensor([*starts, queries], device=rows.device)
    ends = torch.searchsorted(rows, first).tolist()
    return [
        (rows[begin:end] - start, keys[begin:end])
        for start, begin, end in zip(starts, ends[:-1], ends[1:], strict=True)
    ]


def _separate(similar: Tensor, apart: Pairs, first: int) -> None:
    """Let no query find a key that it is not to meet; `similar` begins at key `first`."""
    here = (apart[1] >= first) & (apart[1] < first + similar.shape[1])
    similar[apart[0][here], apart[1][here] - first] = -torch.inf


def _merge(best: Tensor, rows: Tensor, similar: Tensor, first: int) -> None:
    """Take what a tile has of more than the least of the best so far, (n, K), in place.

    After the first tiles that is hardly anything, so a tile costs little more than its product.
    """
    over = (similar.amax(dim=1) > best[:, -1]).nonzero().squeeze(1)
    if not len(over):
        return
    similar, held = similar[over], best[over]
    row, column = (similar > held[:, -1:]).nonzero(as_tuple=True)
    counts = torch.bincount(row, minlength=len(over))
    place = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
    found = held.new_full((len(over), int(counts.max())), -torch.inf)
    found[row, place] = similar[row, column]
    columns = rows.new_full(found.shape, -1)
    columns[row, place] = (column + first).to(rows.dtype)
    # Stable, so that of equal cosines the earlier key comes first.
    merged, order = torch.cat([held, found], dim=1).sort(dim=1, descending=True, stable=True)
    best[over] = merged[:, : best.shape[1]]
    rows[over] = torch.cat([rows[over], columns], dim=1).gather(1, order[:, : best.shape[1]])
