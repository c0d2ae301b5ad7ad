# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Root file systems of the lab's hosts: one per operating system, made once and kept in the cache.

All are Debian underneath. The Ubuntu-like one differs in what os-release says; the EL-like one has dnf and rpm as its
only package tools, and an rpm database that starts empty.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import settings
from progress import Step

HOST_FILES = settings.LAB_SOURCE / "host"
BASE_PACKAGES = (
    "ca-certificates",
    "conntrack",
    "cpio",
    "dbus",
    "ethtool",
    "gnupg",
    "iproute2",
    "iptables",
    "kmod",
    "libseccomp2",
    "mount",
    "nftables",
    "openssh-server",
    "pciutils",
    "procps",
    "python3",
    "socat",
    "sudo",
    "systemd",
    "systemd-sysv",
    "udev",
    "util-linux",
)
APT_PACKAGES = ("python3-apt",)
EL_PACKAGES = ("dnf", "dnf-plugins-core", "python3-dnf", "rpm")
MASKED_UNITS = (
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "console-getty.service",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "fstrim.timer",
    "getty@.service",
    "systemd-binfmt.service",
    "systemd-resolved.service",
    "systemd-timesyncd.service",
)


@dataclass(frozen=True)
class Flavour:
    """One operating system a fleet file may name."""

    name: str
    packages: tuple[str, ...]
    os_release: str
    finish: Callable[[Path, Step], None]


def build(os_name: str, step: Step) -> Path:
    """Return the read-only root of an operating system, making it first where the cache lacks it."""
    flavour = FLAVOURS[os_name]
    root = settings.CACHE / "roots" / f"{flavour.name}-{_flavour_key(flavour)}"
    if root.exists():
        return root
    base = _build_base(step)
    step.say(f"{flavour.name}: making the root")
    unfinished = _fresh(root.with_name(root.name + ".unfinished"))
    step.run(["cp", "-a", "--reflink=auto", base, unfinished])
    if flavour.packages:
        _apt_install(unfinished, flavour.packages, step)
    _configure(unfinished, flavour)
    flavour.finish(unfinished, step)
    _clean(unfinished)
    unfinished.rename(root)
    _remove_outdated(root)
    return root


def _remove_outdated(root: Path) -> None:
    """Forget earlier roots of the same system that no host stands on."""
    mounted = Path("/proc/self/mountinfo").read_text()
    for earlier in root.parent.glob(f"{root.name.rpartition('-')[0]}-*"):
        if earlier != root and str(earlier) not in mounted:
            shutil.rmtree(earlier)


def _build_base(step: Step) -> Path:
    base = settings.CACHE / "roots" / f"base-{_key(BASE_PACKAGES)}"
    if base.exists():
        return base
    base.parent.mkdir(parents=True, exist_ok=True)
    step.say("Debian base: downloading and unpacking (about a minute)")
    unfinished = _fresh(base.with_name(base.name + ".unfinished"))
    step.run(
        [
            "mmdebstrap",
            "--variant=minbase",
            f"--include={','.join(BASE_PACKAGES)}",
            *[f"--aptopt={line}" for line in _machine_apt_proxies(step)],
            settings.DEBIAN_SUITE,
            unfinished,
            *_machine_mirrors(step),
        ]
    )
    unfinished.rename(base)
    return base


def _machine_mirrors(step: Step) -> list[str]:
    """Return deb lines of the mirrors this machine itself uses for the suite; empty = mmdebstrap's defaults."""
    if shutil.which("apt-get") is None:
        return []
    output = step.run(
        [
            "apt-get",
            "indextargets",
            "--format",
            "$(REPO_URI) $(RELEASE) $(COMPONENT)",
            "Created-By: Packages",
            "Origin: Debian",
        ],
        check=False,
    )
    lines = []
    for line in output.splitlines():
        uri, release, component = line.split()
        if release.split("-")[0] == settings.DEBIAN_SUITE and component == "main":
            lines.append(f"deb {uri} {release} {component}")
    return sorted(set(lines))


def _machine_apt_proxies(step: Step) -> list[str]:
    """Return the machine's apt proxy settings, so that hosts reach Debian's packages as the machine does."""
    if shutil.which("apt-config") is None:
        return []
    dump = step.run(["apt-config", "dump"])
    return [line for line in dump.splitlines() if line.lower().startswith("acquire::") and "proxy" in line.lower()]


def _apt_install(root: Path, packages: tuple[str, ...], step: Step) -> None:
    shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    step.run(["chroot", root, "apt-get", "update", "-q"], env=quiet)
    step.run(["chroot", root, "apt-get", "install", "-y", "-q", "--no-install-recommends", *packages], env=quiet)


def _configure(root: Path, flavour: Flavour) -> None:
    """Write what every host has: the admin user, sshd's settings, the lab's boot services, CNI plugins, a kernel."""
    _write(root / "usr/lib/os-release", flavour.os_release)
    for name in ("early", "silicon", "import-images"):
        _copy_program(HOST_FILES / name, root / "usr/lib/onprem-gpu-lab" / name)
    for name in ("lab-early.service", "lab-silicon.service"):
        _write(root / "usr/lib/systemd/system" / name, (HOST_FILES / name).read_text())
        _link(root / "usr/lib/systemd/system/sysinit.target.wants" / name, f"../{name}")
    _write(
        root / "usr/lib/systemd/system/containerd.service.d/lab-images.conf",
        (HOST_FILES / "containerd-images.conf").read_text(),
    )
    _write(root / "etc/containerd/conf.d/10-lab.toml", (HOST_FILES / "containerd-lab.toml").read_text())
    for unit in MASKED_UNITS:
        _link(root / "etc/systemd/system" / unit, "/dev/null")
    _add_admin(root)
    _write(root / "etc/ssh/sshd_config.d/lab.conf", (HOST_FILES / "sshd.conf").read_text())
    for key in (root / "etc/ssh").glob("ssh_host_*"):
        key.unlink()
    (root / "var/log/journal").mkdir(exist_ok=True)  # journald then keeps logs over reboots
    shutil.copytree("/usr/lib/cni", root / "opt/cni/bin", symlinks=False)
    _add_machine_certificates(root)
    _add_kernel(root)


def _add_admin(root: Path) -> None:
    user = settings.ADMIN_USER
    _append(root / "etc/passwd", f"{user}:x:1000:1000:lab administrator:/home/{user}:/bin/bash\n")
    _append(root / "etc/group", f"{user}:x:1000:\n")
    _append(root / "etc/shadow", f"{user}:*:20000:0:99999:7:::\n")
    _write(root / f"etc/sudoers.d/{user}", f"{user} ALL=(ALL) NOPASSWD: ALL\n", mode=0o440)
    home = root / "home" / user
    shutil.copytree(root / "etc/skel", home, dirs_exist_ok=True)
    (home / ".ssh").mkdir(mode=0o700)
    for path in (home, *home.rglob("*")):
        os.chown(path, 1000, 1000)


def _add_machine_certificates(root: Path) -> None:
    """Hosts trust the authorities this machine was told to trust."""
    local = Path("/usr/local/share/ca-certificates")
    if local.is_dir():
        shutil.copytree(local, root / "usr/local/share/ca-certificates", dirs_exist_ok=True)


def _add_kernel(root: Path) -> None:
    """The files a kernel package leaves behind: an image to boot and a folder for modules."""
    _write(root / f"boot/vmlinuz-{settings.KERNEL}", "a stand-in: the lab's hosts share the machine's kernel\n")
    modules = root / "lib/modules" / settings.KERNEL
    modules.mkdir(parents=True, exist_ok=True)
    for name in ("modules.dep", "modules.alias", "modules.builtin", "modules.order", "modules.symbols"):
        _write(modules / name, "")


def _finish_apt(root: Path, step: Step) -> None:
    _copy_program(HOST_FILES / "update-initramfs", root / "usr/sbin/update-initramfs")
    step.run(["chroot", root, "update-ca-certificates"])
    step.run(["chroot", root, "update-initramfs", "-c", "-k", settings.KERNEL])


def _finish_ubuntu(root: Path, step: Step) -> None:
    _write(
        root / "etc/lsb-release",
        'DISTRIB_ID=Ubuntu\nDISTRIB_RELEASE=24.04\nDISTRIB_CODENAME=noble\nDISTRIB_DESCRIPTION="Ubuntu 24.04.3 LTS"\n',
    )
    _write(root / "etc/debian_version", "trixie/sid\n")
    _finish_apt(root, step)


def _finish_el(root: Path, step: Step) -> None:
    step.run(["chroot", root, "update-ca-certificates"])
    release = "Rocky Linux release 9.6 (Blue Onyx)\n"
    for name in ("redhat-release", "rocky-release", "system-release"):
        _write(root / "etc" / name, release)
    (root / "etc/debian_version").unlink()
    for folder in ("etc/yum.repos.d", "etc/pki/rpm-gpg", "etc/dnf/vars", "usr/libexec"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    _write(root / "etc/dnf/vars/releasever", "9\n")
    _write(root / "etc/dnf/plugins/local.conf", "[main]\nenabled = false\n")  # Debian turns it on; el9 has it off
    _write(root / "etc/rpm/macros", "%_dbpath /var/lib/rpm\n")  # Debian's rpm looks in the user's home folder
    _link(root / "usr/bin/yum", "dnf")
    _copy_program(HOST_FILES / "dracut", root / "usr/bin/dracut")
    _remove_debian_tools(root)
    step.run(["chroot", root, "rpm", "--initdb"])
    step.run(["chroot", root, "dracut", "--force", "--kver", settings.KERNEL])


def _remove_debian_tools(root: Path) -> None:
    """Take apt and dpkg away, so that nothing on an EL-like host can tell or use them."""
    for pattern in ("usr/bin/apt*", "usr/bin/dpkg*", "usr/sbin/dpkg*"):
        for program in root.glob(pattern):
            program.unlink()
    for place in ("etc", "usr/lib", "var/lib", "var/cache"):
        for tool in ("apt", "dpkg"):
            shutil.rmtree(root / place / tool, ignore_errors=True)


def _clean(root: Path) -> None:
    for folder in (root / "var/cache/apt/archives").glob("*.deb"):
        folder.unlink()
    (root / "etc/machine-id").unlink(missing_ok=True)
    (root / "var/lib/dbus/machine-id").unlink(missing_ok=True)
    (root / "etc/hostname").unlink(missing_ok=True)


def _fresh(path: Path) -> Path:
    if path.exists():
        shutil.rmtree(path)
    return path


def _key(packages: tuple[str, ...]) -> str:
    return hashlib.sha256("\n".join((settings.DEBIAN_SUITE, *sorted(packages))).encode()).hexdigest()[:12]


def _flavour_key(flavour: Flavour) -> str:
    """Whatever changes the content of a root changes its key: packages, host files, this file, the kernel."""
    content = hashlib.sha256()
    for part in (*BASE_PACKAGES, *flavour.packages, flavour.os_release, settings.KERNEL, Path(__file__).read_text()):
        content.update(part.encode() + b"\0")
    for file in sorted(HOST_FILES.iterdir()):
        if file.name != "supervise":  # that one stays on the machine
            content.update(file.read_bytes())
    return content.hexdigest()[:12]


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)


def _append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def _link(path: Path, target: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def _copy_program(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)
    target.chmod(target.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)


_DEBIAN = """\
PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"
NAME="Debian GNU/Linux"
VERSION_ID="12"
VERSION="12 (bookworm)"
VERSION_CODENAME=bookworm
ID=debian
HOME_URL="https://www.debian.org/"
SUPPORT_URL="https://www.debian.org/support"
BUG_REPORT_URL="https://bugs.debian.org/"
"""
_UBUNTU = """\
PRETTY_NAME="Ubuntu 24.04.3 LTS"
NAME="Ubuntu"
VERSION_ID="24.04"
VERSION="24.04.3 LTS (Noble Numbat)"
VERSION_CODENAME=noble
ID=ubuntu
ID_LIKE=debian
HOME_URL="https://www.ubuntu.com/"
SUPPORT_URL="https://help.ubuntu.com/"
BUG_REPORT_URL="https://bugs.launchpad.net/ubuntu/"
UBUNTU_CODENAME=noble
"""
_ROCKY = """\
NAME="Rocky Linux"
VERSION="9.6 (Blue Onyx)"
ID="rocky"
ID_LIKE="rhel centos fedora"
VERSION_ID="9.6"
PLATFORM_ID="platform:el9"
PRETTY_NAME="Rocky Linux 9.6 (Blue Onyx)"
CPE_NAME="cpe:/o:rocky:rocky:9::baseos"
HOME_URL="https://rockylinux.org/"
REDHAT_SUPPORT_PRODUCT="Rocky Linux"
REDHAT_SUPPORT_PRODUCT_VERSION="9.6"
"""

FLAVOURS = {
    flavour.name: flavour
    for flavour in (
        Flavour("debian12", APT_PACKAGES, _DEBIAN, _finish_apt),
        Flavour("ubuntu2404", APT_PACKAGES, _UBUNTU, _finish_ubuntu),
        Flavour("el9", EL_PACKAGES, _ROCKY, _finish_el),
    )
}
