# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""MIG on the host this runs on: opens NVML and the lock, for the module mig."""

from __future__ import annotations

import contextlib
import os
import typing as t

from ansible_collections.onprem.gpu.plugins.module_utils.gpu_users import CheckpointError
from ansible_collections.onprem.gpu.plugins.module_utils.host import Host
from ansible_collections.onprem.gpu.plugins.module_utils.mig_nvml import MigLibrary
from ansible_collections.onprem.gpu.plugins.module_utils.mig_run import (
    MigRunError,
    Result,
    Wish,
    converge,
    failure,
    only_run,
    reason_of,
)
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


def partition(packed_source: str | None, wish: Wish, check_mode: bool, lock_timeout_seconds: float) -> Result:
    """Bring this host's GPUs where they are wanted; a result as mig_run.converge's, also when NVML does not open."""
    try:
        require_root()
        with only_run(lock_timeout_seconds), opened(packed_source) as library:
            return converge(library, wish, check_mode)
    except MigRunError as error:
        return failure(error.reason, str(error))


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
