# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import ctypes
import pathlib
import sys
import types

import pytest

from ansible_collections.onprem.gpu.plugins.module_utils import nvml
from ansible_collections.onprem.gpu.plugins.module_utils.nvml import (
    NvmlSourceError,
    load,
    packed_source,
    read_nvml,
    read_with,
    sysfs_address,
)


class FakeNvml:
    """As much of nvidia-ml-py as is asked for, for two GPUs; `init_code` is what nvmlInit returns."""

    class NVMLError(Exception):
        def __init__(self, value: int) -> None:
            super().__init__(f"message {value}")
            self.value = value

    def __init__(self, init_code: int = 0) -> None:
        self.init_code = init_code
        self.running = 0

    def nvmlInit(self):
        if self.init_code:
            raise self.NVMLError(self.init_code)
        self.running += 1

    def nvmlShutdown(self):
        self.running -= 1

    def nvmlSystemGetDriverVersion(self):
        return b"580.159.03"

    def nvmlSystemGetCudaDriverVersion_v2(self):
        return 13010

    def nvmlDeviceGetCount(self):
        return 2

    def nvmlDeviceGetHandleByIndex(self, index):
        return index

    def nvmlDeviceGetPciInfo(self, device):
        return types.SimpleNamespace(busId=f"00000000:{device + 0x1B:02X}:00.0".encode())

    def nvmlDeviceGetMemoryInfo(self, device):
        return types.SimpleNamespace(total=80 << 30)

    def nvmlDeviceGetUUID(self, device):
        return f"GPU-{device}"

    def nvmlDeviceGetName(self, device):
        slices = {"MIG-0": " MIG 3g.40gb", "MIG-2": " MIG 1c.2g.20gb"}
        return f"NVIDIA H100 80GB HBM3{slices.get(device, '')}"

    def nvmlDeviceGetSerial(self, device):
        raise self.NVMLError(3)

    def nvmlDeviceGetMinorNumber(self, device):
        return device

    def nvmlDeviceGetCudaComputeCapability(self, device):
        return (9, 0)

    def nvmlDeviceGetMigMode(self, device):
        return [device, device]

    def nvmlDeviceGetMaxMigDeviceCount(self, device):
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, device, index):
        if device == 0 or index not in (0, 2):  # numbers of MIG devices have holes
            raise self.NVMLError(6)
        return f"MIG-{index}"

    def nvmlDeviceGetPersistenceMode(self, device):
        return 1

    def nvmlDeviceGetTotalEccErrors(self, device, error_type, counter_type):
        assert (error_type, counter_type) == (1, 0)  # uncorrected, since the driver was loaded
        return device * 5

    def nvmlDeviceGetRemappedRows(self, device):
        return (2, 1, device, 0)

    class c_nvmlGpuFabricInfo_t(ctypes.Structure):
        _fields_ = (("status", ctypes.c_uint), ("state", ctypes.c_ubyte))

    def nvmlDeviceGetGpuFabricInfo(self, device, reference):
        reference._obj.status, reference._obj.state = self.fabric
        return 0

    fabric = (0, 3)


def test_gpus_of_a_working_driver():
    fake = FakeNvml()
    state, gpus = read_with(fake)
    assert state == {
        "state": "ok",
        "code": 0,
        "message": "",
        "driver_version": "580.159.03",
        "cuda_version": "13.1",
        "gpu_count": 2,
    }
    assert gpus[0] == {
        "index": 0,
        "uuid": "GPU-0",
        "name": "NVIDIA H100 80GB HBM3",
        "serial": None,
        "pci_address": "0000:1b:00.0",
        "memory_mib": 81920,
        "minor": 0,
        "compute_capability": "9.0",
        "mig_mode": "disabled",
        "mig_devices": [],
        "mig_uuids": [],
        "persistence": True,
        "ecc_uncorrected": 0,
        "row_remap_pending": False,
        "row_remap_failed": False,
        "fabric": "completed",
    }
    assert (gpus[1]["pci_address"], gpus[1]["mig_mode"]) == ("0000:1c:00.0", "enabled")
    assert gpus[1]["mig_devices"] == ["3g.40gb", "1c.2g.20gb"]
    assert gpus[1]["mig_uuids"] == ["GPU-MIG-0", "GPU-MIG-2"]  # the fake's prefix, the handles' order
    assert (gpus[1]["ecc_uncorrected"], gpus[1]["row_remap_pending"]) == (5, True)
    assert fake.running == 0


@pytest.mark.parametrize(
    ("fabric", "told"),
    [((0, 0), None), ((0, 1), "not_started"), ((0, 2), "in_progress"), ((0, 3), "completed"), ((999, 3), "failed")],
)
def test_how_far_the_fabric_has_come(monkeypatch, fabric, told):
    monkeypatch.setattr(FakeNvml, "fabric", fabric)
    assert read_with(FakeNvml())[1][0]["fabric"] == told


@pytest.mark.parametrize("missing", ["c_nvmlGpuFabricInfo_t", "nvmlDeviceGetGpuFabricInfo"])
def test_an_older_driver_or_library_tells_nothing_of_fabrics(monkeypatch, missing):
    monkeypatch.delattr(FakeNvml, missing)
    assert read_with(FakeNvml())[1][0]["fabric"] is None


@pytest.mark.parametrize(
    ("code", "state"), [(9, "driver_not_loaded"), (12, "no_library"), (18, "version_mismatch"), (999, "error")]
)
def test_a_driver_that_does_not_answer_is_a_state(code, state):
    found, gpus = read_with(FakeNvml(code))
    assert (found["state"], found["code"], found["message"], gpus) == (state, code, f"message {code}", [])


@pytest.mark.parametrize("missing", ["nvmlDeviceGetMigMode", "nvmlDeviceGetPersistenceMode", "nvmlDeviceGetPciInfo"])
def test_a_call_that_is_missing_costs_one_fact(monkeypatch, missing):
    monkeypatch.delattr(FakeNvml, missing)
    state, gpus = read_with(FakeNvml())
    assert state["state"] == "ok"
    lost = {"nvmlDeviceGetMigMode": "mig_mode", "nvmlDeviceGetPciInfo": "pci_address"}.get(missing, "persistence")
    assert gpus[0][lost] is None
    assert gpus[0]["uuid"] == "GPU-0"


def test_a_gpu_that_cannot_be_opened_is_counted(monkeypatch):
    def lost(self, index):
        if index == 1:
            raise self.NVMLError(15)
        return index

    monkeypatch.setattr(FakeNvml, "nvmlDeviceGetHandleByIndex", lost)
    state, gpus = read_with(FakeNvml())
    assert state["gpu_count"] == 2
    assert gpus[1] == {"index": 1}


def test_a_driver_that_is_not_loaded_is_not_initialised(monkeypatch):
    monkeypatch.setattr(nvml.ctypes, "CDLL", lambda name: name)
    found, gpus = read_nvml("not even looked at", driver_loaded=False)
    assert (found["state"], found["code"], gpus) == ("driver_not_loaded", 9, [])


def test_without_library_nothing_is_compiled(monkeypatch):
    def missing(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(nvml.ctypes, "CDLL", missing)
    found, _gpus = read_nvml("not even looked at", driver_loaded=True)
    assert (found["state"], found["code"]) == ("no_library", 12)
    assert "cannot open shared object file" in found["message"]


@pytest.fixture
def installed_pynvml(monkeypatch):
    """The module as installed here; the one a test loads in its place goes away with the test."""
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    pynvml = pytest.importorskip("pynvml")
    monkeypatch.setitem(sys.modules, "pynvml", pynvml)
    return pynvml


def test_the_real_source_survives_packing_and_works_without_a_file(installed_pynvml):
    packed = packed_source(pathlib.Path(installed_pynvml.__file__).read_bytes())
    loaded = load(packed)
    assert loaded is not installed_pynvml
    assert loaded.NVMLError(loaded.NVML_ERROR_DRIVER_NOT_LOADED).value == 9
    assert isinstance(loaded.NVMLError(18), loaded.NVMLError_LibRmVersionMismatch)


def test_the_real_library_wrapper_answers_a_state_where_there_is_no_gpu(installed_pynvml, monkeypatch):
    monkeypatch.setattr(installed_pynvml, "CDLL", lambda name: (_ for _ in ()).throw(OSError(name)))
    monkeypatch.setattr(installed_pynvml, "nvmlLib", None)
    found, gpus = read_with(installed_pynvml)
    assert (found["state"], gpus) == ("no_library", [])


@pytest.mark.parametrize("packed", ["###", "AAAA", packed_source(b"def broken(:")])
def test_a_damaged_source_is_an_error_that_says_so(packed):
    with pytest.raises(NvmlSourceError, match="nvidia-ml-py cannot be used on this host: "):
        load(packed)


@pytest.mark.parametrize(
    ("bus_id", "address"),
    [("00000000:1B:00.0", "0000:1b:00.0"), ("00010000:03:00.0", "10000:03:00.0"), (None, None), ("", None)],
)
def test_addresses(bus_id, address):
    assert sysfs_address(bus_id) == address
