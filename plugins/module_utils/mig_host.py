# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""MIG on the host this runs on: opens NVML and the lock, for the module mig and the program gpu-mig."""

from __future__ import annotations

import contextlib
import os
import time
import typing as t

from ansible_collections.onprem.gpu.plugins.module_utils.gpu_users import CheckpointError
from ansible_collections.onprem.gpu.plugins.module_utils.host import Host
from ansible_collections.onprem.gpu.plugins.module_utils.mig_layout import Gpu
from ansible_collections.onprem.gpu.plugins.module_utils.mig_nvml import MigLibrary
from ansible_collections.onprem.gpu.plugins.module_utils.mig_run import (
    MigRunError,
    Result,
    converge,
    failure,
    only_run,
    read_gpus,
    reason_of,
)
from ansible_collections.onprem.gpu.plugins.module_utils.mig_wish import Wish
from ansible_collections.onprem.gpu.plugins.module_utils.nvml import (
    DRIVER_NOT_LOADED,
    LIB_RM_VERSION_MISMATCH,
    LIBRARY,
    LIBRARY_NOT_FOUND,
    NO_PERMISSION,
    NvmlSourceError,
    load,
)

ADVICE = {
    DRIVER_NOT_LOADED: "Load the NVIDIA driver (role gpu_driver).",
    LIBRARY_NOT_FOUND: f"Install the NVIDIA driver, which brings {LIBRARY} (role gpu_driver).",
    NO_PERMISSION: "Run as root (become: true).",
    LIB_RM_VERSION_MISMATCH: "The driver was upgraded and the old one is still loaded: load it again or reboot.",
}
# What NVML says while a booting host has not come to its driver yet.
NOT_THERE_YET = (DRIVER_NOT_LOADED, LIBRARY_NOT_FOUND)
DRIVER_POLL_SECONDS = 1.0


def partition(packed_source: str | None, wish: Wish, check_mode: bool, lock_timeout_seconds: float) -> Result:
    """Bring this host's GPUs where they are wanted; a result as mig_run.converge's, also when NVML does not open."""
    try:
        require_root()
        with only_run(lock_timeout_seconds), opened(packed_source) as library:
            return converge(library, wish, check_mode)
    except MigRunError as error:
        return failure(error.reason, str(error))


def present_gpus(packed_source: str | None, lock_timeout_seconds: float) -> list[Gpu]:
    """Every GPU of this host as it is between two runs; raises MigRunError."""
    require_root()
    with only_run(lock_timeout_seconds), opened(packed_source) as library:
        return read_gpus(library)


def wait_for_driver(seconds: float) -> None:
    """Come back when NVML opens, when it fails for another reason than a driver that is not there yet, or in time.

    Whether it opens is for the caller to find out. No lock is held meanwhile, so others can look and are told the same.
    """
    deadline = time.monotonic() + seconds
    with contextlib.suppress(NvmlSourceError):
        nvml = load(None)
        while time.monotonic() < deadline and _is_not_there_yet(nvml):
            time.sleep(DRIVER_POLL_SECONDS)


def _is_not_there_yet(nvml: t.Any) -> bool:
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return error.value in NOT_THERE_YET
    nvml.nvmlShutdown()
    return False


def require_root() -> None:
    """Others may be shown an empty GPU where there are instances, so nothing is asked for them; raises MigRunError."""
    if os.geteuid() != 0:
        raise MigRunError("no_permission", f"Only root can see and change MIG instances. {ADVICE[NO_PERMISSION]}")


@contextlib.contextmanager
def opened(packed_source: str | None) -> t.Iterator[MigLibrary]:
    """NVML, initialised; raises MigRunError."""
    try:
        nvml = load(packed_source)
    except NvmlSourceError as error:
        raise MigRunError("driver", str(error)) from error
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        advice = ADVICE.get(error.value, "Look in the kernel log.")
        raise MigRunError(reason_of(error), f"NVML does not open, so nothing was changed: {error}. {advice}") from error
    try:
        yield MigLibrary(nvml, Host())
    except CheckpointError as error:
        text = f"It cannot be told which pods use GPUs, so nothing was changed: {error}"
        raise MigRunError("driver", text) from error
    finally:
        nvml.nvmlShutdown()


def write_whole(path: str, text: str) -> None:
    """Write a file that everybody may read, in one step, and make its folder."""
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        os.makedirs(folder)
        os.chmod(folder, 0o755)
    new = f"{path}.{os.getpid()}"
    with open(new, "w", encoding="utf-8") as file:
        os.fchmod(file.fileno(), 0o644)
        file.write(text)
    os.replace(new, path)
