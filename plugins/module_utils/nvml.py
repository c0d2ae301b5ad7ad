# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""NVIDIA's management library, through the nvidia-ml-py source that comes with the call.

The source is one Python file of the controller. It is compiled in memory, so that nothing is written on the host, and
only when the library itself can be opened. A call that this driver's library lacks gives None for its fact.
"""

from __future__ import annotations

import base64
import ctypes
import importlib
import sys
import types
import typing as t
import zlib

LIBRARY = "libnvidia-ml.so.1"
BYTES_IN_MIB = 1 << 20

# nvmlMemoryErrorType_t, nvmlEccCounterType_t
UNCORRECTED = 1
SINCE_DRIVER_LOAD = 0
# nvmlGpuFabricState_t; 0 is a GPU that is on no fabric
FABRIC_STATES = {1: "not_started", 2: "in_progress", 3: "completed"}

# nvmlReturn_t
INVALID_ARGUMENT = 2
NOT_SUPPORTED = 3
NO_PERMISSION = 4
NOT_FOUND = 6
DRIVER_NOT_LOADED = 9
LIBRARY_NOT_FOUND = 12
FUNCTION_NOT_FOUND = 13
RESET_REQUIRED = 16
LIB_RM_VERSION_MISMATCH = 18
IN_USE = 19
INSUFFICIENT_RESOURCES = 23
STATES = {
    DRIVER_NOT_LOADED: "driver_not_loaded",
    LIBRARY_NOT_FOUND: "no_library",
    LIB_RM_VERSION_MISMATCH: "version_mismatch",
}

Gpu = dict[str, t.Any]


class NvmlSourceError(Exception):
    """The nvidia-ml-py source that was handed over cannot be used."""


def packed_source(source: bytes) -> str:
    """nvidia-ml-py's source as text for a module option."""
    return base64.b64encode(zlib.compress(source, 9)).decode("ascii")


def read_nvml(packed: str | None, driver_loaded: bool) -> tuple[dict[str, t.Any], list[Gpu]]:
    """The library's state and the GPUs it shows; never fails because of the driver, whose state is the answer.

    Without a loaded driver the library is not initialised: run by root, that would load the kernel module.
    """
    try:
        ctypes.CDLL(LIBRARY)
    except OSError as error:
        return _state(LIBRARY_NOT_FOUND, str(error)), []
    if not driver_loaded:
        return _state(DRIVER_NOT_LOADED, "the kernel module nvidia is not loaded"), []
    return read_with(load(packed))


def load(packed: str | None) -> t.Any:
    """The module in a packed_source(), else the host's own pynvml; raises NvmlSourceError when neither can be used."""
    try:
        return _compiled(packed) if packed else importlib.import_module("pynvml")
    except (ImportError, SyntaxError, ValueError, zlib.error) as error:
        raise NvmlSourceError(f"nvidia-ml-py cannot be used on this host: {error}") from error


def _compiled(packed: str) -> t.Any:
    code = compile(zlib.decompress(base64.b64decode(packed)), "pynvml.py", "exec")
    module = types.ModuleType("pynvml")
    sys.modules["pynvml"] = module  # the source makes its error classes by looking itself up by name
    exec(code, module.__dict__)
    return module


def read_with(nvml: t.Any) -> tuple[dict[str, t.Any], list[Gpu]]:
    """The same with a loaded nvidia-ml-py module."""
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return _state(error.value, str(error)), []
    try:
        gpus = [_gpu(nvml, index) for index in range(_ask(nvml, "nvmlDeviceGetCount") or 0)]
        return _working_state(nvml, len(gpus)), gpus
    finally:
        _ask(nvml, "nvmlShutdown")


def sysfs_address(bus_id: str | None) -> str | None:
    """NVML's "00000000:1B:00.0" as sysfs writes it: "0000:1b:00.0"."""
    if not bus_id:
        return None
    domain, rest = bus_id.lower().split(":", 1)
    return f"{int(domain, 16):04x}:{rest}"


def _state(code: int, message: str) -> dict[str, t.Any]:
    return {
        "state": STATES.get(code, "error"),
        "code": code,
        "message": message,
        "driver_version": None,
        "cuda_version": None,
        "gpu_count": 0,
    }


def _working_state(nvml: t.Any, gpu_count: int) -> dict[str, t.Any]:
    cuda = _ask(nvml, "nvmlSystemGetCudaDriverVersion_v2")
    return {
        "state": "ok",
        "code": 0,
        "message": "",
        "driver_version": _text(_ask(nvml, "nvmlSystemGetDriverVersion")),
        # 13010 is 13.1
        "cuda_version": f"{cuda // 1000}.{cuda % 1000 // 10}" if cuda else None,
        "gpu_count": gpu_count,
    }


def _gpu(nvml: t.Any, index: int) -> Gpu:
    device = _ask(nvml, "nvmlDeviceGetHandleByIndex", index)
    if device is None:  # a GPU that fell off the bus is counted and cannot be opened
        return {"index": index}
    pci, memory = _ask(nvml, "nvmlDeviceGetPciInfo", device), _ask(nvml, "nvmlDeviceGetMemoryInfo", device)
    capability = _ask(nvml, "nvmlDeviceGetCudaComputeCapability", device)
    mig = _ask(nvml, "nvmlDeviceGetMigMode", device)
    persistence = _ask(nvml, "nvmlDeviceGetPersistenceMode", device)
    remapped = _ask(nvml, "nvmlDeviceGetRemappedRows", device)
    mig_handles = _mig_handles(nvml, device) if mig else None
    return {
        "index": index,
        "uuid": _text(_ask(nvml, "nvmlDeviceGetUUID", device)),
        "name": _text(_ask(nvml, "nvmlDeviceGetName", device)),
        "serial": _text(_ask(nvml, "nvmlDeviceGetSerial", device)),
        "pci_address": sysfs_address(_text(pci.busId)) if pci else None,
        "memory_mib": memory.total // BYTES_IN_MIB if memory else None,
        "minor": _ask(nvml, "nvmlDeviceGetMinorNumber", device),
        "compute_capability": ".".join(map(str, capability)) if capability else None,
        "mig_mode": _on_off(mig[0]) if mig else None,
        "mig_devices": _mig_devices(nvml, mig_handles) if mig_handles is not None else None,
        "mig_uuids": [_text(_ask(nvml, "nvmlDeviceGetUUID", handle)) for handle in mig_handles or []] if mig else None,
        "persistence": bool(persistence) if persistence is not None else None,
        "ecc_uncorrected": _ask(nvml, "nvmlDeviceGetTotalEccErrors", device, UNCORRECTED, SINCE_DRIVER_LOAD),
        "row_remap_pending": bool(remapped[2]) if remapped else None,
        "row_remap_failed": bool(remapped[3]) if remapped else None,
        "fabric": _fabric(nvml, device),
    }


def _mig_handles(nvml: t.Any, device: t.Any) -> list[t.Any]:
    most = _ask(nvml, "nvmlDeviceGetMaxMigDeviceCount", device) or 0
    handles = [_ask(nvml, "nvmlDeviceGetMigDeviceHandleByIndex", device, index) for index in range(most)]
    return [handle for handle in handles if handle is not None]


def _mig_devices(nvml: t.Any, handles: list[t.Any]) -> list[str]:
    """Profiles of the MIG devices, whose names end with them: "NVIDIA H100 80GB HBM3 MIG 1g.10gb"."""
    names = [_text(_ask(nvml, "nvmlDeviceGetName", handle)) or "" for handle in handles]
    return [name.rpartition("MIG ")[2] for name in names]


def _fabric(nvml: t.Any, device: t.Any) -> str | None:
    """How far the fabric manager has come with this GPU; None on no fabric, and before Hopper, where nobody tells."""
    structure = getattr(nvml, "c_nvmlGpuFabricInfo_t", None)
    info = structure() if structure else None
    if info is None or _ask(nvml, "nvmlDeviceGetGpuFabricInfo", device, ctypes.byref(info)) is None:
        return None
    state = FABRIC_STATES.get(info.state)
    return "failed" if state == "completed" and info.status else state


def _ask(nvml: t.Any, name: str, *arguments: t.Any) -> t.Any:
    """The answer of one call, or None when this GPU, library or nvidia-ml-py does not have it."""
    try:
        return getattr(nvml, name)(*arguments)
    except (nvml.NVMLError, AttributeError):
        return None


def _on_off(value: int) -> str:
    return "enabled" if value else "disabled"


def _text(value: t.Any) -> str | None:
    """Older releases of nvidia-ml-py answer bytes."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
