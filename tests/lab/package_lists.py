# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""NVIDIA's driver packages per operating system, under the names, versions and dependencies of its CUDA repositories.

The sets hold what a headless node needs and enough of the desktop part that the metapackages resolve. What differs:

- Debian: no branch in names; ``nvidia-driver-cuda`` has nvidia-smi; dkms 3.1.8 or newer is required.
- Ubuntu: branch in most names up to 580, none from 590 on. Fabric manager, NSCQ, NVSDM and IMEX have none since 580;
  their old names are virtual packages, so a version cannot be asked of them.
- EL: epoch 3; ``nvidia-kmod-common`` blacklists nouveau; a preset enables persistence, fabric manager and IMEX.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import package_scripts as scripts
from package_contents import Driver, Files, imex, modprobe_configuration, static
from package_formats import File, Package

DEB_LIBRARIES = "/usr/lib/x86_64-linux-gnu"
EL_LIBRARIES = "/usr/lib64"
FIRST_BRANCH_WITHOUT_SUFFIX, LAST_BRANCH_WITH_SUFFIX = 590, 580
PINNED = "*nvidia* cuda-drivers* libcuda* libnv* libxnvctrl* nvidia*"


# -- what Debian and Ubuntu share -------------------------------------------------------------------------------------


def pinning(driver: Driver, revision: str, seen: set[str]) -> Iterator[Package]:
    """Packages that pin a branch or a version; the branch's one exists once, at its newest version."""
    for name, pattern in ((str(driver.branch), f"{driver.branch}.*"), (driver.version, f"{driver.version}*")):
        if name in seen:
            continue
        seen.add(name)
        text = f"Package: {PINNED}\nPin: version {pattern}\nPin-Priority: 1000\n"
        yield Package(
            name=f"nvidia-driver-pinning-{name}",
            version=revision,
            summary=f"APT driver pinning file for driver {name}",
            files={"/etc/apt/preferences.d/nvidia-driver-pinning": File(text=text)},
            provides=("nvidia-driver-pinning",),
            conflicts=("nvidia-driver-pinning",),
            replaces=("nvidia-driver-pinning",),
            any_architecture=True,
        )


def switch_packages_deb(driver: Driver, old_names: bool) -> Iterator[Package]:
    """Fabric manager and its companions; they do not depend on the driver, so a partial upgrade leaves a mismatch."""
    revision = f"{driver.version}-1"

    def package(name: str, summary: str, files: Files, service: str = "") -> Package:
        old = (f"{name}-{driver.branch}",) if old_names else ()
        own = scripts.service_deb(service, enable=False) if service else scripts.LDCONFIG_DEB
        return Package(name, revision, summary, files, provides=old, conflicts=old, replaces=old, scripts=own)

    yield package(
        "nvidia-fabricmanager",
        "Fabric Manager for NVSwitch based systems",
        driver.fabric_manager(),
        "nvidia-fabricmanager.service",
    )
    yield package("nvidia-imex", "NVIDIA IMEX for multi-node NVLink", imex(), "nvidia-imex.service")
    yield package(
        "libnvidia-nscq", "NVSwitch Configuration and Query library", driver.libraries(DEB_LIBRARIES, "libnvidia-nscq")
    )
    yield package("libnvsdm", "NVSwitch Device Monitoring library", driver.libraries(DEB_LIBRARIES, "libnvsdm"))


def dkms_deb(version: str) -> Package:
    """The dkms of the lab; NVIDIA's packages need a newer one than Debian 12 and Ubuntu 24.04 have."""
    return Package(
        "dkms",
        version,
        "Dynamic Kernel Module System (DKMS)",
        _dkms_files(),
        depends=("kmod",),
        scripts={"postinst": "mkdir -p /var/lib/dkms\n"},
        any_architecture=True,
    )


def headers_deb(kernel: str) -> Package:
    """Headers of the kernel that all lab hosts run."""
    return Package(
        f"linux-headers-{kernel}",
        "1",
        "Header files for the running kernel",
        _header_files(kernel, f"/usr/src/linux-headers-{kernel}"),
        scripts={"postinst": f"if command -v dkms >/dev/null; then dkms autoinstall -k {kernel}; fi\n"},
    )


def _dkms_files() -> Files:
    return {
        "/usr/sbin/dkms": static("dkms", 0o755, {"@VERSION@": "3.2.2"}),
        "/usr/lib/dkms/common.postinst": static("dkms-common.postinst", 0o755),
    }


def _header_files(kernel: str, folder: str) -> Files:
    return {f"{folder}/Makefile": File(text="# a stand-in\n"), f"/lib/modules/{kernel}/build": File(target=folder)}


# -- Debian -----------------------------------------------------------------------------------------------------------


def debian_driver(driver: Driver) -> Iterator[Package]:
    """The driver for Debian 12 in one version."""
    revision = f"{driver.version}-1"

    def same(*names: str) -> tuple[str, ...]:
        return tuple(f"{name} (= {revision})" for name in names)

    def package(
        name: str, summary: str, files: Files | None = None, depends: Sequence[str] = (), **more: object
    ) -> Package:
        return Package(name, revision, summary, files or {}, depends, **more)  # type: ignore[arg-type]

    def library(name: str, summary: str, files: Files, *depends: str) -> Package:
        return package(name, summary, files, same(*depends), scripts=scripts.LDCONFIG_DEB)

    def empty(*names: str) -> Files:
        return driver.libraries(DEB_LIBRARIES, *names)

    yield library("libnvidia-ml1", "NVIDIA Management Library (NVML) runtime library", driver.nvml(DEB_LIBRARIES))
    yield library(
        "libcuda1",
        "NVIDIA CUDA Driver Library",
        driver.cuda(DEB_LIBRARIES),
        "libnvidia-ptxjitcompiler1",
        "libnvidia-nvvm4",
    )
    yield library("libnvidia-cfg1", "NVIDIA binary OpenGL/GLX configuration library", empty("libnvidia-cfg"))
    yield library("libnvidia-ptxjitcompiler1", "NVIDIA PTX JIT Compiler library", empty("libnvidia-ptxjitcompiler"))
    yield library("libnvidia-nvvm4", "NVIDIA NVVM Compiler library", empty("libnvidia-nvvm"))
    yield library("libnvcuvid1", "NVIDIA CUDA Video Decoder runtime library", empty("libnvcuvid"), "libcuda1")
    yield library("libnvidia-encode1", "NVENC Video Encoding runtime library", empty("libnvidia-encode"), "libcuda1")
    yield library(
        "nvidia-opencl-icd", "NVIDIA OpenCL installable client driver (ICD)", empty("libnvidia-opencl"), "libcuda1"
    )
    yield library(
        "nvidia-driver-libs",
        "NVIDIA metapackage (OpenGL/GLX/EGL/GLES libraries)",
        empty("libEGL_nvidia", "libGLX_nvidia"),
    )
    yield package(
        "nvidia-modprobe",
        "utility to load NVIDIA kernel modules and create device nodes",
        driver.program("nvidia-modprobe"),
    )
    yield package(
        "nvidia-persistenced",
        "daemon to maintain persistent software state in the NVIDIA driver",
        driver.persistenced(),
        same("libnvidia-cfg1"),
        scripts=scripts.service_deb("nvidia-persistenced.service", enable=True),
    )
    yield package("firmware-nvidia-gsp", "NVIDIA GSP firmware", driver.firmware())
    yield package(
        "nvidia-kernel-support",
        "NVIDIA binary kernel module support files",
        modprobe_configuration(),
        same("nvidia-modprobe", "firmware-nvidia-gsp"),
    )
    for name, flavour, other in (
        ("nvidia-kernel-open-dkms", "open", "nvidia-kernel-dkms"),
        ("nvidia-kernel-dkms", "proprietary", "nvidia-kernel-open-dkms"),
    ):
        yield package(
            name,
            f"NVIDIA binary kernel module DKMS source ({flavour})",
            driver.dkms_source(flavour),
            ("dkms (>= 3.1.8)", *same("nvidia-kernel-support")),
            conflicts=(other,),
            replaces=(other,),
            scripts=scripts.dkms_deb(driver.version),
        )
    yield package(
        "nvidia-driver-cuda",
        "NVIDIA driver CUDA integration components",
        driver.program("nvidia-smi"),
        same("libcuda1", "libnvidia-ml1", "libnvidia-cfg1", "nvidia-opencl-icd", "nvidia-persistenced"),
    )
    yield package("nvidia-settings", "Tool for configuring the NVIDIA graphics driver")
    yield package(
        "nvidia-driver",
        "NVIDIA metapackage",
        depends=(
            *same("nvidia-driver-libs", "nvidia-kernel-support", "libnvcuvid1", "libnvidia-encode1"),
            " | ".join(same("nvidia-kernel-dkms", "nvidia-kernel-open-dkms")),
        ),
    )
    for name, kernel_package in (("nvidia-open", "nvidia-kernel-open-dkms"), ("cuda-drivers", "nvidia-kernel-dkms")):
        yield package(
            name,
            "NVIDIA Driver meta-package",
            depends=same("nvidia-driver", "nvidia-driver-cuda", "nvidia-settings", kernel_package),
            any_architecture=True,
        )
    yield from switch_packages_deb(driver, old_names=False)


# -- Ubuntu -----------------------------------------------------------------------------------------------------------


def ubuntu_driver(driver: Driver) -> Iterator[Package]:
    """The driver for Ubuntu 24.04 in one version."""
    revision = f"{driver.version}-1ubuntu1"
    with_suffix = driver.branch < FIRST_BRANCH_WITHOUT_SUFFIX
    suffix = f"-{driver.branch}" if with_suffix else ""

    def named(stem: str, flavour: str = "") -> str:
        return f"{stem}{suffix}{flavour}"

    def same(*names: str) -> tuple[str, ...]:
        return tuple(f"{name} (= {revision})" for name in names)

    def older_name(stem: str, flavour: str = "") -> tuple[str, ...]:
        """What a package was called while names had the branch; it takes that one's place."""
        return () if with_suffix else (f"{stem}-{LAST_BRANCH_WITH_SUFFIX}{flavour}",)

    def package(
        stem: str,
        summary: str,
        files: Files | None = None,
        depends: Sequence[str] = (),
        flavour: str = "",
        **more: object,
    ) -> Package:
        older = older_name(stem, flavour)
        more = {"provides": older, "conflicts": older, "replaces": older, **more}
        return Package(named(stem, flavour), revision, summary, files or {}, depends, **more)  # type: ignore[arg-type]

    def library(stem: str, summary: str, files: Files, *depends: str) -> Package:
        return package(stem, summary, files, same(*depends), scripts=scripts.LDCONFIG_DEB)

    def empty(*names: str) -> Files:
        return driver.libraries(DEB_LIBRARIES, *names)

    gpucomp, compute = named("libnvidia-gpucomp"), named("libnvidia-compute")
    yield library("libnvidia-gpucomp", "NVIDIA binary GPU compiler library", empty("libnvidia-gpucomp"))
    yield library(
        "libnvidia-compute",
        "NVIDIA libcompute package",
        driver.nvml(DEB_LIBRARIES)
        | driver.cuda(DEB_LIBRARIES)
        | empty("libnvidia-ptxjitcompiler", "libnvidia-nvvm", "libnvidia-opencl"),
        gpucomp,
    )
    yield library("libnvidia-cfg1", "NVIDIA binary OpenGL/GLX configuration library", empty("libnvidia-cfg"))
    yield library("libnvidia-decode", "NVIDIA Video Decoding runtime libraries", empty("libnvcuvid"), compute)
    yield library(
        "libnvidia-encode", "NVENC Video Encoding runtime library", empty("libnvidia-encode"), named("libnvidia-decode")
    )
    yield library(
        "libnvidia-gl", "NVIDIA OpenGL/GLX/EGL/GLES libraries", empty("libEGL_nvidia", "libGLX_nvidia"), gpucomp
    )
    yield package(
        "nvidia-compute-utils",
        "NVIDIA compute utilities",
        driver.persistenced(),
        (compute,),
        scripts=scripts.service_deb("nvidia-persistenced.service", enable=True),
    )
    yield package("nvidia-utils", "NVIDIA driver support binaries", driver.program("nvidia-smi"), (compute,))
    yield package("nvidia-firmware", "Firmware files used by the kernel module", driver.firmware())
    yield package(
        "nvidia-kernel-common",
        "Shared files used with the kernel module",
        modprobe_configuration(),
        (*same(named("nvidia-firmware")), f"nvidia-modprobe (>= {revision})"),
    )
    for flavour, kind in (("-open", "open"), ("", "proprietary")):
        source, dkms = named("nvidia-kernel-source", flavour), named("nvidia-dkms", flavour)
        rival = "" if flavour else "-open"
        yield package(
            "nvidia-kernel-source",
            f"NVIDIA kernel source package ({kind})",
            driver.dkms_source(kind),
            flavour=flavour,
            conflicts=(*older_name("nvidia-kernel-source", flavour), named("nvidia-kernel-source", rival)),
        )
        yield package(
            "nvidia-dkms",
            f"NVIDIA DKMS package ({kind})",
            depends=("dkms (>= 3.1.8)", *same(source, named("nvidia-kernel-common"))),
            flavour=flavour,
            scripts=scripts.dkms_deb(driver.version),
        )
        base = same(
            named("libnvidia-cfg1"), compute, named("nvidia-compute-utils"), named("nvidia-kernel-common"), source
        )
        yield package("nvidia-headless-no-dkms", "NVIDIA headless metapackage - no DKMS", depends=base, flavour=flavour)
        yield package(
            "nvidia-headless",
            "NVIDIA headless metapackage",
            depends=same(named("nvidia-headless-no-dkms", flavour), dkms),
            flavour=flavour,
        )
        yield package(
            "nvidia-driver",
            f"NVIDIA driver ({kind}) metapackage",
            depends=(
                *base,
                *same(
                    dkms,
                    named("nvidia-utils"),
                    named("libnvidia-decode"),
                    named("libnvidia-encode"),
                    named("libnvidia-gl"),
                ),
            ),
            flavour=flavour,
        )
        meta = "nvidia-open" if flavour else "cuda-drivers"
        yield Package(
            named(meta),
            revision,
            "NVIDIA Driver meta-package",
            depends=same(named("nvidia-driver", flavour)),
            any_architecture=True,
        )
        if with_suffix:
            yield Package(
                meta,
                revision,
                "NVIDIA Driver meta-package, latest version",
                depends=(f"{named(meta)} (>= {revision})",),
                any_architecture=True,
            )
    yield Package(
        "nvidia-modprobe",
        revision,
        "Load the NVIDIA kernel driver and create device files",
        driver.program("nvidia-modprobe"),
    )
    yield from switch_packages_deb(driver, old_names=with_suffix)


# -- EL ---------------------------------------------------------------------------------------------------------------


def el_driver(driver: Driver) -> Iterator[Package]:
    """The driver for EL 9 in one version."""
    version = f"3:{driver.version}-1.el9"

    def same(*names: str) -> tuple[str, ...]:
        return tuple(f"{name} = 3:{driver.version}" for name in names)

    def package(
        name: str, summary: str, files: Files | None = None, depends: Sequence[str] = (), **more: object
    ) -> Package:
        provides = (f"{name} = 3:{driver.version}-1.el9", *more.pop("provides", ()))  # type: ignore[misc]
        return Package(name, version, summary, files or {}, depends, provides, **more)  # type: ignore[arg-type]

    def library(name: str, summary: str, files: Files, *depends: str) -> Package:
        return package(name, summary, files, same(*depends), scripts=scripts.LDCONFIG_RPM)

    def empty(*names: str) -> Files:
        return driver.libraries(EL_LIBRARIES, *names)

    search_path = {"/etc/ld.so.conf.d/nvidia-x86_64.conf": File(text=f"{EL_LIBRARIES}\n")}
    yield library("libnvidia-ml", "NVIDIA Management Library (NVML)", driver.nvml(EL_LIBRARIES) | search_path)
    yield library("libnvidia-cfg", "NVIDIA Config public interface", empty("libnvidia-cfg"))
    yield library("libnvidia-gpucomp", "NVIDIA library for shader compilation", empty("libnvidia-gpucomp"))
    yield library(
        "nvidia-driver-cuda-libs",
        "Libraries for nvidia-driver-cuda",
        driver.cuda(EL_LIBRARIES)
        | empty("libnvidia-ptxjitcompiler", "libnvidia-nvvm", "libnvidia-opencl", "libnvcuvid", "libnvidia-encode"),
        "libnvidia-ml",
        "libnvidia-gpucomp",
    )
    yield library(
        "nvidia-driver-libs",
        "Libraries for nvidia-driver",
        empty("libEGL_nvidia", "libGLX_nvidia"),
        "libnvidia-gpucomp",
    )
    yield package("nvidia-modprobe", "NVIDIA kernel module loader", driver.program("nvidia-modprobe"))
    yield package(
        "nvidia-persistenced",
        "A daemon to maintain persistent software state in the NVIDIA driver",
        driver.persistenced(),
        same("libnvidia-cfg"),
        scripts=scripts.service_rpm("nvidia-persistenced.service", preset=True),
    )
    yield package(
        "nvidia-kmod-common",
        "Common file for NVIDIA's proprietary driver kernel modules",
        modprobe_configuration() | driver.firmware(),
        (*same("nvidia-kmod"), *same("nvidia-modprobe")),
        any_architecture=True,
    )
    for name, flavour, rival in (
        ("kmod-nvidia-open-dkms", "open", "kmod-nvidia-latest-dkms"),
        ("kmod-nvidia-latest-dkms", "proprietary", "kmod-nvidia-open-dkms"),
    ):
        yield package(
            name,
            f"NVIDIA display driver kernel module ({flavour})",
            driver.dkms_source(flavour),
            ("dkms >= 3.1.8", *same("nvidia-kmod-common")),
            provides=same("nvidia-kmod"),
            conflicts=(rival,),
            scripts=scripts.dkms_rpm(driver.version),
            any_architecture=True,
        )
    preset = {"/usr/lib/systemd/system-preset/70-nvidia-driver-cuda.preset": static("70-nvidia-driver-cuda.preset")}
    yield package(
        "nvidia-driver-cuda",
        "CUDA integration for nvidia-driver",
        driver.program("nvidia-smi") | preset,
        same("nvidia-driver-cuda-libs", "nvidia-persistenced", "nvidia-kmod-common"),
    )
    yield package("nvidia-settings", "Configure the NVIDIA graphics driver")
    yield package("nvidia-driver", "NVIDIA's display driver", depends=same("nvidia-driver-libs", "nvidia-kmod-common"))
    for name, kernel_package in (("nvidia-open", "kmod-nvidia-open-dkms"), ("cuda-drivers", "kmod-nvidia-latest-dkms")):
        yield package(
            name,
            "NVIDIA Driver meta-package",
            depends=same("nvidia-driver", "nvidia-driver-cuda", "nvidia-settings", kernel_package),
            any_architecture=True,
        )
    yield from _switch_packages_el(driver)


def _switch_packages_el(driver: Driver) -> Iterator[Package]:
    version = f"{driver.version}-1"

    def package(name: str, summary: str, files: Files, service: str = "") -> Package:
        own = scripts.service_rpm(service, preset=True) if service else scripts.LDCONFIG_RPM
        return Package(name, version, summary, files, provides=(f"{name} = {version}",), scripts=own)

    yield package(
        "nvidia-fabricmanager",
        "Fabric Manager for NVSwitch based systems",
        driver.fabric_manager(),
        "nvidia-fabricmanager.service",
    )
    yield package("nvidia-imex", "NVIDIA IMEX for multi-node NVLink", imex(), "nvidia-imex.service")
    yield package(
        "libnvidia-nscq", "NVSwitch Configuration and Query library", driver.libraries(EL_LIBRARIES, "libnvidia-nscq")
    )
    yield package("libnvsdm", "NVSwitch Device Monitoring library", driver.libraries(EL_LIBRARIES, "libnvsdm"))


def el_extras(kernel: str) -> Iterator[Package]:
    """What EL hosts get from EPEL and their base repositories: dkms, kernel headers, dnf's versionlock plugin."""
    yield Package(
        "dkms",
        "3.2.2-1.el9",
        "Dynamic Kernel Module Support Framework",
        _dkms_files(),
        any_architecture=True,
        provides=("dkms = 3.2.2-1.el9",),
    )
    version, _, release = kernel.partition("-")
    files = _header_files(kernel, f"/usr/src/kernels/{kernel}")
    autoinstall = {"post": f"if command -v dkms >/dev/null; then dkms autoinstall -k {kernel} || :; fi\n"}
    # "kernel-devel-$(uname -r)" is what people install; the release must not hold a dash.
    yield Package(
        f"kernel-devel-{kernel}",
        "1-1",
        "Development package for building kernel modules",
        files,
        provides=(f"kernel-devel = {version}-{(release or '1').replace('-', '_')}",),
        scripts=autoinstall,
    )
    yield Package("python3-dnf-plugin-versionlock", "4.3.0-1.el9", "Version Lock Plugin for DNF", any_architecture=True)
