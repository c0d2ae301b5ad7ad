# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Packages with real programs inside: container toolkit, kubelet and kubeadm, containerd."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import package_scripts as scripts
import settings
from package_contents import UNIT_FOLDER, Files, static, unit
from package_formats import File, Package

REFRESH_UNITS = ("nvidia-cdi-refresh.path", "nvidia-cdi-refresh.service")
RUNTIME_CONFIG = (
    "/usr/bin/nvidia-ctk --quiet config --config-file=/etc/nvidia-container-runtime/config.toml --in-place\n"
)


def _program(source: Path) -> Files:
    return {f"/usr/bin/{source.name}": File(source=source, mode=0o755)}


# -- container toolkit ------------------------------------------------------------------------------------------------


def toolkit_deb(binaries: Path) -> Iterator[Package]:
    version = f"{settings.NVIDIA_TOOLKIT_VERSION}-1"
    service = scripts.service_deb(*REFRESH_UNITS, enable=True)
    configure = {"postinst": f'if [ "$1" = configure ]; then\n    {RUNTIME_CONFIG}fi\n'}
    yield Package("libnvidia-container1", version, "NVIDIA container runtime library")
    yield Package(
        "libnvidia-container-tools",
        version,
        "NVIDIA container runtime library (command-line tools)",
        _legacy_files(),
        depends=(f"libnvidia-container1 (>= {version})",),
    )
    yield Package(
        "nvidia-container-toolkit-base",
        version,
        "NVIDIA Container Toolkit Base",
        _toolkit_files(binaries),
        scripts=scripts.joined(configure, service),
    )
    yield Package(
        "nvidia-container-toolkit",
        version,
        "NVIDIA Container toolkit",
        depends=(f"nvidia-container-toolkit-base (= {version})", f"libnvidia-container-tools (= {version})"),
    )


def toolkit_rpm(binaries: Path) -> Iterator[Package]:
    version = f"{settings.NVIDIA_TOOLKIT_VERSION}-1"
    preset = {
        "/usr/lib/systemd/system-preset/90-nvidia-container-toolkit.preset": static(
            "90-nvidia-container-toolkit.preset"
        )
    }
    service = scripts.service_rpm(*REFRESH_UNITS, preset=True, start=True)

    def package(
        name: str, summary: str, files: Files | None = None, *needs: str, own: scripts.Scripts | None = None
    ) -> Package:
        depends = [f"{need} = {version}" for need in needs]
        return Package(name, version, summary, files or {}, depends, (f"{name} = {version}",), scripts=own or {})

    yield package("libnvidia-container1", "NVIDIA container runtime library")
    yield package(
        "libnvidia-container-tools",
        "NVIDIA container runtime library (command-line tools)",
        _legacy_files(),
        "libnvidia-container1",
    )
    yield package(
        "nvidia-container-toolkit-base",
        "NVIDIA Container Toolkit Base",
        _toolkit_files(binaries) | preset,
        own=scripts.joined({"post": RUNTIME_CONFIG}, service),
    )
    yield package(
        "nvidia-container-toolkit",
        "NVIDIA Container Toolkit",
        None,
        "nvidia-container-toolkit-base",
        "libnvidia-container-tools",
    )


def _toolkit_files(binaries: Path) -> Files:
    files: Files = {}
    for name in ("nvidia-ctk", "nvidia-container-runtime", "nvidia-cdi-hook"):
        files |= _program(binaries / name)
    for name in REFRESH_UNITS:
        files |= unit(name)
    return files | {"/etc/nvidia-container-toolkit/nvidia-cdi-refresh.env": static("nvidia-cdi-refresh.env")}


def _legacy_files() -> Files:
    return {"/usr/bin/nvidia-container-cli": static("nvidia-container-cli", 0o755)}


# -- Kubernetes -------------------------------------------------------------------------------------------------------


def kubernetes_deb(binaries: Path) -> Iterator[Package]:
    version = f"{settings.KUBERNETES_VERSION}-1.1"
    for name, summary, files, depends in _kubernetes(binaries, "/etc/default/kubelet"):
        needs = ("iptables", "mount", "util-linux") if name == "kubelet" else depends
        reload = {"postinst": _RELOAD} if any(path.startswith(UNIT_FOLDER) for path in files) else {}
        yield Package(name, version, summary, files, depends=needs, scripts=reload)


def kubernetes_rpm(binaries: Path) -> Iterator[Package]:
    version = f"{settings.KUBERNETES_VERSION}-150500.1.1"
    for name, summary, files, depends in _kubernetes(binaries, "/etc/sysconfig/kubelet"):
        reload = {"post": _RELOAD} if any(path.startswith(UNIT_FOLDER) for path in files) else {}
        yield Package(name, version, summary, files, depends, (f"{name} = {version}",), scripts=reload)


_RELOAD = "if [ -d /run/systemd/system ]; then\n    systemctl daemon-reload >/dev/null 2>&1 || true\nfi\n"


def _kubernetes(binaries: Path, extra_arguments: str) -> Iterator[tuple[str, str, Files, tuple[str, ...]]]:
    """Name, summary, files and dependencies; as on pkgs.k8s.io nothing is enabled or started."""
    kubelet = unit("kubelet.service") | {extra_arguments: File(text="KUBELET_EXTRA_ARGS=\n")}
    drop_in = static("10-kubeadm.conf", replace={"@EXTRA_ARGS@": extra_arguments})
    yield "kubelet", "Container Cluster Manager - Kubernetes Node Agent", _program(binaries / "kubelet") | kubelet, ()
    yield (
        "kubeadm",
        "Command-line utility for administering a Kubernetes cluster",
        _program(binaries / "kubeadm") | {f"{UNIT_FOLDER}/kubelet.service.d/10-kubeadm.conf": drop_in},
        (),
    )
    yield "kubectl", "Command-line utility for interacting with a cluster", _program(binaries / "kubectl"), ()


# -- container runtime ------------------------------------------------------------------------------------------------


def runtime_deb(binaries: Path, runc: Path) -> Iterator[Package]:
    version = f"{settings.CONTAINERD_VERSION}-1"
    yield Package(
        "containerd.io",
        version,
        "An open and reliable container runtime",
        _containerd_files(binaries, runc),
        provides=("containerd", "runc"),
        conflicts=("containerd", "runc"),
        replaces=("containerd", "runc"),
        scripts=scripts.service_deb("containerd.service", enable=True),
    )


def runtime_rpm(binaries: Path, runc: Path) -> Iterator[Package]:
    version = f"{settings.CONTAINERD_VERSION}-1.el9"
    yield Package(
        "containerd.io",
        version,
        "An open and reliable container runtime",
        _containerd_files(binaries, runc),
        provides=(f"containerd.io = {version}", "containerd", "runc"),
        scripts=scripts.service_rpm("containerd.service", preset=False),
    )


def _containerd_files(binaries: Path, runc: Path) -> Files:
    files: Files = {"/usr/bin/runc": File(source=runc, mode=0o755)}
    for name in ("containerd", "containerd-shim-runc-v2", "ctr"):
        files |= _program(binaries / name)
    return files | unit("containerd.service") | {"/etc/containerd/config.toml": static("containerd.toml")}
