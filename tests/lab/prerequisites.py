# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the machine must have before a lab can stand on it."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from progress import LabError, Progress

# a program (or file) the lab needs -> the Debian package that brings it
NEEDED = {
    "mmdebstrap": "mmdebstrap",
    "systemd-nspawn": "systemd-container",
    "runc": "runc",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
    "nft": "nftables",
    "ip": "iproute2",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "dnf": "dnf",
    "rpm": "rpm",
    "rpmbuild": "rpm",
    "createrepo_c": "createrepo-c",
    "apt-ftparchive": "apt-utils",
    "dpkg-deb": "dpkg",
    "dpkg-scanpackages": "dpkg-dev",
    "gpg": "gnupg",
    "gcc": "gcc",
    "git": "git",
    "curl": "curl",
    "/bin/busybox": "busybox-static",
    "/usr/share/keyrings/debian-archive-keyring.gpg": "debian-archive-keyring",
}


def check_machine() -> None:
    """Raise LabError with one line when this machine can never carry a lab as this user."""
    if sys.platform != "linux":
        raise LabError(f"the lab needs Linux; this machine runs {sys.platform}")
    if os.geteuid() != 0:
        raise LabError("the lab needs root (network namespaces, mounts, cgroups); run it with sudo or as root")
    if os.uname().machine != "x86_64":
        raise LabError(f"the lab needs an x86_64 machine; this one is {os.uname().machine}")


def missing() -> dict[str, str]:
    """Return the needed programs and files that are not there, with the Debian package of each."""
    return {need: package for need, package in NEEDED.items() if not _is_there(need)}


def install_missing(progress: Progress) -> None:
    """Install what is missing where the machine has apt; elsewhere say what to install."""
    gaps = missing()
    if not gaps:
        return
    packages = sorted(set(gaps.values()))
    if shutil.which("apt-get") is None:
        raise LabError(f"missing on this machine: {', '.join(sorted(gaps))}; install them and run this again")
    with progress.step("Install tools") as step:
        step.say(f"missing: {', '.join(sorted(gaps))}; installing with apt: {' '.join(packages)}")
        quiet = {"DEBIAN_FRONTEND": "noninteractive"}
        step.run(["apt-get", "update", "-q"], env=quiet)
        step.run(["apt-get", "install", "-y", "-q", "--no-install-recommends", *packages], env=quiet)
        if still := missing():
            raise LabError(f"still missing after installing: {', '.join(sorted(still))}")


def _is_there(need: str) -> bool:
    return Path(need).exists() if need.startswith("/") else shutil.which(need) is not None
