# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ways in which people and accidents change a converged host, for tests that see whether a run notices.

Each is made from an item of the state documents, so what the collection looks after tomorrow is mutated tomorrow.
"""

from __future__ import annotations

import shlex
import typing as t
from collections.abc import Iterator
from dataclasses import dataclass

import observe
from documents import Item

# A mutation's command ends with this when the host at hand does not allow it (no second version, module in use).
NOT_POSSIBLE = 77


@dataclass(frozen=True)
class Mutation:
    """A shell command for root on the host, or a kubectl command line. `matters` is None where the survey decides."""

    name: str
    host_command: str = ""
    kubectl: tuple[str, ...] = ()
    matters: bool | None = None

    def apply(self, host: str) -> bool:
        """Do it; False when the host does not allow it, and then nothing has changed."""
        if self.kubectl:
            observe.kubectl(*(host if word == "HOST" else word for word in self.kubectl))
            return True
        command = f"( {self.host_command} ); code=$?; [ $code = {NOT_POSSIBLE} ] && echo not possible; exit 0"
        return "not possible" not in observe.on_host(host, command)


def of_item(item: Item, manager: str) -> Iterator[Mutation]:
    """Every mutation of an item on a host with package manager MANAGER (apt or dnf)."""
    makers: dict[str, t.Callable[[Item, str], Iterator[Mutation]]] = {
        "file": of_file,
        "generated": of_file,
        "package": of_package,
        "hold": of_hold,
        "service": of_service,
        "module": of_module,
        "checkpoint": of_checkpoint,
    }
    for mutation in makers[item.kind](item, manager):
        yield Mutation(f"{item.id}: {mutation.name}", mutation.host_command, matters=mutation.matters)


def of_file(item: Item, _manager: str) -> Iterator[Mutation]:
    path = shlex.quote(item.name)
    if item.wish.get("state") == "absent":
        yield Mutation("comes back", f"mkdir -p $(dirname {path}); echo '# by hand' > {path}", matters=True)
        return
    yield Mutation("line added", f"echo '# by hand' >> {path}", matters=True)
    yield Mutation("emptied", f"[ -s {path} ] || exit {NOT_POSSIBLE}; : > {path}", matters=True)
    yield Mutation("deleted", f"rm {path}", matters=True)
    yield Mutation("mode changed", f"chmod u+x,o+w {path}", matters=True)
    yield Mutation("given away", f"chown nobody {path}", matters=True)
    yield Mutation("group changed", f"chgrp games {path}", matters=True)
    yield Mutation("last newline lost", f"[ -s {path} ] && truncate -s -1 {path} || exit {NOT_POSSIBLE}", matters=True)
    yield Mutation("touched", f"touch {path}")


def of_package(item: Item, manager: str) -> Iterator[Mutation]:
    name = shlex.quote(item.name)
    if item.wish.get("state") == "absent":
        return
    if manager == "apt":
        yield Mutation("removed", f"dpkg --force-all --remove {name}", matters=True)
        status = (
            f"sed -i '/^Package: {item.name}$/,/^$/s/^\\(Status: .* ok\\) installed$/\\1 STATE/' /var/lib/dpkg/status"
        )
        yield Mutation("left half configured", status.replace("STATE", "half-configured"), matters=True)
        yield Mutation("left unpacked", status.replace("STATE", "unpacked"), matters=True)
        if item.wish.get("version"):
            other = f"apt-cache madison {name} | awk '{{print $3}}' | grep -v -- {item.wish['version']} | head -1"
            install = f"apt-get install -qy --allow-downgrades --allow-change-held-packages {name}=$v"
            yield Mutation("other version", f'v=$({other}); [ -n "$v" ] && {install} || exit {NOT_POSSIBLE}')
    else:
        yield Mutation("removed", f"rpm -e --nodeps --noscripts {name}", matters=True)
        if item.wish.get("version"):
            dnf = "dnf -qy --disableplugin=versionlock"
            versions = f"{dnf} repoquery --showduplicates --qf '%{{evr}}' {name}"
            other = f"{versions} | grep -v -- {item.wish['version']} | head -1"
            install = f"{dnf} install {name}-$v || {dnf} downgrade {name}-$v"
            yield Mutation("other version", f'v=$({other}); [ -n "$v" ] && {{ {install}; }} || exit {NOT_POSSIBLE}')


def of_hold(item: Item, manager: str) -> Iterator[Mutation]:
    command = "apt-mark unhold" if manager == "apt" else "dnf -q versionlock delete"
    yield Mutation("lifted", f"{command} {shlex.quote(item.name)}", matters=True)


def of_service(item: Item, _manager: str) -> Iterator[Mutation]:
    unit = shlex.quote(item.name)
    if item.wish.get("state") == "started":
        yield Mutation("stopped", f"systemctl stop {unit}", matters=True)
        yield Mutation("killed and failed", f"systemctl kill --signal=KILL {unit}; sleep 1")
        yield Mutation("restarted", f"systemctl restart {unit}", matters=False)
    if item.wish.get("enabled"):
        yield Mutation("disabled", f"systemctl disable {unit}", matters=True)
        yield Mutation("masked", f"systemctl mask {unit} || exit {NOT_POSSIBLE}", matters=True)
    if item.wish.get("state") == "stopped":
        yield Mutation("started", f"systemctl start {unit} || exit {NOT_POSSIBLE}", matters=True)


def of_module(item: Item, _manager: str) -> Iterator[Mutation]:
    if item.wish.get("state", "loaded") == "loaded":
        yield Mutation("unloaded", f"rmmod {shlex.quote(item.name)} || exit {NOT_POSSIBLE}", matters=True)


def of_checkpoint(item: Item, _manager: str) -> Iterator[Mutation]:
    """As it is after somebody changed the policy by hand: the file still tells of the other one."""
    path = shlex.quote(item.name)
    if item.wish["key"] == "policyName":
        value = item.wish["value"]
        other = {"static": "none", "none": "static", "Static": "None", "None": "Static"}[value]
        swap = shlex.quote(f's/"policyName":"{value}"/"policyName":"{other}"/')
        swapped = f"grep -q {value} {path} && sed -i {swap} {path} || exit {NOT_POSSIBLE}"
        yield Mutation("policy of another configuration", swapped, matters=True)
    yield Mutation("deleted", f"rm {path} || exit {NOT_POSSIBLE}")


def of_node(labels: dict[str, str], taints: list[dict[str, str]]) -> Iterator[Mutation]:
    """What somebody with kubectl does to the Node object."""
    for label in labels:
        yield Mutation(f"label {label}: removed", kubectl=("label", "node", "HOST", f"{label}-"), matters=True)
        yield Mutation(
            f"label {label}: other value",
            kubectl=("label", "node", "HOST", f"{label}=by-hand", "--overwrite"),
            matters=True,
        )
    for taint in taints:
        name = f"{taint['key']}:{taint['effect']}"
        yield Mutation(f"taint {name}: removed", kubectl=("taint", "node", "HOST", f"{name}-"), matters=True)
        changed = f"{taint['key']}=by-hand:{taint['effect']}"
        yield Mutation(
            f"taint {name}: other value", kubectl=("taint", "node", "HOST", changed, "--overwrite"), matters=True
        )


HARMLESS = (
    Mutation(
        "somebody's own label", kubectl=("label", "node", "HOST", "example.com/shelf=b12", "--overwrite"), matters=False
    ),
    Mutation(
        "somebody's own annotation",
        kubectl=("annotate", "node", "HOST", "example.com/note=x", "--overwrite"),
        matters=False,
    ),
    Mutation(
        "somebody's own module options",
        "echo 'options dummy numdummies=0' > /etc/modprobe.d/by-hand.conf",
        matters=False,
    ),
    Mutation("somebody's own message of the day", "echo hello >> /etc/motd", matters=False),
    Mutation("a new file beside ours", "date > /etc/systemd/system/by-hand.txt", matters=False),
    Mutation("a user logs in", "true", matters=False),
    Mutation("logs are rotated", "journalctl --rotate", matters=False),
    Mutation("systemd reads its units again", "systemctl daemon-reload", matters=False),
)
