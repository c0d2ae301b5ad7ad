# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The kubelet on a host: who installed it, whether it joined a cluster, and how it was started.

The command line of a running kubelet is what counts; without one, the files its unit takes its flags from.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import shlex
import typing as t

from ansible_collections.onprem.gpu.plugins.module_utils.host import Host
from ansible_collections.onprem.gpu.plugins.module_utils.installed_packages import Package
from ansible_collections.onprem.gpu.plugins.module_utils.runtime_facts import (
    Units,
    is_active,
    package_version,
    program_version,
)

KUBELET_UNIT = "kubelet.service"
DEFAULT_ROOT = "/var/lib/kubelet"

# Files a kubelet's unit reads flags from: kubeadm's, the administrator's (Debian, EL), kubespray's.
FLAG_FILES = (
    "/var/lib/kubelet/kubeadm-flags.env",
    "/etc/default/kubelet",
    "/etc/sysconfig/kubelet",
    "/etc/kubernetes/kubelet.env",
)


class Distribution(t.NamedTuple):
    """How a kubelet came to the host: units that run it, files that give it away, its credentials once joined."""

    name: str
    units: tuple[str, ...]
    signs: tuple[str, ...]
    kubeconfig: str
    certificate: str


DISTRIBUTIONS = (
    Distribution(
        "rke2",
        ("rke2-server.service", "rke2-agent.service"),
        ("/etc/rancher/rke2/config.yaml", "/var/lib/rancher/rke2/agent"),
        "/var/lib/rancher/rke2/agent/kubelet.kubeconfig",
        "/var/lib/rancher/rke2/agent/client-kubelet.crt",
    ),
    Distribution(
        "k3s",
        ("k3s.service", "k3s-agent.service"),
        ("/etc/rancher/k3s/config.yaml", "/var/lib/rancher/k3s/agent"),
        "/var/lib/rancher/k3s/agent/kubelet.kubeconfig",
        "/var/lib/rancher/k3s/agent/client-kubelet.crt",
    ),
    Distribution(
        "kubespray",
        (KUBELET_UNIT,),
        ("/etc/kubernetes/kubelet.env", "/etc/kubernetes/kubelet-config.yaml"),
        "/etc/kubernetes/kubelet.conf",
        "/var/lib/kubelet/pki/kubelet-client-current.pem",
    ),
    Distribution(
        "kubeadm",
        (KUBELET_UNIT,),
        (
            "/var/lib/kubelet/kubeadm-flags.env",
            "/etc/kubernetes/kubelet.conf",
            "/etc/kubernetes/bootstrap-kubelet.conf",
        ),
        "/etc/kubernetes/kubelet.conf",
        "/var/lib/kubelet/pki/kubelet-client-current.pem",
    ),
)
NONE = Distribution(
    "none", (KUBELET_UNIT,), (), "/etc/kubernetes/kubelet.conf", "/var/lib/kubelet/pki/kubelet-client-current.pem"
)
UNITS = (KUBELET_UNIT, "k3s.service", "k3s-agent.service", "rke2-server.service", "rke2-agent.service")

NODE_NAME_MARK = b"system:node:"
# In the kubelet's configuration, a YAML file; the flag of the same meaning counts before it.
ENDPOINT_LINE = re.compile(r"^containerRuntimeEndpoint:\s*[\"']?([^\s\"']+)", re.MULTILINE)
FLAG = re.compile(r"--([a-z0-9-]+)(?:=(.*))?", re.DOTALL)


def read_kubelet(host: Host, packages: t.Sequence[Package], units: Units) -> dict[str, t.Any]:
    """The kubelet's version, membership and settings; see the module's documentation for every key."""
    distribution = _distribution(host)
    flags = read_flags(host, units)
    root = flags.get("root-dir") or DEFAULT_ROOT
    config_file, config_dir = flags.get("config"), flags.get("config-dir")
    return {
        "version": _version(host, packages, distribution),
        "active": any(is_active(units, unit) for unit in distribution.units),
        "distribution": distribution.name,
        "joined": host.exists(distribution.kubeconfig),
        "node_name": flags.get("hostname-override") or _name_in_certificate(host, distribution.certificate),
        "root_dir": root,
        "config_file": config_file,
        "config_dir": config_dir,
        "drop_ins": _drop_ins(host, config_dir),
        "cri_endpoint": flags.get("container-runtime-endpoint") or _configured_endpoint(host, config_file),
        "cpu_manager_state": _policy(host, f"{root}/cpu_manager_state"),
        "memory_manager_state": _policy(host, f"{root}/memory_manager_state"),
    }


def read_flags(host: Host, units: Units) -> dict[str, str]:
    """The kubelet's command line flags, of the running process or, without one, of the files its unit reads."""
    pid = units.get(KUBELET_UNIT, {}).get("MainPID", "0")
    running = host.read_bytes(f"/proc/{pid}/cmdline") if pid.isdigit() and int(pid) > 0 else None
    if running:
        return parse_flags(running.decode("utf-8", "replace").split("\0"))
    texts = [host.read_text(path) or "" for path in FLAG_FILES]
    return parse_flags([word for text in texts for word in environment_words(text)])


def parse_flags(words: t.Sequence[str]) -> dict[str, str]:
    """`--name=value` and `--name value` as {name: value}; the last one counts, as for the kubelet."""
    flags: dict[str, str] = {}
    for word, following in zip(words, [*words[1:], ""]):
        found = FLAG.fullmatch(word)
        if found:
            name, value = found.groups()
            flags[name] = value if value is not None else ("" if following.startswith("--") else following)
    return flags


def environment_words(text: str) -> list[str]:
    """The words in the values of an environment file: KUBELET_EXTRA_ARGS="--a=b --c=d" gives the two flags."""
    values = [line.split("=", 1)[1] for line in text.splitlines() if re.match(r"\s*[A-Za-z_]+=", line)]
    return [word for value in values for quoted in _shell_words(value) for word in _shell_words(quoted)]


def _shell_words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()


def node_name_in_certificate(pem: bytes) -> str | None:
    """The node in a kubelet's client certificate, whose subject is system:node:NAME; None when there is none.

    A DER string is its length in one byte (names are shorter than 128) and then its text.
    """
    for block in re.findall(rb"-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", pem, re.DOTALL):
        try:
            der = base64.b64decode(block)
        except binascii.Error:
            continue
        at = der.find(NODE_NAME_MARK)
        if at > 0:
            return der[at : at + der[at - 1]][len(NODE_NAME_MARK) :].decode("ascii", "replace")
    return None


def _distribution(host: Host) -> Distribution:
    return next((one for one in DISTRIBUTIONS if any(host.exists(sign) for sign in one.signs)), NONE)


def _version(host: Host, packages: t.Sequence[Package], distribution: Distribution) -> str | None:
    if distribution.name in ("k3s", "rke2"):
        return program_version(host, distribution.name)
    return package_version(packages, ("kubelet",)) or program_version(host, "kubelet")


def _name_in_certificate(host: Host, path: str) -> str | None:
    pem = host.read_bytes(path)
    return node_name_in_certificate(pem) if pem else None


def _drop_ins(host: Host, config_dir: str | None) -> list[str]:
    """The configuration files the kubelet reads from its --config-dir, in its order."""
    if not config_dir:
        return []
    return [f"{config_dir.rstrip('/')}/{name}" for name in host.names(config_dir) if name.endswith(".conf")]


def _configured_endpoint(host: Host, config_file: str | None) -> str | None:
    line = ENDPOINT_LINE.search(host.read_text(config_file) or "") if config_file else None
    return line.group(1) if line else None


def _policy(host: Host, path: str) -> str | None:
    """The policy a resource manager's state file was made with; None without one."""
    text = host.read_text(path)
    if text is None:
        return None
    try:
        return str(json.loads(text)["policyName"])
    except (ValueError, KeyError, TypeError):
        host.note_error(path, "this is no state file of the kubelet")
        return None
