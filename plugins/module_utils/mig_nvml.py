# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""MIG through NVML: read every GPU of the host, and carry out one operation of a plan at a time.

The only place that calls NVML's MIG functions. Handles die with instances, modes and resets, so each call looks them up
again by the GPU's UUID and the ids NVML gave. Facts about the calls are from nvml.h and nvidia-ml-py.
"""

from __future__ import annotations

import ctypes
import os
import typing as t

from ansible_collections.onprem.gpu.plugins.module_utils.gpu_users import described_process, pods_by_device
from ansible_collections.onprem.gpu.plugins.module_utils.host import Host
from ansible_collections.onprem.gpu.plugins.module_utils.mig_layout import (
    ComputeInstance,
    Gpu,
    GpuInstance,
    Mode,
    Placement,
    Profile,
)
from ansible_collections.onprem.gpu.plugins.module_utils.mig_names import PREFIX_OF_NVML, SUFFIXES, built_name
from ansible_collections.onprem.gpu.plugins.module_utils.nvml import (
    BYTES_IN_MIB,
    FUNCTION_NOT_FOUND,
    INSUFFICIENT_RESOURCES,
    INVALID_ARGUMENT,
    NOT_FOUND,
    NOT_SUPPORTED,
    sysfs_address,
)

SHARED_ENGINES = 0  # the only engine profile there is
NVLINK_COMPUTE_ENUM = 8  # NVML_COMPUTE_INSTANCE_PROFILE_7_SLICE_NVL: looks like the plain 7-slice one, and is not
PROFILES_ASKED = 64  # enumerations end with INVALID_ARGUMENT long before; a library that never says so must not hang us
NO_INSTANCE = 0xFFFFFFFF
RESET_SECONDS = 120.0
DRM_MODULE = "/sys/module/nvidia_drm"


class GpuError(Exception):
    """One GPU does not answer; says which. `value` is NVML's code."""

    def __init__(self, message: str, value: int) -> None:
        super().__init__(message)
        self.value = value


class MigLibrary:
    """NVML with MIG, initialised by the caller, and what the host knows of the GPUs' users."""

    def __init__(self, nvml: t.Any, host: Host) -> None:
        self._nvml, self._host = nvml, host
        self._pods = pods_by_device(host)
        self.errors: tuple[type[Exception], ...] = (nvml.NVMLError, GpuError)

    # --- reading ---

    def gpus(self) -> list[Gpu]:
        """Every GPU of the host in NVML's order; raises GpuError for one that does not answer."""
        return [self._answering(index) for index in range(self._nvml.nvmlDeviceGetCount())]

    def gpu(self, uuid: str) -> Gpu:
        """One GPU as it is now."""
        return self._gpu(self._nvml.nvmlDeviceGetIndex(self._device(uuid)))

    def _answering(self, index: int) -> Gpu:
        try:
            return self._gpu(index)
        except self._nvml.NVMLError as error:
            raise GpuError(f"GPU {index} does not answer: {error}", error.value) from error

    def _gpu(self, index: int) -> Gpu:
        nvml = self._nvml
        device = nvml.nvmlDeviceGetHandleByIndex(index)
        pci, uuid = nvml.nvmlDeviceGetPciInfo(device), nvml.nvmlDeviceGetUUID(device)
        modes = self._absent_as_none(nvml.nvmlDeviceGetMigMode, device)
        enabled = bool(modes and modes[0])
        profiles = self._profiles(device, enabled) if modes else ()
        return Gpu(
            index=index,
            uuid=uuid,
            pci_address=sysfs_address(pci.busId) or "",
            model=nvml.nvmlDeviceGetName(device),
            device_id=f"0x{pci.pciDeviceId:08X}",
            subsystem_id=f"0x{pci.pciSubSystemId:08X}",
            mig_capable=modes is not None,
            mode=Mode(bool(modes[0]), bool(modes[1])) if modes else Mode(False, False),
            profiles=profiles,
            instances=self._instances(device, profiles) if enabled else (),
            users=tuple(f"pod {pod}" for pod in self._pods.get(uuid, ())),
        )

    def _profiles(self, device: t.Any, enabled: bool) -> tuple[Profile, ...]:
        memory_mib = self._nvml.nvmlDeviceGetMemoryInfo(device).total // BYTES_IN_MIB
        offered = self._enumerated(lambda number: self._profile_info(device, number, enabled))
        return tuple(self._profile(device, number, info, memory_mib) for number, info in offered)

    def _profile_info(self, device: t.Any, number: int, enabled: bool) -> t.Any:
        """The newer call has the name and, says nvml.h, works only with MIG on; older drivers have only the other."""
        ask = self._nvml.nvmlDeviceGetGpuInstanceProfileInfo
        if enabled:
            try:
                return ask(device, number, version=2)
            except self._nvml.NVMLError as error:
                if error.value != FUNCTION_NOT_FOUND:
                    raise
        return ask(device, number, version=1)

    def _profile(self, device: t.Any, number: int, info: t.Any, memory_mib: int) -> Profile:
        nvml = self._nvml
        given = str(getattr(info, "name", ""))
        places = self._listed(
            nvml.nvmlDeviceGetGpuInstancePossiblePlacements, device, info.id, nvml.c_nvmlGpuInstancePlacement_t
        )
        return Profile(
            id=info.id,
            name=given.replace(PREFIX_OF_NVML, "", 1)
            or built_name(info.sliceCount, info.memorySizeMB, memory_mib, SUFFIXES.get(number, "")),
            slices=info.sliceCount,
            memory_mib=info.memorySizeMB,
            instance_count=info.instanceCount,
            placements=tuple(Placement(each.start, each.size) for each in places),
        )

    def _instances(self, device: t.Any, profiles: t.Sequence[Profile]) -> tuple[GpuInstance, ...]:
        nvml = self._nvml
        uuids = self._mig_uuids(device)
        processes = self._processes(device, uuids)
        found: list[GpuInstance] = []
        for profile in profiles:
            handles = self._listed(
                nvml.nvmlDeviceGetGpuInstances, device, profile.id, nvml.c_nvmlGpuInstance_t, profile.instance_count
            )
            found.extend(self._instance(handle, profile, uuids, processes) for handle in handles)
        return tuple(sorted(found, key=lambda instance: instance.placement.start))

    def _instance(
        self,
        handle: t.Any,
        profile: Profile,
        uuids: t.Mapping[tuple[int, int], str],
        processes: t.Mapping[tuple[int, int], t.Sequence[str]],
    ) -> GpuInstance:
        info = self._nvml.nvmlGpuInstanceGetInfo(handle)
        return GpuInstance(
            id=info.id,
            profile_id=profile.id,
            placement=Placement(info.placement.start, info.placement.size),
            compute_instances=tuple(self._compute_instances(handle, info.id, uuids, processes)),
            users=tuple(processes.get((info.id, NO_INSTANCE), ())),
        )

    def _compute_instances(
        self,
        instance: t.Any,
        instance_id: int,
        uuids: t.Mapping[tuple[int, int], str],
        processes: t.Mapping[tuple[int, int], t.Sequence[str]],
    ) -> t.Iterator[ComputeInstance]:
        nvml = self._nvml
        for _number, profile in self._compute_profiles(instance):
            handles = self._listed(
                nvml.nvmlGpuInstanceGetComputeInstances,
                instance,
                profile.id,
                nvml.c_nvmlComputeInstance_t,
                profile.instanceCount,
            )
            for info in map(nvml.nvmlComputeInstanceGetInfo, handles):
                uuid = uuids.get((instance_id, info.id))
                pods = self._pods.get(uuid or "", ())
                yield ComputeInstance(
                    id=info.id,
                    profile_id=profile.id,
                    slices=profile.sliceCount,
                    start=info.placement.start,
                    size=info.placement.size,
                    users=(*processes.get((instance_id, info.id), ()), *(f"pod {pod}" for pod in pods)),
                    uuid=uuid,
                )

    def _compute_profiles(self, instance: t.Any) -> list[tuple[int, t.Any]]:
        ask = self._nvml.nvmlGpuInstanceGetComputeInstanceProfileInfo
        return self._enumerated(lambda number: ask(instance, number, SHARED_ENGINES, version=1))

    def _enumerated(self, ask: t.Callable[[int], t.Any]) -> list[tuple[int, t.Any]]:
        """The numbers of an enumeration that this GPU has, with what is said of each."""
        found: list[tuple[int, t.Any]] = []
        for number in range(PROFILES_ASKED):
            try:
                found.append((number, ask(number)))
            except self._nvml.NVMLError as error:
                if error.value == INVALID_ARGUMENT:
                    break
                if error.value != NOT_SUPPORTED:
                    raise
        return found

    def _mig_devices(self, device: t.Any) -> t.Iterator[t.Any]:
        """Indexes of MIG devices have holes."""
        nvml = self._nvml
        for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(device)):
            try:
                yield nvml.nvmlDeviceGetMigDeviceHandleByIndex(device, index)
            except nvml.NVMLError as error:
                if error.value not in (NOT_FOUND, INVALID_ARGUMENT):
                    raise

    def _mig_uuids(self, device: t.Any) -> dict[tuple[int, int], str]:
        nvml = self._nvml
        return {
            (nvml.nvmlDeviceGetGpuInstanceId(each), nvml.nvmlDeviceGetComputeInstanceId(each)): nvml.nvmlDeviceGetUUID(
                each
            )
            for each in self._mig_devices(device)
        }

    def _processes(
        self, device: t.Any, uuids: t.Mapping[tuple[int, int], str]
    ) -> dict[tuple[int, int], tuple[str, ...]]:
        """(GPU instance id, compute instance id) -> processes; only a hint, see gpu_users."""
        nvml = self._nvml
        pids: dict[tuple[int, int], set[int]] = {}
        lists = [nvml.nvmlDeviceGetComputeRunningProcesses, nvml.nvmlDeviceGetGraphicsRunningProcesses]
        for ask in lists:
            for process in self._absent_as_none(ask, device) or ():
                pids.setdefault((process.gpuInstanceId, process.computeInstanceId), set()).add(process.pid)
        for place, uuid in uuids.items():
            handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
            for process in self._absent_as_none(lists[0], handle) or ():
                pids.setdefault(place, set()).add(process.pid)
        return {
            place: tuple(described_process(self._host, pid) for pid in sorted(found)) for place, found in pids.items()
        }

    def _listed(
        self, ask: t.Callable[..., t.Any], owner: t.Any, profile_id: int, kind: t.Any, most: int | None = None
    ) -> list[t.Any]:
        """The array a call fills; without `most` the call is first asked how long it must be."""
        count = ctypes.c_uint(most or 0)
        if most is None:
            ask(owner, profile_id, None, ctypes.byref(count))
        array = (kind * max(count.value, 1))()
        ask(owner, profile_id, array, ctypes.byref(count))
        return list(array[: count.value])

    def _absent_as_none(self, ask: t.Callable[..., t.Any], *arguments: t.Any) -> t.Any:
        try:
            return ask(*arguments)
        except self._nvml.NVMLError as error:
            if error.value in (NOT_SUPPORTED, FUNCTION_NOT_FOUND):
                return None
            raise

    def holders(self, uuid: str) -> list[str]:
        """Other processes that hold the GPU's device node open: what may keep a mode from becoming active."""
        node = f"/dev/nvidia{self._nvml.nvmlDeviceGetMinorNumber(self._device(uuid))}"
        others = [pid for pid in self._host.holders(node) if pid != os.getpid()]
        return [described_process(self._host, pid) for pid in others]

    # --- writing ---

    def set_mode(self, uuid: str, enabled: bool) -> int:
        """Ask for MIG on or off and return the activation status (nvmlReturn_t): 0 when the mode is active now."""
        return int(self._nvml.nvmlDeviceSetMigMode(self._device(uuid), int(enabled)))

    def reset(self, pci_address: str) -> str:
        """Reset one GPU and return why that failed, or "". NVML has no call for it."""
        done = self._host.run(("nvidia-smi", "--gpu-reset", "-i", pci_address), RESET_SECONDS)
        if done is None:
            return f"nvidia-smi is not installed{self._drm_hint()}"
        return "" if done.rc == 0 else (done.stdout + done.stderr).strip() + self._drm_hint()

    def _drm_hint(self) -> str:
        """Makes drivers refuse a reset, while no list of processes shows a user (NVIDIA/mig-parted issue 181)."""
        if not self._host.exists(DRM_MODULE):
            return ""
        return " (the kernel module nvidia_drm is loaded, which may keep GPUs from being reset: modprobe -r nvidia_drm)"

    def create_gpu_instance(self, uuid: str, profile_id: int, placement: Placement) -> int:
        """Return the new instance's id."""
        nvml = self._nvml
        wanted = nvml.c_nvmlGpuInstancePlacement_t(start=placement.start, size=placement.size)
        # By reference: the binding would hand the structure over by value, and the library would take it for a pointer.
        made = nvml.nvmlDeviceCreateGpuInstanceWithPlacement(self._device(uuid), profile_id, ctypes.byref(wanted))
        return int(nvml.nvmlGpuInstanceGetInfo(made).id)

    def destroy_gpu_instance(self, uuid: str, instance_id: int) -> None:
        self._nvml.nvmlGpuInstanceDestroy(self._gpu_instance(uuid, instance_id))

    def create_compute_instance(
        self, uuid: str, instance_id: int, slices: int, fills: bool, profile_id: int | None = None
    ) -> int:
        """Return the id of a new compute instance with so many slices; `fills` says that it is the only one.

        Several compute profiles may have the same slices, and NVML lists some that cannot be created. The one that
        fills its GPU instance takes what has most multiprocessors; one of several takes the least, its share. With
        `profile_id` only that profile is tried where the instance offers it.
        """
        nvml = self._nvml
        instance = self._gpu_instance(uuid, instance_id)
        offered = self._compute_profiles(instance)
        candidates = [info for _number, info in offered if info.id == profile_id] or [
            info for number, info in offered if info.sliceCount == slices and number != NVLINK_COMPUTE_ENUM
        ]
        candidates.sort(key=lambda info: info.multiprocessorCount, reverse=fills)
        refusal = nvml.NVMLError(NOT_SUPPORTED)
        for info in candidates:
            try:
                made = nvml.nvmlGpuInstanceCreateComputeInstance(instance, info.id)
                return int(nvml.nvmlComputeInstanceGetInfo(made).id)
            except nvml.NVMLError as error:
                if error.value not in (INSUFFICIENT_RESOURCES, NOT_SUPPORTED):
                    raise
                refusal = error
        raise refusal

    def destroy_compute_instance(self, uuid: str, instance_id: int, compute_instance_id: int) -> None:
        nvml = self._nvml
        instance = self._gpu_instance(uuid, instance_id)
        nvml.nvmlComputeInstanceDestroy(nvml.nvmlGpuInstanceGetComputeInstanceById(instance, compute_instance_id))

    def _device(self, uuid: str) -> t.Any:
        return self._nvml.nvmlDeviceGetHandleByUUID(uuid)

    def _gpu_instance(self, uuid: str, instance_id: int) -> t.Any:
        return self._nvml.nvmlDeviceGetGpuInstanceById(self._device(uuid), instance_id)
