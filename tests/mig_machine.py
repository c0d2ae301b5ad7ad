# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A machine with simulated GPUs in a temporary folder, without the lab: what the lab's hosts have as NVML.

    library = mig_machine.compile_library(tmp_path)         # once for many machines
    machine = MigMachine(tmp_path / "m", library, ["A100-SXM-40GB", "T4", "H100-SXM"])
    machine.put(0, "3g.20gb@4", "1g.5gb@0")                 # MIG on, GPU instances with their default compute instance
    machine.mark_busy("gpu.0.gi.1.ci.0", 4711)              # in use; without pids: by somebody no list shows
    machine.inject("create_gi", 999, nth=2)                 # the second create from now on fails with UNKNOWN
    subprocess.run([...], env=machine.environment)          # any process that loads libnvidia-ml.so.1
    machine.calls()                                         # ["create_gi gpu=0 profile=2g.10gb ... result=0", ...]
    machine.reboot()                                        # or machine.reload_driver()

Models are the keys of ``silicon.MODELS``. ``machine.state()`` and ``machine.edit()`` reach everything else that
``tests/lab/silicon/README.md`` lists.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pynvml

sys.path.insert(0, str(Path(__file__).resolve().parent / "lab"))

import silicon
from fleet import Gpus, Host, Kernel
from package_contents import COMPILE, LIBRARIES, LIBRARY, SILICON

VERSION = "580.95.05"
# What every program for ``ask`` starts with: n is nvidia-ml-py, the functions are what it lacks.
PRELUDE = """
import ctypes, json, pynvml as n
n.nvmlInit()
def h(index=0): return n.nvmlDeviceGetHandleByIndex(index)
def profile(gpu, name):
    for e in range(18):
        try: info = n.nvmlDeviceGetGpuInstanceProfileInfo(gpu, e)
        except n.NVMLError: continue
        if info.name == 'MIG ' + name: return info
    raise KeyError(name)
def create(gpu, place):
    name, _, start = place.partition('@')
    info = profile(gpu, name)
    if not start: return n.nvmlDeviceCreateGpuInstance(gpu, info.id)
    size = placements(gpu, info.id)[0][1]
    return n.nvmlDeviceCreateGpuInstanceWithPlacement(
        gpu, info.id, ctypes.byref(n.c_nvmlGpuInstancePlacement_t(int(start), size)))
def default_ci(gi, slices):
    best = None
    for c in range(9):
        try: info = n.nvmlGpuInstanceGetComputeInstanceProfileInfo(gi, c, 0)
        except n.NVMLError: continue
        more = best is None or info.multiprocessorCount > best.multiprocessorCount
        if info.sliceCount == slices and more: best = info
    return n.nvmlGpuInstanceCreateComputeInstance(gi, best.id)
def placements(gpu, id):
    count = ctypes.c_uint()
    n.nvmlDeviceGetGpuInstancePossiblePlacements(gpu, id, None, ctypes.byref(count))
    array = (n.c_nvmlGpuInstancePlacement_t * count.value)()
    n.nvmlDeviceGetGpuInstancePossiblePlacements(gpu, id, array, ctypes.byref(count))
    return [[p.start, p.size] for p in array]
def gis(gpu):
    found = []
    for i in range(15):
        try: found.append(n.nvmlDeviceGetGpuInstanceById(gpu, i))
        except n.NVMLError: pass
    return found
def place(gi):
    info = n.nvmlGpuInstanceGetInfo(gi)
    return [info.id, info.profileId, info.placement.start, info.placement.size]
def code(function, *arguments):
    try: function(*arguments)
    except n.NVMLError as error: return error.value
    return 0
"""


def compile_library(folder: Path) -> Path:
    """Compile the mock library as the lab does and return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    defines = (f'-DDRIVER_VERSION="{VERSION}"', "-DCUDA_VERSION=13000")
    sources = (SILICON / source for source in LIBRARIES["libnvidia-ml"])
    output = folder / "libnvidia-ml.so.1"
    subprocess.run([*COMPILE, *LIBRARY, *defines, "-o", output, *sources], check=True)
    return folder


def _kernel() -> ModuleType:
    spec = importlib.util.spec_from_file_location("kernel_of_mig_machine", SILICON / "kernel.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


kernel = _kernel()


class MigMachine:
    """A host without a kernel: its silicon, and a folder that stands for /dev."""

    def __init__(self, place: Path, library: Path, models: Sequence[str], *, passthrough: bool = False) -> None:
        self.silicon, self.devices = place / "silicon", place / "dev"
        (self.devices / "nvidia-caps").mkdir(parents=True)
        gpus = Gpus(models[0], len(models))
        host = Host("node-1", 11, "debian12", gpus, 1, 0, "disabled", Kernel("absent"), passthrough)
        silicon.prepare_host(host, self.silicon, models)
        capabilities = ("nvidia-caps/nvidia-cap1", "nvidia-caps/nvidia-cap2")  # config and monitor
        names = ("nvidiactl", "nvidia-uvm", *capabilities, *(f"nvidia{index}" for index in range(len(models))))
        for name in names:
            (self.devices / name).touch()
        self.environment = {
            **os.environ,
            "LD_LIBRARY_PATH": str(library),
            "SILICON": str(self.silicon),
            "SILICON_DEV": str(self.devices),
            "PYTHONPATH": str(Path(pynvml.__file__).parent),
        }
        self._load()

    def _load(self) -> None:
        host = kernel.Host(self.silicon)
        for path, text in kernel.driver_files(host, VERSION, "open").items():
            file = self.silicon / "proc/driver" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="ascii")
        with self.edit() as state:
            state["module.nvidia"] = f"{VERSION} open"

    def edit(self) -> contextlib.AbstractContextManager[dict[str, str]]:
        """Change the state's pairs under its lock."""
        return silicon.edit_state(self.silicon)

    def state(self) -> dict[str, str]:
        return silicon.read_state(self.silicon)

    def ask(self, program: str) -> Any:
        """Run statements after PRELUDE in a new process; the last line is an expression, whose value comes back.

        An NVMLError comes back as {"error": code}.
        """
        *statements, expression = program.strip().splitlines()
        body = "\n".join(f"    {line}" for line in [*statements, f"print(json.dumps({expression.strip()}))"])
        whole = f"{PRELUDE}\ntry:\n{body}\nexcept n.NVMLError as e:\n    print(json.dumps({{'error': e.value}}))\n"
        done = subprocess.run(
            [sys.executable, "-c", whole], env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def put(self, gpu: int, *places: str) -> None:
        """Set MIG mode and make instances, each "3g.20gb@4"; their calls are not left in the log."""
        log = self.silicon / "nvml.calls"
        before = log.read_bytes() if log.exists() else b""
        answer = self.ask(
            f"g = h({gpu})\nn.nvmlDeviceSetMigMode(g, 1)\n"
            f"for p in {list(places)!r}: default_ci(create(g, p), profile(g, p.partition('@')[0]).sliceCount)\n"
            "n.nvmlDeviceGetMigMode(g)"
        )
        assert answer == [1, 1], answer
        log.write_bytes(before)

    def mark_busy(self, place: str, *pids: int) -> None:
        """Let "gpu.0", "gpu.0.gi.3" or "gpu.0.gi.3.ci.0" be in use by processes, or without pids by an unknown."""
        with self.edit() as state:
            state[f"{place}.busy"] = " ".join(map(str, pids)) or "-"

    def release(self, place: str) -> None:
        with self.edit() as state:
            state.pop(f"{place}.busy", None)

    def inject(self, operation: str, code: int, *, nth: int = 1, times: int = 1) -> None:
        """Let the nth call from now on, and the next ones up to ``times``, fail with an NVML code.

        set_mode, activate (its activation status), create_gi, create_ci, destroy_ci, destroy_gi, reset, any.
        """
        with self.edit() as state:
            number = sum(key.startswith("mig.fault.") for key in state)
            state[f"mig.fault.{number}"] = f"{operation} {nth} {code} {times}"

    def calls(self) -> list[str]:
        """Return the log of calls that change something, refused ones too."""
        log = self.silicon / "nvml.calls"
        return log.read_text(encoding="ascii").splitlines() if log.exists() else []

    def reload_driver(self) -> None:
        """Unload the kernel module and load it again."""
        host = kernel.Host(self.silicon)
        kernel.hide_driver(host)
        with self.edit() as state:
            kernel.forget_mig(host, state)
        self._load()

    def reboot(self) -> None:
        """Lose what a boot loses of MIG: as with reloading, and every mark of use."""
        with self.edit() as state:
            for key in [key for key in state if key.endswith((".busy", ".lost"))]:
                del state[key]
        self.reload_driver()
