# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The real programs of the lab, built from pinned Go modules once and kept in the cache."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import golang
import settings
import yaml
from progress import Step

KWOK_STAGES = "kwok-stages.yaml"  # kwok's configuration, beside the programs
GO_SOURCES = settings.LAB_SOURCE / "go"
_CONTAINERD = "github.com/containerd/containerd/v2"
_NVIDIA_TOOLKIT = "github.com/NVIDIA/nvidia-container-toolkit"


@dataclass(frozen=True)
class Program:
    """One program: either from one of the lab's own Go modules, or installed straight from a published module."""

    name: str
    package: str
    module: str | None = None  # folder under go/ whose go.mod pins it
    version: str | None = None  # where it is installed by package@version
    ldflags: str = ""
    tags: str = ""
    cgo: bool = False

    @property
    def arguments(self) -> list[str]:
        """Arguments of the go command, without where the result goes."""
        flags = ["-ldflags", f"-s -w {self.ldflags}".strip()]
        if self.tags:
            flags += ["-tags", self.tags]
        return [*flags, f"{self.package}@{self.version}" if self.version else self.package]


def _kubernetes_version_flags() -> str:
    major, minor, _ = settings.KUBERNETES_VERSION.split(".")
    values = {
        "gitVersion": f"v{settings.KUBERNETES_VERSION}",
        "gitMajor": major,
        "gitMinor": minor,
        "gitTreeState": "clean",
    }
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    return " ".join(f"-X {package}.{name}={value}" for package in packages for name, value in values.items())


def _programs() -> Iterator[Program]:
    for name in ("kubelet", "kubeadm", "kubectl", "kube-scheduler", "kube-apiserver", "kube-controller-manager"):
        yield Program(name, f"k8s.io/kubernetes/cmd/{name}", module="kubernetes", ldflags=_kubernetes_version_flags())
    yield Program("etcd", "go.etcd.io/etcd/server/v3", module="etcd")
    for name in ("containerd", "containerd-shim-runc-v2", "ctr"):
        yield Program(
            name,
            f"{_CONTAINERD}/cmd/{name}",
            version=f"v{settings.CONTAINERD_VERSION}",
            ldflags=f"-X {_CONTAINERD}/version.Version=v{settings.CONTAINERD_VERSION}",
            tags="no_btrfs,no_zfs,no_devmapper",
        )
    for name in ("nvidia-ctk", "nvidia-container-runtime", "nvidia-cdi-hook"):
        yield Program(
            name,
            f"{_NVIDIA_TOOLKIT}/cmd/{name}",
            version=f"v{settings.NVIDIA_TOOLKIT_VERSION}",
            ldflags=f"-X {_NVIDIA_TOOLKIT}/internal/info.version={settings.NVIDIA_TOOLKIT_VERSION}",
            cgo=True,
        )
    yield Program("helm", "helm.sh/helm/v3/cmd/helm", version=f"v{settings.HELM_VERSION}")
    yield Program("kwok", "sigs.k8s.io/kwok/cmd/kwok", version=f"v{settings.KWOK_VERSION}")


PROGRAMS = tuple(_programs())


def folder() -> Path:
    """Return where the programs of these exact versions and flags live, built or not."""
    content = hashlib.sha256()
    for program in PROGRAMS:
        content.update(repr(program).encode())
    for pin in sorted(GO_SOURCES.glob("*/go.*")):
        if pin.parent.name in ("kubernetes", "etcd"):
            content.update(pin.read_bytes())
    return settings.CACHE / "binaries" / content.hexdigest()[:12]


def build(step: Step) -> Path:
    """Return the folder of all programs; builds those that are missing (about 13 minutes for all of them)."""
    target = folder()
    todo = [program for program in PROGRAMS if not (target / program.name).exists()]
    if not todo and (target / KWOK_STAGES).exists():
        return target
    target.mkdir(parents=True, exist_ok=True)
    go = golang.find(step)
    if todo:
        step.say(f"building {len(todo)} programs from Go modules into {target}; the first time takes about 13 minutes")
    for index, program in enumerate(todo, start=1):
        started = time.monotonic()
        _build_one(go, program, target, step)
        step.say(f"{index}/{len(todo)} {program.name}: {time.monotonic() - started:.0f} s")
    _write_kwok_stages(go, target, step)
    shutil.rmtree(target / "unfinished", ignore_errors=True)
    return target


def build_operands(step: Step) -> Path:
    """Return the folder of the lab's own operands (device plugin and others), built when their source changed."""
    source = GO_SOURCES / "operands"
    content = hashlib.sha256()
    for file in sorted(path for path in source.rglob("*") if path.is_file()):
        content.update(file.relative_to(source).as_posix().encode() + b"\0" + file.read_bytes())
    target = settings.CACHE / "binaries" / f"operands-{content.hexdigest()[:12]}"
    if target.exists():
        return target
    go = golang.find(step)
    step.say("building the lab's operands")
    unfinished = target.with_name(target.name + ".unfinished")
    unfinished.mkdir(parents=True, exist_ok=True)
    env = golang.environment(cgo=True)
    step.run([go, "build", "-ldflags", "-s -w", "-o", f"{unfinished}/", "./cmd/..."], cwd=source, env=env)
    for earlier in target.parent.glob("operands-*"):
        if earlier != unfinished:
            shutil.rmtree(earlier)
    unfinished.rename(target)
    return target


def link(programs: Path) -> None:
    """Put the programs a person wants to run by hand into .lab/bin."""
    settings.BIN.mkdir(parents=True, exist_ok=True)
    for name in ("kubectl", "helm", "kubeadm", "kwok", "ctr"):
        entry = settings.BIN / name
        entry.unlink(missing_ok=True)
        entry.symlink_to(programs / name)


def _write_kwok_stages(go: Path, target: Path, step: Step) -> None:
    """Describe to kwok what nodes and pods go through, in the words of its own module."""
    module = f"sigs.k8s.io/kwok@v{settings.KWOK_VERSION}"
    answer = step.run([go, "mod", "download", "-json", module], cwd=target, env=golang.environment(cgo=False))
    source = Path(json.loads(answer)["Dir"])
    (target / KWOK_STAGES).write_text(_kwok_stages(source))


def _kwok_stages(source: Path) -> str:
    """Nodes with leases; pods that honour grace periods, which kwok's fast stages do not."""
    documents = []
    for name in ("node/fast", "node/heartbeat-with-lease", "pod/general"):
        place = source / "kustomize/stage" / name
        files = yaml.safe_load((place / "kustomization.yaml").read_text())["resources"]
        documents += [(place / file).read_text().rstrip() for file in files]
    return "\n---\n".join(documents) + "\n"


def _build_one(go: Path, program: Program, target: Path, step: Step) -> None:
    unfinished = target / "unfinished"
    unfinished.mkdir(exist_ok=True)
    env = golang.environment(cgo=program.cgo)
    if program.module is not None:
        where = GO_SOURCES / program.module
        step.run([go, "build", "-o", unfinished / program.name, *program.arguments], cwd=where, env=env)
    else:
        step.run([go, "install", *program.arguments], cwd=target, env={**env, "GOBIN": str(unfinished)})
    os.replace(unfinished / program.name, target / program.name)
