# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""MIG layouts as text: the memory slices of a GPU in a row, what stands on them, and who uses it.

    GPU 0 A100-SXM4-40GB  |2g.10gb.*|1g.5gb..|........|3g.20gb...........|

A piece is as wide as its share of the memory; * marks an instance in use, / one without a compute instance, and a
number in brackets one with several. Dots without a name are free.
"""

from __future__ import annotations

import typing as t

from ansible_collections.onprem.gpu.plugins.module_utils.mig_layout import (
    Gpu,
    GpuInstance,
    slices_in_words,
    slices_of,
    users_of,
)

WIDTH = 100
LABEL_WIDTH = 26
FILLER = "."


class _Piece(t.NamedTuple):
    size: int
    name: str = ""
    marks: str = ""


def bars(gpu: Gpu) -> list[str]:
    """Return the lines that draw a GPU, none wider than WIDTH: one, or more where names do not fit into their piece."""
    label = f"GPU {gpu.index} {gpu.model}"
    if len(label) > LABEL_WIDTH:
        label = f"{label[: LABEL_WIDTH - 1]}~"
    label = label.ljust(LABEL_WIDTH)
    if not gpu.mig_capable:
        return [f"{label}not MIG capable"]
    if not gpu.mode.current:
        return [f"{label}MIG off{_pending(gpu)}"]
    cells, legend = _cells(gpu, WIDTH - LABEL_WIDTH)
    return [label + "|" + "|".join(cells) + "|", *_legend(legend, _pending(gpu))]


def users(gpu: Gpu) -> list[str]:
    """Return who uses what on a GPU, a line for each user of each instance; first those who hold the whole GPU."""
    return [f"the whole GPU: {user}" for user in gpu.users] + [
        f"{gpu.profile_name(instance.profile_id)} at {slices_in_words(instance.placement)}: {user}"
        for instance in gpu.instances
        for user in users_of(instance)
    ]


def _pending(gpu: Gpu) -> str:
    if gpu.mode.pending == gpu.mode.current:
        return ""
    return f" (pending {'enable' if gpu.mode.pending else 'disable'})"


def _cells(gpu: Gpu, room: int) -> tuple[list[str], list[str]]:
    """The pieces as text of equal width per slice; a name that is too long becomes a letter of the legend."""
    pieces = _pieces(gpu)
    slices = sum(piece.size for piece in pieces)
    width = max((room - 1) // max(slices, 1), 2)
    cells: list[str] = []
    legend: list[str] = []
    for piece in pieces:
        space = width * piece.size - 1
        name = piece.name
        if len(name) + len(piece.marks) > space:
            letter = chr(ord("A") + len(legend))
            legend.append(f"{letter} = {piece.name}{piece.marks}")
            name = letter
        marks = piece.marks if len(name) + len(piece.marks) <= space else piece.marks[:1]
        cells.append((name.ljust(max(space - len(marks), 0), FILLER) + marks)[: max(space, 1)])
    return cells, legend


def _pieces(gpu: Gpu) -> list[_Piece]:
    """Instances and the free slices between them, each of these by itself."""
    pieces: list[_Piece] = []
    position = 0
    for instance in sorted(gpu.instances, key=lambda instance: instance.placement.start):
        pieces += [_Piece(1)] * (instance.placement.start - position)
        pieces.append(_Piece(instance.placement.size, gpu.profile_name(instance.profile_id), _marks(instance)))
        position = instance.placement.start + instance.placement.size
    return [*pieces, *[_Piece(1)] * (slices_of(gpu) - position)]


def _marks(instance: GpuInstance) -> str:
    count = len(instance.compute_instances)
    several = f"({count})" if count > 1 else "/" if count == 0 else ""
    return several + ("*" if instance.in_use else "")


def _legend(legend: t.Sequence[str], pending: str) -> list[str]:
    """The legend under the bar, as many entries a line as fit."""
    lines: list[str] = []
    for entry in [*legend, *([f"MIG on{pending}"] if pending else [])]:
        if lines and len(lines[-1]) + len(entry) + 2 <= WIDTH:
            lines[-1] += f", {entry}"
        else:
            lines.append(" " * LABEL_WIDTH + entry)
    return lines
