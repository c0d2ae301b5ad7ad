# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Container runtimes and NVIDIA's container toolkit on a host."""

from __future__ import annotations

import re
import typing as t

from ansible_collections.onprem.gpu.plugins.module_utils.host import Host
from ansible_collections.onprem.gpu.plugins.module_utils.installed_packages import Package, upstream_version

Units = t.Mapping[str, t.Mapping[str, str]]

VERSION_TIMEOUT_SECONDS = 10.0
CDI_GPU = "nvidia.com/gpu="
VERSION = re.compile(r"\b[Vv]?(\d+\.\d+\.\d+(?:[-.~+][0-9A-Za-z.]+)*)")

TOOLKIT_PACKAGES = (
    "nvidia-container-toolkit",
    "nvidia-container-toolkit-base",
    "libnvidia-container-tools",
    "libnvidia-container1",
)


class Runtime(t.NamedTuple):
    """Where one container runtime is found. `socket`: of its CRI, or of Docker itself."""

    unit: str
    program: str
    packages: tuple[str, ...]
    socket: str


RUNTIMES = {
    "containerd": Runtime(
        "containerd.service", "containerd", ("containerd.io", "containerd"), "/run/containerd/containerd.sock"
    ),
    "crio": Runtime("crio.service", "crio", ("cri-o",), "/run/crio/crio.sock"),
    "docker": Runtime("docker.service", "dockerd", ("docker-ce", "docker.io", "moby-engine"), "/run/docker.sock"),
}
# k3s and RKE2 bring their own containerd, without a unit or package of its own.
EMBEDDED_SOCKET = "/run/k3s/containerd/containerd.sock"
EMBEDDED_UNITS = ("k3s.service", "k3s-agent.service", "rke2-server.service", "rke2-agent.service")
UNITS = (*(runtime.unit for runtime in RUNTIMES.values()), *EMBEDDED_UNITS)


def read_runtime(host: Host, packages: t.Sequence[Package], units: Units, endpoint: str | None) -> dict[str, t.Any]:
    """Every known runtime and the CRI socket: the kubelet's `endpoint` where it is set, else the only one there."""
    found = {name: _runtime(host, runtime, packages, units) for name, runtime in RUNTIMES.items()}
    embedded = {
        "active": any(is_active(units, unit) for unit in EMBEDDED_UNITS),
        "socket": EMBEDDED_SOCKET if host.exists(EMBEDDED_SOCKET) else None,
    }
    cri = [found["containerd"]["socket"], found["crio"]["socket"], embedded["socket"]]
    sockets = [f"unix://{socket}" for socket in cri if socket]
    return {
        **found,
        "embedded": embedded,
        "cri_socket": endpoint or (sockets[0] if len(sockets) == 1 else None),
    }


def read_toolkit(host: Host, packages: t.Sequence[Package]) -> dict[str, t.Any]:
    """NVIDIA's container toolkit: the version of its packages, else the one nvidia-ctk tells."""
    installed = {
        package.name: package.version for package in packages if package.installed and package.name in TOOLKIT_PACKAGES
    }
    versions = [upstream_version(installed[name]) for name in TOOLKIT_PACKAGES if name in installed]
    return {
        "version": versions[0] if versions else program_version(host, "nvidia-ctk"),
        "packages": installed,
        "cdi_devices": _cdi_devices(host),
    }


def _cdi_devices(host: Host) -> list[str] | None:
    """Names of the GPUs in the CDI specifications, of all folders and in either format; None without the toolkit."""
    listed = host.output(("nvidia-ctk", "--quiet", "cdi", "list"), VERSION_TIMEOUT_SECONDS)
    if listed is None:
        return None
    return [line[len(CDI_GPU) :] for line in listed.split() if line.startswith(CDI_GPU)]


def is_active(units: Units, name: str) -> bool:
    """Whether systemd runs the unit."""
    return units.get(name, {}).get("ActiveState") == "active"


def package_version(packages: t.Sequence[Package], names: t.Sequence[str]) -> str | None:
    """Version, without epoch and revision, of the first of the named packages that is installed."""
    versions = {package.name: package.version for package in packages if package.installed}
    return next((upstream_version(versions[name]) for name in names if name in versions), None)


def program_version(host: Host, program: str) -> str | None:
    """The version a program prints: only for programs no package brought, since starting a big one costs much more."""
    printed = host.output((program, "--version"), VERSION_TIMEOUT_SECONDS)
    found = VERSION.search(printed or "")
    return found.group(1) if found else None


def _runtime(host: Host, runtime: Runtime, packages: t.Sequence[Package], units: Units) -> dict[str, t.Any]:
    version = package_version(packages, runtime.packages) or program_version(host, runtime.program)
    return {
        "version": version,
        "active": is_active(units, runtime.unit),
        "socket": runtime.socket if host.exists(runtime.socket) else None,
    }
