# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""GPU models that can be partitioned, for planning without hardware.

Hosts never read this: there the GPU itself says what it offers. Placements and numbers: listings of real drivers (A30,
A100 40 GB, H100, RTX PRO 6000) and NVIDIA's MIG user guide; those of the other models with eight memory slices follow
the same scheme. Numbers of profiles change with the driver, so nothing should depend on them. Names follow from the
memory: the driver of a host may round another way.
"""

from __future__ import annotations

import typing as t

from ansible_collections.onprem.gpu.plugins.module_utils.gpu_models import MODELS as GPU_MODELS
from ansible_collections.onprem.gpu.plugins.module_utils.mig_layout import (
    ComputeProfile,
    Gpu,
    GpuInstance,
    Mode,
    Placement,
    Profile,
)
from ansible_collections.onprem.gpu.plugins.module_utils.mig_names import built_name

MIB_IN_GB = 1024


class Row(t.NamedTuple):
    """A profile of a family. eighths: its share of the memory; size: the memory slices it takes at each start."""

    id: int
    slices: int
    eighths: int
    suffix: str
    instance_count: int
    starts: tuple[int, ...]
    size: int


class MigModel(t.NamedTuple):
    """GPUs with the same profiles and memory."""

    title: str
    device_ids: tuple[str, ...]
    memory_gb: int
    rows: tuple[Row, ...]


SEVEN_SLICES = (
    Row(19, 1, 1, "", 7, (0, 1, 2, 3, 4, 5, 6), 1),
    Row(20, 1, 1, "+me", 1, (0, 1, 2, 3, 4, 5, 6), 1),
    Row(15, 1, 2, "", 4, (0, 2, 4, 6), 2),
    Row(14, 2, 2, "", 3, (0, 2, 4), 2),
    Row(9, 3, 4, "", 2, (0, 4), 4),
    Row(5, 4, 4, "", 1, (0,), 4),
    Row(0, 7, 8, "", 1, (0,), 8),
)
A30_SLICES = (
    Row(14, 1, 2, "", 4, (0, 1, 2, 3), 1),
    Row(21, 1, 2, "+me", 1, (0, 1, 2, 3), 1),
    Row(5, 2, 4, "", 2, (0, 2), 2),
    Row(6, 2, 4, "+me", 1, (0, 2), 2),
    Row(0, 4, 8, "", 1, (0,), 4),
)
RTX_PRO_SLICES = (
    Row(14, 1, 2, "", 4, (0, 3, 6, 9), 3),
    Row(21, 1, 2, "+me", 1, (0, 3, 6, 9), 3),
    Row(47, 1, 2, "+gfx", 4, (0, 3, 6, 9), 3),
    Row(65, 1, 2, "+me.all", 1, (0, 3, 6, 9), 3),
    Row(67, 1, 2, "-me", 4, (0, 3, 6, 9), 3),
    Row(5, 2, 4, "", 2, (0, 6), 6),
    Row(35, 2, 4, "+gfx", 2, (0, 6), 6),
    Row(64, 2, 4, "+me.all", 1, (0, 6), 6),
    Row(66, 2, 4, "-me", 2, (0, 6), 6),
    Row(0, 4, 8, "", 1, (0,), 12),
    Row(32, 4, 8, "+gfx", 1, (0,), 12),
)

# Compute instances of GPU instances, by slices: (number, slices, how many fit).
COMPUTE_PROFILES = {
    1: ((0, 1, 1),),
    2: ((0, 1, 2), (1, 2, 1)),
    3: ((0, 1, 3), (1, 2, 1), (2, 3, 1)),
    4: ((0, 1, 4), (1, 2, 2), (3, 4, 1)),
    7: ((0, 1, 7), (1, 2, 3), (2, 3, 2), (3, 4, 1), (4, 7, 1)),
}

MIG_MODELS = {
    "A30-24GB": MigModel("NVIDIA A30", ("20b7",), 24, A30_SLICES),
    "A100-40GB": MigModel("NVIDIA A100 40GB", ("20b0", "20b1", "20f1", "20f6"), 40, SEVEN_SLICES),
    "A100-80GB": MigModel("NVIDIA A100 80GB", ("20b2", "20b5", "20f3", "20f5"), 80, SEVEN_SLICES),
    "H100-80GB": MigModel("NVIDIA H100 80GB", ("2330", "2324", "2331", "2322"), 80, SEVEN_SLICES),
    "H100-94GB": MigModel("NVIDIA H100 NVL", ("2321", "233a", "2339"), 94, SEVEN_SLICES),
    "GH200-96GB": MigModel("NVIDIA GH200 96GB", ("2342", "233d"), 96, SEVEN_SLICES),
    "H200-141GB": MigModel("NVIDIA H200", ("2335", "233b"), 141, SEVEN_SLICES),
    "GH200-144GB": MigModel("NVIDIA GH200 144GB", ("2348",), 144, SEVEN_SLICES),
    "B200-180GB": MigModel("NVIDIA B200", ("2901",), 180, SEVEN_SLICES),
    "GB200-186GB": MigModel("NVIDIA GB200", ("2941",), 186, SEVEN_SLICES),
    "B300-269GB": MigModel("NVIDIA B300", ("3182",), 269, SEVEN_SLICES),
    "GB300-278GB": MigModel("NVIDIA GB300", ("31c2",), 278, SEVEN_SLICES),
    "RTX-PRO-6000-96GB": MigModel("NVIDIA RTX PRO 6000 Blackwell", ("2bb5", "2bb1", "2bb4"), 96, RTX_PRO_SLICES),
}


def mig_model(text: str) -> MigModel | None:
    """Return the model of a key of MIG_MODELS, a name of gpu_models (A100-SXM4-40GB) or a device id (20b0, 0x20B010DE).

    None when the model cannot be partitioned, or when nobody published where its profiles can stand.
    """
    if text in MIG_MODELS:
        return MIG_MODELS[text]
    ids = {device for device, known in GPU_MODELS.items() if known.model == text} or {device_id(text)}
    return next((model for model in MIG_MODELS.values() if ids & set(model.device_ids)), None)


def is_known(text: str) -> bool:
    """Whether the text names a GPU at all, one with MIG or without."""
    names = {known.model for known in GPU_MODELS.values()}
    return mig_model(text) is not None or text in names or device_id(text) in GPU_MODELS


def device_id(text: str) -> str:
    """The device part of a PCI id as gpu_models has it."""
    return text.lower().removeprefix("0x")[:4]


def profiles_of(model: MigModel) -> tuple[Profile, ...]:
    return tuple(_profile(model, row) for row in model.rows)


def gpu_without_hardware(
    text: str, index: int = 0, *, enabled: bool = False, instances: tuple[GpuInstance, ...] = ()
) -> Gpu:
    """Return a GPU of this model as NVML would report it; one that is not in the table has no MIG mode."""
    model = mig_model(text)
    return Gpu(
        index=index,
        uuid=f"GPU-{index:08x}-0000-0000-0000-000000000000",
        pci_address=f"0000:{index + 1:02x}:00.0",
        model=model.title if model else text,
        device_id=f"0x{_first_id(text, model).upper()}10DE",
        mig_capable=model is not None,
        mode=Mode(enabled, enabled),
        profiles=profiles_of(model) if model else (),
        instances=instances,
    )


def _first_id(text: str, model: MigModel | None) -> str:
    """The id that was meant, if it was one; else the first of the model."""
    if device_id(text) in GPU_MODELS:
        return device_id(text)
    named = [device for device, known in GPU_MODELS.items() if known.model == text]
    return named[0] if named else model.device_ids[0] if model else "0000"


def _profile(model: MigModel, row: Row) -> Profile:
    memory = model.memory_gb * MIB_IN_GB
    share = memory * row.eighths // 8
    return Profile(
        id=row.id,
        name=built_name(row.slices, share, memory, row.suffix),
        slices=row.slices,
        memory_mib=share,
        instance_count=row.instance_count,
        placements=tuple(Placement(start, row.size) for start in row.starts),
        compute_profiles=tuple(ComputeProfile(*numbers) for numbers in COMPUTE_PROFILES[row.slices]),
    )
