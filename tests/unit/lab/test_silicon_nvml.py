# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The mock NVML, asked through nvidia-ml-py as hosts ask it: each time by a new process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pynvml
import pytest
import silicon
from fleet import Gpus, Host, Kernel
from mig_machine import VERSION, compile_library

HOST = Host("node-1", 11, "debian12", Gpus("H100-SXM", 4), 2, 4, "disabled", Kernel("absent"))

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="the mock library is compiled with gcc")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the compiled library."""
    return compile_library(tmp_path_factory.mktemp("library"))


class Node:
    """A host without a kernel: its silicon, and a folder that stands for /dev."""

    def __init__(self, place: Path, library: Path, host: Host) -> None:
        self.silicon = place / "silicon"
        self.devices = place / "dev"
        self.devices.mkdir()
        silicon.prepare_host(host, self.silicon)
        for name in ("nvidiactl", *(f"nvidia{index}" for index in range(host.gpus.count))):
            (self.devices / name).touch()
        self._environment = {
            **os.environ,
            "LD_LIBRARY_PATH": str(library),
            "SILICON": str(self.silicon),
            "SILICON_DEV": str(self.devices),
            "PYTHONPATH": str(Path(pynvml.__file__).parent),
        }

    def load(self, version: str = VERSION) -> None:
        with silicon.edit_state(self.silicon) as state:
            state["module.nvidia"] = f"{version} open"

    def ask(self, expression: str, first: str = "pass") -> Any:
        """Evaluate an expression of ``n`` (pynvml) and ``h`` (handles by index) after a statement.

        An NVMLError becomes its code and text.
        """
        program = (
            "import json, pynvml as n\n"
            "def answer():\n"
            "    n.nvmlInit()\n"
            "    h = lambda index: n.nvmlDeviceGetHandleByIndex(index)\n"
            f"    {first}\n"
            f"    return {expression}\n"
            "try:\n    print(json.dumps(answer(), default=str))\n"
            "except n.NVMLError as error:\n    print(json.dumps({'error': error.value, 'text': str(error)}))\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", program], env=self._environment, capture_output=True, text=True, check=True
        )
        return json.loads(done.stdout)


@pytest.fixture
def node(tmp_path: Path, library: Path) -> Node:
    node = Node(tmp_path, library, HOST)
    node.load()
    return node


def test_no_loaded_driver_is_driver_not_loaded(tmp_path: Path, library: Path) -> None:
    assert Node(tmp_path, library, HOST).ask("0")["error"] == pynvml.NVML_ERROR_DRIVER_NOT_LOADED


@pytest.mark.parametrize("loaded", ["580.95.04", "595.91.07", "580.95.051"])
def test_another_driver_version_is_a_mismatch(node: Node, loaded: str) -> None:
    node.load(loaded)
    assert node.ask("0")["error"] == pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH
    node.load(VERSION)
    assert node.ask("n.nvmlSystemGetDriverVersion()") == VERSION


def test_versions(node: Node) -> None:
    answer = node.ask("[n.nvmlSystemGetDriverVersion(), n.nvmlSystemGetCudaDriverVersion_v2()]")
    assert answer == [VERSION, 13000]


def test_gpus_are_those_of_the_board(node: Node) -> None:
    board = silicon.read_board(node.silicon)
    answer = node.ask(
        "[[n.nvmlDeviceGetUUID(h(i)), n.nvmlDeviceGetName(h(i)), n.nvmlDeviceGetPciInfo(h(i)).busId,"
        " n.nvmlDeviceGetMinorNumber(h(i)), n.nvmlDeviceGetMemoryInfo(h(i)).total]"
        " for i in range(n.nvmlDeviceGetCount())]"
    )
    assert answer == [
        [
            board[f"gpu.{index}.uuid"],
            "NVIDIA H100 80GB HBM3",
            "0000" + board[f"gpu.{index}.pci"].upper(),
            index,
            81559 << 20,
        ]
        for index in range(4)
    ]


def test_only_gpus_whose_device_node_is_there_are_counted(node: Node) -> None:
    for index in (0, 2):
        (node.devices / f"nvidia{index}").unlink()
    answer = node.ask("[n.nvmlDeviceGetMinorNumber(h(i)) for i in range(n.nvmlDeviceGetCount())]")
    assert answer == [1, 3]


def test_without_the_control_device_there_is_no_driver(node: Node) -> None:
    (node.devices / "nvidiactl").unlink()
    assert node.ask("0")["error"] == pynvml.NVML_ERROR_DRIVER_NOT_LOADED


def test_handles_are_found_by_uuid_serial_and_bus_id(node: Node) -> None:
    board = silicon.read_board(node.silicon)
    answer = node.ask(
        f"[n.nvmlDeviceGetIndex(x) for x in (n.nvmlDeviceGetHandleByUUID('{board['gpu.2.uuid']}'),"
        f" n.nvmlDeviceGetHandleBySerial('{board['gpu.2.serial']}'),"
        f" n.nvmlDeviceGetHandleByPciBusId('{board['gpu.2.pci']}'))]"
    )
    assert answer == [2, 2, 2]
    assert node.ask("n.nvmlDeviceGetHandleByUUID('GPU-0')")["error"] == pynvml.NVML_ERROR_NOT_FOUND


@pytest.mark.parametrize(
    ("model", "answer"),
    [("H100-SXM", [0, 0]), ("L4", {"error": pynvml.NVML_ERROR_NOT_SUPPORTED, "text": "Not Supported"})],
)
def test_mig_is_off_or_not_supported(tmp_path: Path, library: Path, model: str, answer: object) -> None:
    host = Host("node-1", 11, "debian12", Gpus(model, 1), 1, 0, "disabled", Kernel("absent"))
    node = Node(tmp_path, library, host)
    node.load()
    assert node.ask("n.nvmlDeviceGetMigMode(h(0))") == answer


@pytest.mark.skipif(os.geteuid() != 0, reason="only root changes modes")
def test_persistence_mode_outlives_the_process_that_set_it(node: Node) -> None:
    assert node.ask("n.nvmlDeviceGetPersistenceMode(h(1))") == 0
    node.ask("n.nvmlDeviceSetPersistenceMode(h(1), 1)")
    assert node.ask("[n.nvmlDeviceGetPersistenceMode(h(i)) for i in range(4)]") == [0, 1, 0, 0]
    node.ask("n.nvmlDeviceSetPersistenceMode(h(1), 0)")
    assert node.ask("n.nvmlDeviceGetPersistenceMode(h(1))") == 0


def test_a_lost_gpu_says_so_and_the_others_go_on(node: Node) -> None:
    silicon.lose_gpu(node.silicon, 1)
    assert node.ask("n.nvmlDeviceGetUUID(h(1))")["error"] == pynvml.NVML_ERROR_GPU_IS_LOST
    assert node.ask("n.nvmlDeviceGetCount()") == 4
    assert node.ask("n.nvmlDeviceGetUUID(h(2))").startswith("GPU-")


def test_an_injected_xid_reaches_the_event_set_of_its_gpu(node: Node) -> None:
    silicon.inject_xid(node.silicon, 0, 31)  # before the set exists: not delivered
    late = f"import sys; sys.path.insert(0, {str(silicon.SOURCE.parent)!r}); import silicon, pathlib; "
    late += f"[silicon.inject_xid(pathlib.Path({str(node.silicon)!r}), gpu, xid) for gpu, xid in ((1, 48), (2, 79))]"
    first = (
        "import subprocess, sys; s = n.nvmlEventSetCreate();"
        "n.nvmlDeviceRegisterEvents(h(2), n.nvmlEventTypeXidCriticalError, s);"
        f"subprocess.run([sys.executable, '-c', {late!r}], check=True);"
        "e = n.nvmlEventSetWait_v2(s, 2000)"
    )
    assert node.ask("[e.eventData, n.nvmlDeviceGetIndex(e.device)]", first) == [79, 2]


def test_waiting_for_events_ends_with_a_timeout(node: Node) -> None:
    answer = node.ask("n.nvmlEventSetWait_v2(n.nvmlEventSetCreate(), 60)")
    assert answer["error"] == pynvml.NVML_ERROR_TIMEOUT


def test_the_fabric_is_complete_once_a_fabric_manager_has_run(node: Node) -> None:
    ask = "c = n.c_nvmlGpuFabricInfoV_t(); n.nvmlDeviceGetGpuFabricInfoV(h(0), n.byref(c))"
    assert node.ask("c.state", ask) == pynvml.NVML_GPU_FABRIC_STATE_NOT_STARTED
    with silicon.edit_state(node.silicon) as state:
        state["fabric.manager"] = VERSION
    assert node.ask("c.state", ask) == pynvml.NVML_GPU_FABRIC_STATE_COMPLETED


def test_topology_and_nvlink_follow_numa_and_switches(node: Node) -> None:
    board = silicon.read_board(node.silicon)
    answer = node.ask(
        "[n.nvmlDeviceGetTopologyCommonAncestor(h(0), h(1)), n.nvmlDeviceGetTopologyCommonAncestor(h(0), h(3)),"
        " n.nvmlDeviceGetNvLinkState(h(0), 17), n.nvmlDeviceGetNvLinkRemotePciInfo(h(0), 1).busId]"
    )
    assert answer == [40, 50, 1, "0000" + board["nvswitch.1.pci"].upper()]
    assert node.ask("n.nvmlDeviceGetNvLinkState(h(0), 18)")["error"] == pynvml.NVML_ERROR_INVALID_ARGUMENT


def test_a_process_computes_on_the_gpus_it_holds_together_with_unified_memory(node: Node) -> None:
    (node.devices / "nvidia-uvm").touch()
    hold = f"import os, sys; [os.open(f'{node.devices}/{{name}}', os.O_RDONLY) for name in sys.argv[1:]]; input()"
    commands = ([sys.executable, "-c", hold, *names] for names in (["nvidia1", "nvidia-uvm"], ["nvidia2"]))
    holders = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for command in commands]
    try:
        _wait_until(lambda: all(_holds_below(holder.pid, node.devices) for holder in holders))
        answer = node.ask("[[p.pid for p in n.nvmlDeviceGetComputeRunningProcesses(h(i))] for i in range(4)]")
    finally:
        for holder in holders:
            holder.communicate(b"\n")
    assert [holders[0].pid in pids for pids in answer] == [False, True, False, False]
    assert not any(holders[1].pid in pids for pids in answer)


def _holds_below(pid: int, folder: Path) -> bool:
    links = Path(f"/proc/{pid}/fd").iterdir()
    return any(os.path.realpath(link).startswith(str(folder)) for link in links)


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_error_texts_come_from_the_library(node: Node) -> None:
    assert node.ask("n.nvmlDeviceGetHandleByIndex(9)")["text"] == "Invalid Argument"
    assert node.ask("str(n.NVMLError(19))") == "In use by another client"
