# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The cheapest way from what stands on an axis of slices to what is wanted there.

Knows nothing of GPUs: pieces of some length stand at some starts, wishes name where they may stand, two pieces may not
overlap. The axis is walked from the left once for each different rest of wishes, so the work is bounded by
(starts) x (rests), a few hundred steps for a GPU, however hopeless the wishes are.
"""

from __future__ import annotations

import bisect
import itertools
import typing as t

Left = tuple[int, ...]


class Standing(t.NamedTuple):
    """A piece that is there. parts: what is lost with it; busy: it should not go."""

    start: int
    size: int
    parts: int = 0
    busy: bool = False


class Wish(t.NamedTuple):
    """So many pieces that are alike.

    places: (start, size) each; keeps: start of a standing piece that can serve, and how many of its parts that costs.
    """

    pieces: int
    places: tuple[tuple[int, int], ...]
    keeps: t.Mapping[int, int]


class Arrangement(t.NamedTuple):
    """The best end. Fields are in order of importance, so that the smallest arrangement is the best one.

    kept: starts that stay, and kept_for: the wish each serves; new: (wish, start, size), by wish and start.
    """

    disturbed: int
    removed: int
    parts_lost: int
    kept: tuple[int, ...] = ()
    kept_for: tuple[int, ...] = ()
    new: tuple[tuple[int, int, int], ...] = ()


class _Move(t.NamedTuple):
    """What can happen at a position: leave it empty (wish None), keep what stands there, or put something there."""

    wish: int | None
    start: int
    size: int
    keeps: bool
    parts_lost: int
    onward: int  # the next position that is free again


def cheapest(standing: t.Sequence[Standing], wishes: t.Sequence[Wish]) -> Arrangement | None:
    """Return the arrangement that fulfils all wishes; None when there is none, however much is removed.

    Best is: the fewest busy pieces removed, the fewest pieces removed, the fewest parts lost; then the lowest starts
    kept, then the lowest starts for what is new, wish by wish.
    """
    axis = _Axis(standing, wishes)
    known: dict[tuple[int, Left], Arrangement | None] = {}

    def best(position: int, left: Left) -> Arrangement | None:
        key = (position, left)
        if key not in known:
            known[key] = _best(position, left)
        return known[key]

    def _best(position: int, left: Left) -> Arrangement | None:
        if not any(left):
            return Arrangement(*axis.gone(position, axis.end))
        if axis.too_short(position, left):
            return None
        found = None
        for move in axis.moves[position]:
            rest = best(move.onward, _less(left, move.wish)) if _possible(left, move.wish) else None
            if rest:
                candidate = _with(move, rest, axis.gone(position, move.onward))
                found = candidate if found is None or candidate < found else found
        return found

    return best(0, tuple(wish.pieces for wish in wishes))


def smallest_releases(standing: t.Sequence[Standing], wishes: t.Sequence[Wish]) -> list[tuple[int, ...]]:
    """Return the smallest sets of busy pieces that would have to go for the wishes, each piece by its start."""
    axis = _Axis(standing, wishes)
    known: dict[tuple[int, Left], set[tuple[int, ...]]] = {}

    def releases(position: int, left: Left) -> set[tuple[int, ...]]:
        key = (position, left)
        if key not in known:
            known[key] = _smallest(_releases(position, left))
        return known[key]

    def _releases(position: int, left: Left) -> set[tuple[int, ...]]:
        if not any(left):
            return {axis.busy_between(position, axis.end)}
        if axis.too_short(position, left):
            return set()
        return {
            (() if move.keeps else axis.busy_between(position, move.onward)) + rest
            for move in axis.moves[position]
            if _possible(left, move.wish)
            for rest in releases(move.onward, _less(left, move.wish))
        }

    return sorted(releases(0, tuple(wish.pieces for wish in wishes)))


class _Axis:
    """The positions where something can start, and what can happen at each."""

    def __init__(self, standing: t.Sequence[Standing], wishes: t.Sequence[Wish]) -> None:
        self._standing = {piece.start: piece for piece in standing}
        places = {place for wish in wishes for place in wish.places}
        self._starts = sorted({start for start, _size in places} | set(self._standing))
        self._length = max((start + size for start, size in places), default=0)
        self._length = max([self._length, *(piece.start + piece.size for piece in standing)])
        self._shortest = tuple(min((size for _start, size in wish.places), default=0) for wish in wishes)
        self.end = len(self._starts)
        pieces = [self._standing.get(start) for start in self._starts]
        self._busy = _sums(int(piece.busy) if piece else 0 for piece in pieces)
        self._count = _sums(1 if piece else 0 for piece in pieces)
        self._parts = _sums(piece.parts if piece else 0 for piece in pieces)
        self.moves = [self._moves_at(position, wishes) for position in range(self.end)]
        self.moves.append([])

    def gone(self, first: int, last: int) -> tuple[int, int, int]:
        """Busy pieces, pieces and parts that stand from one position up to another."""
        return (
            self._busy[last] - self._busy[first],
            self._count[last] - self._count[first],
            self._parts[last] - self._parts[first],
        )

    def busy_between(self, first: int, last: int) -> tuple[int, ...]:
        pieces = (self._standing.get(start) for start in self._starts[first:last])
        return tuple(piece.start for piece in pieces if piece and piece.busy)

    def too_short(self, position: int, left: Left) -> bool:
        """What is left of the axis is shorter than what is left of the wishes: no need to try."""
        room = self._length - self._starts[position] if position < self.end else 0
        return sum(count * size for count, size in zip(left, self._shortest)) > room

    def _moves_at(self, position: int, wishes: t.Sequence[Wish]) -> list[_Move]:
        start = self._starts[position]
        moves = [_Move(None, start, 0, False, 0, position + 1)]
        for number, wish in enumerate(wishes):
            piece = self._standing.get(start)
            if piece and start in wish.keeps:
                onward = self._position_from(start + piece.size)
                moves.append(_Move(number, start, piece.size, True, wish.keeps[start], onward))
                continue
            for first, size in wish.places:
                if first == start:
                    moves.append(_Move(number, start, size, False, 0, self._position_from(start + size)))
        return moves

    def _position_from(self, start: int) -> int:
        return bisect.bisect_left(self._starts, start)


def _with(move: _Move, rest: Arrangement, gone: tuple[int, int, int]) -> Arrangement:
    """The rest of the axis, and this move before it."""
    if move.keeps:
        return rest._replace(
            parts_lost=rest.parts_lost + move.parts_lost,
            kept=(move.start, *rest.kept),
            kept_for=(move.wish or 0, *rest.kept_for),
        )
    disturbed, removed, parts = gone
    new = rest.new if move.wish is None else tuple(sorted([(move.wish, move.start, move.size), *rest.new]))
    return Arrangement(
        rest.disturbed + disturbed, rest.removed + removed, rest.parts_lost + parts, rest.kept, rest.kept_for, new
    )


def _possible(left: Left, wish: int | None) -> bool:
    return wish is None or left[wish] > 0


def _less(left: Left, wish: int | None) -> Left:
    return left if wish is None else (*left[:wish], left[wish] - 1, *left[wish + 1 :])


def _smallest(sets: set[tuple[int, ...]]) -> set[tuple[int, ...]]:
    fewest = min(map(len, sets), default=0)
    return {members for members in sets if len(members) == fewest}


def _sums(numbers: t.Iterable[int]) -> list[int]:
    return [0, *itertools.accumulate(numbers)]
