# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Signed package repositories with the vendors' package names and versions.

``build(cache, binaries)`` returns the folder to serve over HTTP. It is made anew only when something that goes into it
changed, and appears whole or not at all. Below it:

    cuda/debian12       cuda/ubuntu2404     cuda/rhel9     the driver in all versions of ``package_contents.DRIVERS``
    extras/debian12                         extras/rhel9   dkms (as backports and EPEL have it), headers of this kernel,
                                                           dnf's versionlock plugin; for Ubuntu in cuda/ubuntu2404
    toolkit/deb         toolkit/rpm                        container toolkit with the real nvidia-ctk
    kubernetes/deb      kubernetes/rpm                     kubelet, kubeadm, kubectl
    runtime/deb         runtime/rpm                        containerd.io with runc
    keys/NAME.asc       keys/fingerprints.json             public keys: cuda, extras, toolkit, kubernetes, runtime

apt repositories are flat (``Suites: /``); yum repositories have signed packages and a signed index (repomd.xml.asc).
The keys are made once per cache and outlive rebuilds.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import package_lists
import package_tools
from package_contents import DRIVERS, Driver
from package_formats import (
    Package,
    Signer,
    build_all,
    build_deb,
    build_rpm,
    end_agent,
    finish_apt,
    finish_yum,
    public_key,
    vendor_key,
)

LAB = Path(__file__).resolve().parent
VENDORS = {"cuda": "NVIDIA", "extras": "Extras", "toolkit": "NVIDIA", "kubernetes": "obs", "runtime": "Docker"}
NEEDED_BINARIES = (
    "containerd",
    "containerd-shim-runc-v2",
    "ctr",
    "kubeadm",
    "kubectl",
    "kubelet",
    "nvidia-cdi-hook",
    "nvidia-container-runtime",
    "nvidia-ctk",
)
KEEP = 2  # finished builds: the newest, and the one a running lab may still serve


def build(cache: Path, binaries: Path, say: Callable[[str], None] = print) -> Path:
    """Return the root of the repositories, built when needed; ``say`` is told what is being built.

    ``cache`` keeps keys and results; ``binaries`` holds the programs of ``NEEDED_BINARIES``. Raises FileNotFoundError
    naming a program that is missing, RuntimeError with the output of a tool that failed.
    """
    sources = [binaries / name for name in NEEDED_BINARIES] + [_runc()]
    for source in sources:
        if not source.exists():
            raise FileNotFoundError(f"no program {source} to put into a package")
    place = cache / "packages"
    root = place / _key_of(sources)
    if not root.exists():
        unfinished = place / f"{root.name}.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        signers = {name: vendor_key(cache / "keys" / name, name) for name in VENDORS}
        try:
            with tempfile.TemporaryDirectory(prefix="onprem-gpu-packages-") as work:
                _build_repositories(unfinished, binaries, signers, Path(work), say)
            _write_keys(unfinished / "keys", signers)
        finally:
            for signer in signers.values():
                end_agent(signer)
        unfinished.rename(root)
    os.utime(root)
    _forget_old(place)
    return root


def _runc() -> Path:
    """The machine's runc, which containerd.io brings along."""
    return Path(shutil.which("runc") or "/usr/sbin/runc")


def _key_of(sources: Iterable[Path]) -> str:
    """Name a build after all that goes into it."""
    content = hashlib.sha256(platform.release().encode())
    own = [*LAB.glob("package*.py"), *LAB.glob("silicon*.py"), LAB / "settings.py"]
    own += [*(LAB / "packages").iterdir(), *(LAB / "silicon").glob("*.[ch]")]
    for file in sorted(own):
        content.update(file.name.encode() + b"\0" + file.read_bytes())
    for source in sources:
        status = source.stat()
        content.update(f"{source} {status.st_size} {status.st_mtime_ns}\n".encode())
    return content.hexdigest()[:16]


def _build_repositories(
    root: Path, binaries: Path, signers: dict[str, Signer], work: Path, say: Callable[[str], None]
) -> None:
    say("compiling the driver's libraries and daemons")
    drivers = [Driver(version, work / "drivers") for version in DRIVERS]
    for path, described in _repositories(drivers, binaries):
        packages = list(described)
        say(f"repository {path}: {len(packages)} packages")
        vendor = path.partition("/")[0]
        deb = "rhel" not in path and not path.endswith("rpm")
        build_all(build_deb if deb else build_rpm, packages, root / path, work / path)
        if deb:
            finish_apt(root / path, signers[vendor], VENDORS[vendor])
        else:
            finish_yum(root / path, signers[vendor])


def _repositories(drivers: list[Driver], binaries: Path) -> Iterator[tuple[str, Iterable[Package]]]:
    kernel, runc = platform.release(), _runc()
    dkms, headers = package_lists.dkms_deb, package_lists.headers_deb
    yield "cuda/debian12", [*_all(drivers, package_lists.debian_driver), *_pinning(drivers, "-1")]
    yield (
        "cuda/ubuntu2404",
        [
            *_all(drivers, package_lists.ubuntu_driver),
            *_pinning(drivers, "-1ubuntu1"),
            dkms("1:3.2.2-1ubuntu1"),
            headers(kernel),
        ],
    )
    yield "cuda/rhel9", list(_all(drivers, package_lists.el_driver))
    yield "extras/debian12", [dkms("3.2.2-1~bpo12+1"), headers(kernel)]
    yield "extras/rhel9", package_lists.el_extras(kernel)
    yield "toolkit/deb", package_tools.toolkit_deb(binaries)
    yield "toolkit/rpm", package_tools.toolkit_rpm(binaries)
    yield "kubernetes/deb", package_tools.kubernetes_deb(binaries)
    yield "kubernetes/rpm", package_tools.kubernetes_rpm(binaries)
    yield "runtime/deb", package_tools.runtime_deb(binaries, runc)
    yield "runtime/rpm", package_tools.runtime_rpm(binaries, runc)


def _all(drivers: list[Driver], packages_of: Callable[[Driver], Iterator[Package]]) -> Iterator[Package]:
    for driver in drivers:
        yield from packages_of(driver)


def _pinning(drivers: list[Driver], revision: str) -> Iterator[Package]:
    """One pinning package per branch and per version."""
    seen: set[str] = set()
    for driver in reversed(drivers):
        yield from package_lists.pinning(driver, driver.version + revision, seen)


def _write_keys(folder: Path, signers: dict[str, Signer]) -> None:
    folder.mkdir(parents=True)
    for name, signer in signers.items():
        (folder / f"{name}.asc").write_text(public_key(signer))
    fingerprints = {name: signer.fingerprint for name, signer in signers.items()}
    (folder / "fingerprints.json").write_text(json.dumps(fingerprints, indent=2) + "\n")


def _forget_old(place: Path) -> None:
    finished = sorted((path for path in place.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime)
    for old in finished[:-KEEP]:
        shutil.rmtree(old)
