# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Debian and RPM packages, and signed repositories of them, from plain descriptions.

A ``Package`` is written in the words of its own format: ``depends`` of a deb reads ``dkms (>= 3.1.8)``, of an rpm
``dkms >= 3.1.8``; scripts are named postinst, prerm, postrm or post, preun, postun.
"""

from __future__ import annotations

import concurrent.futures
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

DEB_COMPRESSION = ("-Zzstd", "-z1")  # the programs are large, the network is this machine
RPM_COMPRESSION = "w1.zstdio"
RPM_SCRIPTS = ("post", "preun", "postun", "posttrans")


@dataclass(frozen=True)
class File:
    """One file of a package: text, a copy of ``source``, or a symbolic link to ``target``."""

    text: str | None = None
    data: bytes | None = None
    source: Path | None = None
    target: str | None = None
    mode: int = 0o644


@dataclass(frozen=True)
class Package:
    """What a package is and contains. ``version`` is complete: ``580.95.05-1`` or ``3:580.95.05-1.el9``."""

    name: str
    version: str
    summary: str
    files: Mapping[str, File] = field(default_factory=dict)
    depends: Sequence[str] = ()
    provides: Sequence[str] = ()
    conflicts: Sequence[str] = ()
    replaces: Sequence[str] = ()  # deb: Replaces; rpm: Obsoletes
    scripts: Mapping[str, str] = field(default_factory=dict)
    any_architecture: bool = False


@dataclass(frozen=True)
class Signer:
    """A vendor's key: its GnuPG home and fingerprint."""

    home: Path
    fingerprint: str


def run(argv: Sequence[str | Path], *, cwd: Path | None = None) -> bytes:
    """Run a program and return its output. Raises RuntimeError with the end of what it printed."""
    done = subprocess.run([os.fspath(word) for word in argv], cwd=cwd, capture_output=True, check=False)
    if done.returncode:
        output = (done.stdout + done.stderr).decode(errors="replace").strip()
        raise RuntimeError(f"{argv[0]} ended with status {done.returncode}: {output[-2000:]}")
    return done.stdout


def build_all(build: Callable[[Package, Path, Path], None], packages: Sequence[Package], out: Path, work: Path) -> None:
    """Build packages side by side into ``out``."""
    out.mkdir(parents=True)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        futures = [
            pool.submit(build, package, out, work / f"{number}-{package.name}")
            for number, package in enumerate(packages)
        ]
        for future in futures:
            future.result()


def _stage(package: Package, root: Path) -> None:
    for path, file in package.files.items():
        target = root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        if file.target is not None:
            target.symlink_to(file.target)
            continue
        if file.source is not None:
            shutil.copyfile(file.source, target)
        else:
            target.write_bytes(file.data if file.data is not None else (file.text or "").encode())
        target.chmod(file.mode)


# -- deb --------------------------------------------------------------------------------------------------------------


def build_deb(package: Package, out: Path, work: Path) -> None:
    """Write one .deb."""
    root = work / "root"
    control = root / "DEBIAN"
    control.mkdir(parents=True)
    _stage(package, root)
    architecture = "all" if package.any_architecture else "amd64"
    fields = {
        "Package": package.name,
        "Version": package.version,
        "Architecture": architecture,
        "Maintainer": "onprem.gpu lab <lab@localhost>",
        "Depends": ", ".join(package.depends),
        "Provides": ", ".join(package.provides),
        "Conflicts": ", ".join(package.conflicts),
        "Replaces": ", ".join(package.replaces),
        "Section": "misc",
        "Priority": "optional",
        "Description": package.summary,
    }
    (control / "control").write_text("".join(f"{name}: {value}\n" for name, value in fields.items() if value))
    configuration = [path for path, file in package.files.items() if path.startswith("/etc/") and file.target is None]
    if configuration:
        (control / "conffiles").write_text("".join(f"{path}\n" for path in configuration))
    for name, body in package.scripts.items():
        (control / name).write_text(f"#!/bin/sh\nset -e\n{body}")
        (control / name).chmod(0o755)
    file_name = f"{package.name}_{package.version.partition(':')[2] or package.version}_{architecture}.deb"
    run(["dpkg-deb", "--root-owner-group", *DEB_COMPRESSION, "--build", root, out / file_name])
    shutil.rmtree(work)


def finish_apt(repository: Path, signer: Signer, origin: str) -> None:
    """Index and sign a flat apt repository."""
    packages = run(["apt-ftparchive", "packages", "."], cwd=repository)
    (repository / "Packages").write_bytes(packages)
    run(["gzip", "-9nk", "Packages"], cwd=repository)
    options = [word for name in ("Origin", "Label") for word in ("-o", f"APT::FTPArchive::Release::{name}={origin}")]
    (repository / "Release").write_bytes(run(["apt-ftparchive", *options, "release", "."], cwd=repository))
    run([*_gpg(signer), "--armor", "--detach-sign", "--output", "Release.gpg", "Release"], cwd=repository)
    run([*_gpg(signer), "--clearsign", "--output", "InRelease", "Release"], cwd=repository)


# -- rpm --------------------------------------------------------------------------------------------------------------


def build_rpm(package: Package, out: Path, work: Path) -> None:
    """Write one .rpm, not yet signed."""
    stage = work / "stage"
    stage.mkdir(parents=True)
    _stage(package, stage)
    epoch, _, rest = package.version.rpartition(":")
    version, _, release = rest.partition("-")
    lines = [
        "%global debug_package %{nil}",
        "%global __os_install_post %{nil}",
        "%global _build_id_links none",
        f"%global _binary_payload {RPM_COMPRESSION}",
        f"Name: {package.name}",
        *([f"Epoch: {epoch}"] if epoch else []),
        f"Version: {version}",
        f"Release: {release}",
        f"Summary: {package.summary}",
        "License: GPL-3.0-or-later",
        *(["BuildArch: noarch"] if package.any_architecture else []),
        "AutoReqProv: no",
        *(f"Requires: {need}" for need in package.depends),
        *(f"Provides: {name}" for name in package.provides),
        *(f"Conflicts: {name}" for name in package.conflicts),
        *(f"Obsoletes: {name}" for name in package.replaces),
        "%description",
        package.summary,
        "%install",
        f"cp -a {stage}/. %{{buildroot}}/",
        *(line for name in RPM_SCRIPTS if name in package.scripts for line in _scriptlet(name, package.scripts[name])),
        "%files",
        *(_rpm_file(path, file) for path, file in package.files.items()),
    ]
    spec = work / "package.spec"
    spec.write_text("\n".join(lines) + "\n")
    macros = _defines(
        _topdir=work,
        _rpmdir=out,
        _dbpath=work / "rpmdb",
        _rpmfilename="%%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm",
    )
    architecture = "noarch" if package.any_architecture else "x86_64"
    run(["rpmbuild", "-bb", "--quiet", "--target", architecture, *macros, spec])
    shutil.rmtree(work)


def _scriptlet(name: str, body: str) -> list[str]:
    """Run the script from Lua, so that the package does not require a shell: the hosts' rpm databases hold none.

    The script sees as $1 how many instances of the package are left, as every scriptlet does.
    """
    return [f"%{name} -p <lua>", f"os.execute('set -- ' .. (arg[2] or '') .. '\\n' .. [==[\n{body}]==])"]


def _rpm_file(path: str, file: File) -> str:
    if file.target is not None:
        return path
    mark = "%config(noreplace) " if path.startswith("/etc/") else ""
    return f"{mark}%attr({file.mode:04o},root,root) {path}"


def finish_yum(repository: Path, signer: Signer) -> None:
    """Sign the packages of a yum repository, index it and sign the index."""
    macros = _defines(__gpg=shutil.which("gpg"), _gpg_name=signer.fingerprint, _gpg_path=signer.home)
    run(["rpmsign", "--addsign", *macros, *sorted(repository.glob("*.rpm"))])
    run(["createrepo_c", "--quiet", "--general-compress-type=gz", repository])
    index = repository / "repodata/repomd.xml"
    run([*_gpg(signer), "--armor", "--detach-sign", "--output", f"{index}.asc", index])


def _defines(**macros: object) -> list[str]:
    return [word for name, value in macros.items() for word in ("--define", f"{name} {value}")]


def _gpg(signer: Signer) -> list[str | Path]:
    return ["gpg", "--homedir", signer.home, "--batch", "--yes", "--local-user", signer.fingerprint]


# -- keys -------------------------------------------------------------------------------------------------------------


def vendor_key(home: Path, name: str) -> Signer:
    """Return a vendor's key, made on first use and kept."""
    if not (home / "fingerprint").exists():
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True, mode=0o700)
        gpg: list[str | Path] = ["gpg", "--homedir", home, "--batch", "--pinentry-mode", "loopback", "--passphrase", ""]
        run([*gpg, "--quick-generate-key", f"onprem.gpu lab {name} <{name}@localhost>", "rsa3072", "sign", "never"])
        listing = run(["gpg", "--homedir", home, "--batch", "--with-colons", "--list-secret-keys"]).decode()
        fingerprint = next(line.split(":")[9] for line in listing.splitlines() if line.startswith("fpr:"))
        (home / "fingerprint").write_text(fingerprint)
    return Signer(home, (home / "fingerprint").read_text())


def end_agent(signer: Signer) -> None:
    """End the agent that GnuPG leaves running behind a key."""
    run(["gpgconf", "--homedir", signer.home, "--kill", "all"])


def public_key(signer: Signer) -> str:
    """Return the armoured public key."""
    return run(["gpg", "--homedir", signer.home, "--batch", "--armor", "--export", signer.fingerprint]).decode()
