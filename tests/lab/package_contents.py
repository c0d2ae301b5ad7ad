# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What NVIDIA's driver packages contain, whatever the format: the mock libraries, module files, daemons and units."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from package_formats import File, run
from silicon_modules import module_file

LAB = Path(__file__).resolve().parent
STATIC = LAB / "packages"
SILICON = LAB / "silicon"

# driver version -> CUDA version it offers, as NVML counts (1000 x major + 10 x minor)
DRIVERS = {"580.159.03": 13000, "580.173.02": 13000, "595.91.07": 13020}

COMPILE = ("gcc", "-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-Wno-unused-function")
LIBRARY = ("-shared", "-fPIC", "-fvisibility=hidden")
LIBRARIES = {"libnvidia-ml": ("nvml.c", "mig.c", "processes.c"), "libcuda": ("cuda.c",)}
# Libraries without content. A container that gets a GPU gets these mounted as well.
EMPTY_LIBRARIES = {
    "libnvidia-cfg": 1,
    "libnvidia-ptxjitcompiler": 1,
    "libnvidia-nvvm": 4,
    "libnvidia-opencl": 1,
    "libnvidia-gpucomp": 1,
    "libnvidia-encode": 1,
    "libnvcuvid": 1,
    "libnvidia-nscq": 2,
    "libnvsdm": 1,
    "libEGL_nvidia": 0,
    "libGLX_nvidia": 0,
}
PROGRAMS = {
    "nvidia-smi": "smi.c",
    "nvidia-modprobe": "modprobe.c",
    "nvidia-persistenced": "persistenced.c",
    "nv-fabricmanager": "fabricmanager.c",
}
UNIT_FOLDER = "/usr/lib/systemd/system"
# Kernel modules: exported symbols and wanted ones, from which depmod derives their order.
MODULES = {
    "nvidia": (("nvidia_register_module",), ()),
    "nvidia-modeset": (("nvKmsKapiGetFunctionsTable",), ("nvidia_register_module",)),
    "nvidia-drm": ((), ("nvKmsKapiGetFunctionsTable",)),
    "nvidia-uvm": ((), ("nvidia_register_module",)),
    "nvidia-peermem": ((), ("nvidia_register_module",)),
}
FIRMWARE = {"gsp_ga10x.bin": "board", "gsp_tu10x.bin": "state"}

Files = dict[str, File]


class Driver:
    """The parts of one driver version, compiled once; package lists put them together."""

    def __init__(self, version: str, work: Path) -> None:
        self.version = version
        self.branch = int(version.partition(".")[0])
        self._folder = work / version
        self._folder.mkdir(parents=True)
        self._compile()

    def _compile(self) -> None:
        defines = (f'-DDRIVER_VERSION="{self.version}"', f"-DCUDA_VERSION={DRIVERS[self.version]}")
        for name, source in PROGRAMS.items():
            run([*COMPILE, *defines, "-o", self._folder / name, SILICON / source, "-ldl"])
        for name, sources in LIBRARIES.items():
            output = self._folder / f"{name}.so.{self.version}"
            options = (*LIBRARY, *defines, f"-Wl,-soname,{name}.so.1", "-o", output)
            run([*COMPILE, *options, *(SILICON / source for source in sources), "-ldl"])
        for name, number in EMPTY_LIBRARIES.items():
            output = self._folder / f"{name}.so.{self.version}"
            run([*COMPILE, *LIBRARY, f"-Wl,-soname,{name}.so.{number}", "-o", output, "-xc", "/dev/null"])

    def library(self, name: str, folder: str, number: int = 1) -> Files:
        """A library and the link with its major version."""
        file_name = f"{name}.so.{self.version}"
        return {
            f"{folder}/{file_name}": File(source=self._folder / file_name),
            f"{folder}/{name}.so.{number}": File(target=file_name),
        }

    def libraries(self, folder: str, *names: str) -> Files:
        """Several libraries without content."""
        files: Files = {}
        for name in names:
            files |= self.library(name, folder, EMPTY_LIBRARIES[name])
        return files

    def nvml(self, folder: str) -> Files:
        return self.library("libnvidia-ml", folder)

    def cuda(self, folder: str) -> Files:
        return self.library("libcuda", folder) | {f"{folder}/libcuda.so": File(target="libcuda.so.1")}

    def program(self, name: str) -> Files:
        return {f"/usr/bin/{name}": File(source=self._folder / name, mode=0o755)}

    def persistenced(self) -> Files:
        return self.program("nvidia-persistenced") | unit("nvidia-persistenced.service")

    def fabric_manager(self) -> Files:
        settings = {"/usr/share/nvidia/nvswitch/fabricmanager.cfg": static("fabricmanager.cfg")}
        return self.program("nv-fabricmanager") | unit("nvidia-fabricmanager.service") | settings

    def firmware(self) -> Files:
        """Links to the simulated hardware: what a container gets mounted as firmware is what its NVML reads."""
        return {
            f"/lib/firmware/nvidia/{self.version}/{name}": File(target=f"/var/lib/silicon/{file}")
            for name, file in FIRMWARE.items()
        }

    def dkms_source(self, flavour: str) -> Files:
        """The source tree dkms builds from; here "building" is copying."""
        folder = f"/usr/src/nvidia-{self.version}"
        license_text = "Dual MIT/GPL" if flavour == "open" else "NVIDIA"
        configuration = f'PACKAGE_NAME="nvidia"\nPACKAGE_VERSION="{self.version}"\nAUTOINSTALL="yes"\n'
        for number, name in enumerate(MODULES):
            configuration += (
                f'BUILT_MODULE_NAME[{number}]="{name}"\nDEST_MODULE_LOCATION[{number}]="/kernel/drivers/video"\n'
            )
        files = {f"{folder}/dkms.conf": File(text=configuration)}
        for name, (exports, wants) in MODULES.items():
            fields = [("version", self.version), ("license", license_text), ("name", name.replace("-", "_"))]
            if name == "nvidia":
                fields += [("firmware", f"nvidia/{self.version}/{firmware}") for firmware in FIRMWARE]
                fields.append(("alias", "pci:v000010DEd*sv*sd*bc03sc02i00*"))
            files[f"{folder}/{name}.ko"] = File(data=module_file(fields, exports, wants))
        return files


def static(name: str, mode: int = 0o644, replace: Mapping[str, str] | None = None) -> File:
    """A file kept in ``packages/``, with words replaced."""
    text = (STATIC / name).read_text(encoding="utf-8")
    for old, new in (replace or {}).items():
        text = text.replace(old, new)
    return File(text=text, mode=mode)


def unit(name: str) -> Files:
    """A systemd unit."""
    return {f"{UNIT_FOLDER}/{name}": static(name)}


def modprobe_configuration() -> Files:
    return {"/usr/lib/modprobe.d/nvidia.conf": static("modprobe-nvidia.conf")}


def imex() -> Files:
    settings = {"/etc/nvidia-imex/config.cfg": File(text="IMEX_NODE_CONFIG_FILE=/etc/nvidia-imex/nodes_config.cfg\n")}
    return {"/usr/bin/nvidia-imex": static("nvidia-imex", 0o755)} | unit("nvidia-imex.service") | settings
