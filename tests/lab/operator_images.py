# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Images of the operator's operands and of the pods that try GPUs out."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import images
import settings

# A registry that cannot exist: a host that lacks an image says so at once, and never asks the network for it.
REGISTRY = "lab.invalid"
OPERANDS = (
    "k8s-device-plugin:v0.20.0",
    "gpu-feature-discovery:v0.20.0",
    "node-feature-discovery:v0.19.0",
    "gpu-operator:v26.7.0",
)
SMOKE = "gpu-smoke:1"

# What a dynamically linked program that loads libnvidia-ml.so.1 needs besides it.
_LIBRARY_FOLDER = Path("/lib/x86_64-linux-gnu")
_LIBRARIES = ("libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1")
_LOADER = Path("/lib64/ld-linux-x86-64.so.2")
_APPLETS = [
    "cat",
    "echo",
    "env",
    "false",
    "find",
    "grep",
    "head",
    "id",
    "ls",
    "mount",
    "ps",
    "sh",
    "sleep",
    "test",
    "touch",
    "true",
    "wc",
    "wget",
]


def build(programs: Path) -> list[Path]:
    """Write the archives from the operands' programs in a folder; an archive that would not change is left alone.

    All operands are one image under the real ones' names: they differ in the program that the chart starts.
    """
    tags = [f"{REGISTRY}/{name}" for name in OPERANDS]
    return [
        _write("gpu-operands.tar", tags, _programs(programs, ("device-plugin", "feature-labeller"))),
        _write("gpu-smoke.tar", [f"{REGISTRY}/{SMOKE}"], _programs(programs, ("gpu-probe",))),
    ]


def _programs(folder: Path, names: Iterable[str]) -> dict[str, Path | bytes]:
    return {f"usr/bin/{name}": folder / name for name in names}


def _write(archive: str, tags: Iterable[str], programs: dict[str, Path | bytes]) -> Path:
    files: dict[str, Path | bytes] = {
        "bin/busybox": images.BUSYBOX,
        "lib64/ld-linux-x86-64.so.2": _LOADER,
        # The toolkit's hook that makes the loader find injected libraries goes by this file.
        "etc/debian_version": b"12\n",
        **{f"lib/x86_64-linux-gnu/{name}": _LIBRARY_FOLDER / name for name in _LIBRARIES},
        **programs,
    }
    links = {f"bin/{applet}": "busybox" for applet in _APPLETS}
    return images.write_archive(settings.IMAGES / archive, tags, files, ["/bin/sh"], links)
