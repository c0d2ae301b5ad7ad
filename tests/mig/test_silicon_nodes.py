# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# ruff: noqa: E501 -- programs for other processes
"""Nodes of simulated MIG devices: who makes them, who sees a device through them, who holds them."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mig_machine import VERSION, MigMachine, compile_library
from package_contents import COMPILE, LIBRARIES, LIBRARY, PROGRAMS, SILICON

DEFINES = (f'-DDRIVER_VERSION="{VERSION}"', "-DCUDA_VERSION=13000")
# Occupies every device and says which; one more line of input frees them and ends the process.
OCCUPY = """
import ctypes
cuda = ctypes.CDLL("libcuda.so.1")
def call(name, *arguments):
    code = getattr(cuda, name)(*arguments)
    if code: print(name, code, flush=True), exit(0)
def name_of(device):
    name, size = ctypes.create_string_buffer(96), ctypes.c_size_t()
    call("cuDeviceGetName", name, 96, device)
    call("cuDeviceTotalMem_v2", ctypes.byref(size), device)
    call("cuCtxCreate_v2", ctypes.byref(ctypes.c_void_p()), 0, device)
    return f"{name.value.decode()}, {size.value >> 20} MiB"
count = ctypes.c_int()
call("cuInit", 0)
call("cuDeviceGetCount", ctypes.byref(count))
print("; ".join(name_of(device) for device in range(count.value)), flush=True)
input()
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the driver's libraries and programs."""
    folder = compile_library(tmp_path_factory.mktemp("driver"))
    cuda = [SILICON / source for source in LIBRARIES["libcuda"]]
    subprocess.run([*COMPILE, *LIBRARY, *DEFINES, "-o", folder / "libcuda.so.1", *cuda, "-ldl"], check=True)
    for name in ("nvidia-smi", "nvidia-modprobe"):
        subprocess.run([*COMPILE, *DEFINES, "-o", folder / name, SILICON / PROGRAMS[name], "-ldl"], check=True)
    return folder


@pytest.fixture
def machine(tmp_path: Path, built: Path) -> MigMachine:
    return MigMachine(tmp_path / "machine", built, ["H100-SXM", "H100-SXM"])


def run(machine: MigMachine, program: Path, *arguments: str) -> str:
    command = [str(program), *arguments]
    return subprocess.run(command, env=machine.environment, capture_output=True, text=True, check=True).stdout


def modes(machine: MigMachine) -> dict[str, str]:
    return {
        path.name.removeprefix("nvidia-cap"): oct(stat.S_IMODE(path.stat().st_mode))
        for path in (machine.devices / "nvidia-caps").iterdir()
    }


def uuids(machine: MigMachine, gpu: int = 0) -> list[str]:
    return machine.ask(
        f"g = h({gpu})\n[n.nvmlDeviceGetUUID(n.nvmlDeviceGetMigDeviceHandleByIndex(g, i)) for i in range(7) if not code(n.nvmlDeviceGetMigDeviceHandleByIndex, g, i)]"
    )


def container(machine: MigMachine, *nodes: str) -> dict[str, str]:
    """The environment of a process that was given some of the host's nodes."""
    folder = machine.devices.with_name("container")
    (folder / "nvidia-caps").mkdir(parents=True)
    for name in ("nvidiactl", "nvidia-uvm", *nodes):
        (folder / name).hardlink_to(machine.devices / name)
    return {**machine.environment, "SILICON_DEV": str(folder)}


class Occupant:
    """A process that computes on every device it finds."""

    def __init__(self, environment: dict[str, str]) -> None:
        command = [sys.executable, "-c", OCCUPY]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, env=environment, **pipes)
        assert self.process.stdout
        self.says = self.process.stdout.readline().strip()

    def __enter__(self) -> Occupant:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate("\n")


def test_nvidia_smi_lists_mig_devices_below_their_gpu(machine: MigMachine, built: Path) -> None:
    machine.put(0, "3g.40gb@4", "1g.10gb@0")
    gpus = machine.ask("[n.nvmlDeviceGetUUID(h(i)) for i in (0, 1)]")
    first, second = uuids(machine)
    assert run(machine, built / "nvidia-smi", "-L").splitlines() == [
        f"GPU 0: NVIDIA H100 80GB HBM3 (UUID: {gpus[0]})",
        f"  MIG 3g.40gb     Device  0: (UUID: {first})",
        f"  MIG 1g.10gb     Device  1: (UUID: {second})",
        f"GPU 1: NVIDIA H100 80GB HBM3 (UUID: {gpus[1]})",
    ]


def test_nvidia_smi_makes_the_nodes_of_all_capabilities_and_removes_none(machine: MigMachine, built: Path) -> None:
    machine.put(0, "3g.40gb@4")
    assert set(modes(machine)) == {"1", "2"}, "NVML made nodes"
    run(machine, built / "nvidia-smi")
    nodes = {"1": "0o400", "2": "0o444", "12": "0o444", "13": "0o444"}
    assert modes(machine) == nodes
    machine.ask("gi = gis(h())[0]\nn.nvmlComputeInstanceDestroy(n.nvmlGpuInstanceGetComputeInstanceById(gi, 0))")
    run(machine, built / "nvidia-smi", "-L")
    assert modes(machine) == nodes


def test_nvidia_modprobe_makes_the_node_of_one_capability(machine: MigMachine, built: Path) -> None:
    machine.put(0, "3g.40gb@4")
    capability = machine.silicon / "proc/driver/nvidia/capabilities/gpu0/mig/gi1/access"
    run(machine, built / "nvidia-modprobe", "-f", str(capability))
    assert set(modes(machine)) == {"1", "2", "12"}
    missing = [str(built / "nvidia-modprobe"), "-f", str(capability.with_name("none"))]
    assert subprocess.run(missing, env=machine.environment, check=False).returncode == 1


def test_a_container_sees_the_mig_devices_whose_nodes_it_was_given(machine: MigMachine, built: Path) -> None:
    machine.put(0, "1g.10gb@0", "1g.10gb@1", "2g.20gb@2")
    machine.put(1, "7g.80gb@0")
    run(machine, built / "nvidia-smi")
    _, hidden, wanted = uuids(machine)
    machine.ask("gi = gis(h())[1]\nn.nvmlComputeInstanceDestroy(n.nvmlGpuInstanceGetComputeInstanceById(gi, 0))")
    machine.environment = container(
        machine, "nvidia0", *(f"nvidia-caps/nvidia-cap{minor}" for minor in capabilities(machine, 0, 4))
    )
    assert machine.ask("n.nvmlDeviceGetCount()") == 1
    assert uuids(machine) == [wanted]
    assert machine.ask(f"n.nvmlDeviceGetIndex(n.nvmlDeviceGetHandleByUUID({wanted!r}))") == 0, (
        "not its place in the container"
    )
    assert machine.ask(f"n.nvmlDeviceGetHandleByUUID({hidden!r})") == {"error": 6}


def capabilities(machine: MigMachine, gpu: int, gpu_instance: int) -> list[str]:
    """The minors of a GPU instance and of its first compute instance."""
    lines = (machine.silicon / "proc/driver/nvidia-caps/mig-minors").read_text().splitlines()
    minors = dict(line.split() for line in lines)
    return [minors[f"gpu{gpu}/gi{gpu_instance}/{name}"] for name in ("access", "ci0/access")]


def test_a_context_on_a_mig_device_is_listed_and_keeps_its_instance(machine: MigMachine, built: Path) -> None:
    machine.put(0, "3g.40gb@4", "1g.10gb@0")
    run(machine, built / "nvidia-smi")
    destroy = "g = h()\ngi = n.nvmlDeviceGetGpuInstanceById(g, {})\ncode(n.nvmlComputeInstanceDestroy, n.nvmlGpuInstanceGetComputeInstanceById(gi, 0))"
    listed = "[[p.pid, p.gpuInstanceId, p.computeInstanceId] for p in n.nvmlDeviceGetComputeRunningProcesses(h({}))]"
    with Occupant(machine.environment) as occupant:
        assert occupant.says == "NVIDIA H100 80GB HBM3 MIG 3g.40gb, 40448 MiB"
        assert machine.ask(listed.format(0)) == [[occupant.process.pid, 1, 0]]
        assert machine.ask(listed.format(1)) == []
        assert machine.ask(destroy.format(1)) == 19
        assert machine.ask(destroy.format(7)) == 0
    assert machine.ask(destroy.format(1)) == 0


def test_cuda_finds_one_mig_device_or_whole_gpus(machine: MigMachine, built: Path) -> None:
    machine.put(0, "1g.10gb@0", "1g.10gb+me@1")
    run(machine, built / "nvidia-smi")
    with machine.edit() as state:
        state["fabric.manager"] = VERSION
    gpus, migs = machine.ask("[n.nvmlDeviceGetUUID(h(i)) for i in (0, 1)]"), uuids(machine)
    cases = {
        None: "NVIDIA H100 80GB HBM3 MIG 1g.10gb, 9984 MiB",
        f"{migs[1]},{migs[0]}": "NVIDIA H100 80GB HBM3 MIG 1g.10gb+me, 9984 MiB",
        gpus[1]: "NVIDIA H100 80GB HBM3, 81559 MiB",
        "0": "NVIDIA H100 80GB HBM3, 81559 MiB",
        gpus[0]: "cuInit 100",
        f"1,{migs[0]}": "cuInit 100",
    }
    for chosen, says in cases.items():
        visible = {"CUDA_VISIBLE_DEVICES": chosen} if chosen else {}
        with Occupant({**machine.environment, **visible}) as occupant:
            assert occupant.says == says


def test_a_context_on_a_mig_device_without_nodes_fails(machine: MigMachine) -> None:
    machine.put(0, "1g.10gb@0")
    with Occupant(machine.environment) as occupant:
        assert occupant.says == "cuCtxCreate_v2 304"
