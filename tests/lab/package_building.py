# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Build deb and rpm packages and sign repositories of them with the distributions' own tools.

A ``Package`` says what is in a package; ``build_deb`` and ``build_rpm`` write the file; ``sign_apt`` and ``sign_yum``
make a folder of such files a repository.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

_DEB_SCRIPTS = {"after_install": "postinst", "before_remove": "prerm", "after_remove": "postrm"}
_RPM_SCRIPTS = {"after_install": "post", "before_remove": "preun", "after_remove": "postun"}


@dataclass(frozen=True)
class File:
    """One file of a package: its text or bytes, or the file it is copied from."""

    content: str | bytes | Path
    mode: int = 0o644
    configuration: bool = False  # kept on upgrade when an administrator changed it


@dataclass(frozen=True)
class Package:
    """What is in a package.

    ``version`` is complete (``3:580.173.02-1.el9``) and relations are in the target's own syntax. ``scripts`` maps
    after_install, before_remove and after_remove to shell text; the latter two run on removal, never on an upgrade.
    """

    name: str
    version: str
    files: Mapping[str, File] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)  # path -> what it points to
    depends: tuple[str, ...] = ()
    recommends: tuple[str, ...] = ()
    provides: tuple[str, ...] = ()
    conflicts: tuple[str, ...] = ()
    replaces: tuple[str, ...] = ()
    scripts: Mapping[str, str] = field(default_factory=dict)
    summary: str = "part of the embedded data centre"
    architecture_independent: bool = False


# -- packages ---------------------------------------------------------------------------------------------------------


def build_deb(package: Package, folder: Path, work: Path) -> None:
    """Write the package as a .deb into ``folder``. Raises CalledProcessError with dpkg-deb's words."""
    tree = _fresh(work / "deb")
    _lay_out(package, tree)
    control = tree / "DEBIAN"
    control.mkdir()
    architecture = "all" if package.architecture_independent else "amd64"
    fields = {
        "Package": package.name,
        "Version": package.version,
        "Architecture": architecture,
        "Maintainer": "The lab <lab@onprem.gpu.invalid>",
        "Depends": ", ".join(package.depends),
        "Recommends": ", ".join(package.recommends),
        "Provides": ", ".join(package.provides),
        "Conflicts": ", ".join(package.conflicts),
        "Replaces": ", ".join(package.replaces),
        "Description": package.summary,
    }
    (control / "control").write_text("".join(f"{k}: {v}\n" for k, v in fields.items() if v), encoding="utf-8")
    kept = [path for path, file in package.files.items() if file.configuration]
    if kept:
        (control / "conffiles").write_text("".join(f"{path}\n" for path in kept), encoding="utf-8")
    for when, text in package.scripts.items():
        script = control / _DEB_SCRIPTS[when]
        guard = '[ "$1" = configure ] || exit 0' if when == "after_install" else '[ "$1" = remove ] || exit 0'
        script.write_text(f"#!/bin/sh\nset -e\n{guard}\n{text}", encoding="utf-8")
        script.chmod(0o755)
    file_version = package.version.partition(":")[2] or package.version
    target = folder / f"{package.name}_{file_version}_{architecture}.deb"
    _run(["dpkg-deb", "--build", "--root-owner-group", "-Znone", str(tree), str(target)])


def build_rpm(package: Package, folder: Path, work: Path) -> None:
    """Write the package as an unsigned .rpm into ``folder``. Raises CalledProcessError with rpmbuild's words."""
    tree = _fresh(work / "tree")
    _lay_out(package, tree)
    top = _fresh(work / "rpm")
    epoch, _, rest = package.version.rpartition(":")
    version, _, release = rest.partition("-")
    lines = [
        f"Name: {package.name}",
        f"Version: {version}",
        f"Release: {release}",
        *([f"Epoch: {epoch}"] if epoch else []),
        f"Summary: {package.summary}",
        "License: GPL-3.0-or-later",
        "AutoReqProv: no",  # a package says itself what it needs
        *(["BuildArch: noarch"] if package.architecture_independent else []),
        *(f"Requires: {relation}" for relation in package.depends),
        *(f"Recommends: {relation}" for relation in package.recommends),
        *(f"Provides: {relation}" for relation in package.provides),
        *(f"Conflicts: {relation}" for relation in package.conflicts),
        *(f"Obsoletes: {relation}" for relation in package.replaces),
        "%description",
        package.summary,
        "%install",
        f"cp -a {tree}/. %{{buildroot}}/",
        "%files",
        *(f"{'%config(noreplace) ' if file.configuration else ''}{path}" for path, file in package.files.items()),
        *package.links,
    ]
    for when, text in package.scripts.items():
        guard = "" if when == "after_install" else '[ "$1" = 0 ] || exit 0\n'
        lines += [f"%{_RPM_SCRIPTS[when]}", f"{guard}{text}"]
    spec = top / "package.spec"
    spec.write_text("\n".join(lines) + "\n", encoding="utf-8")
    definitions = {
        "_topdir": top,
        "_rpmdir": folder,
        "_rpmfilename": "%%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm",
        "_binary_payload": "w0.gzdio",
        "_build_id_links": "none",
        "__os_install_post": "%{nil}",
        "debug_package": "%{nil}",
    }
    defines = [word for name, value in definitions.items() for word in ("--define", f"{name} {value}")]
    _run(["rpmbuild", "-bb", "--quiet", "--nodeps", "--target", "x86_64", *defines, str(spec)])


def _lay_out(package: Package, tree: Path) -> None:
    for path, file in package.files.items():
        target = tree / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(file.content, Path):
            shutil.copyfile(file.content, target)
        elif isinstance(file.content, bytes):
            target.write_bytes(file.content)
        else:
            target.write_text(file.content, encoding="utf-8")
        target.chmod(file.mode)
    for path, goal in package.links.items():
        target = tree / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(goal)


# -- keys and repositories --------------------------------------------------------------------------------------------


class Keyring:
    """One signing key per vendor, made once and kept in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = folder

    def fingerprint(self, vendor: str) -> str:
        """Return the 40 hex digits of the vendor's key, made now if there is none."""
        listed = self._gpg("--list-keys", "--with-colons", _address(vendor), check=False)
        if "fpr:" not in listed:
            identity = f"Lab vendor {vendor} <{_address(vendor)}>"
            self._gpg("--passphrase", "", "--quick-generate-key", identity, "rsa3072", "sign", "never")
            listed = self._gpg("--list-keys", "--with-colons", _address(vendor))
        return next(line.split(":")[9] for line in listed.splitlines() if line.startswith("fpr:"))

    def public_key(self, vendor: str) -> str:
        """Return the vendor's public key, ASCII-armoured."""
        return self._gpg("--armor", "--export", self.fingerprint(vendor))

    def sign_rpms(self, vendor: str, files: Iterable[Path]) -> None:
        """Sign rpm files in place."""
        defines = ["--define", f"_gpg_name {self.fingerprint(vendor)}", "--define", "__gpg /usr/bin/gpg"]
        _run(["rpmsign", *defines, "--addsign", *map(str, files)], env={"GNUPGHOME": str(self._folder)})

    def sign(self, vendor: str, source: Path, target: Path, *, clear: bool = False) -> None:
        """Write a detached ASCII signature of ``source``, or with ``clear`` the text with its signature in it."""
        how = "--clearsign" if clear else "--detach-sign"
        self._gpg(
            "--yes", "--local-user", self.fingerprint(vendor), "--armor", how, "--output", str(target), str(source)
        )

    def _gpg(self, *arguments: str, check: bool = True) -> str:
        return _run(["gpg", "--homedir", str(self._folder), "--batch", *arguments], check=check)


def sign_apt(folder: Path, vendor: str, keys: Keyring) -> None:
    """Make a folder of .deb files a flat, signed apt repository."""
    (folder / "Packages").write_text(_run(["apt-ftparchive", "packages", "."], cwd=folder), encoding="utf-8")
    origin = ["-o", f"APT::FTPArchive::Release::Origin={vendor}", "-o", f"APT::FTPArchive::Release::Label={vendor}"]
    release = _run(["apt-ftparchive", *origin, "release", "."], cwd=folder)
    (folder / "Release").write_text(release, encoding="utf-8")
    keys.sign(vendor, folder / "Release", folder / "Release.gpg")
    keys.sign(vendor, folder / "Release", folder / "InRelease", clear=True)


def sign_yum(folder: Path, vendor: str, keys: Keyring) -> None:
    """Make a folder of .rpm files a signed yum repository; the packages are signed too."""
    keys.sign_rpms(vendor, sorted(folder.glob("*.rpm")))
    _run(["createrepo_c", "--quiet", str(folder)])
    keys.sign(vendor, folder / "repodata" / "repomd.xml", folder / "repodata" / "repomd.xml.asc")


def _address(vendor: str) -> str:
    return f"{vendor}@vendors.onprem.gpu.invalid"


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _run(argv: list[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None, check: bool = True) -> str:
    done = subprocess.run(argv, cwd=cwd, env={**os.environ, **(env or {})}, capture_output=True, text=True, check=False)
    if check and done.returncode != 0:
        raise OSError(f"{' '.join(argv[:4])} ended with status {done.returncode}: {done.stderr.strip()[-600:]}")
    return done.stdout
