# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's network: one bridge, a network namespace per host, a route per pod network, and masquerading to outside."""

from __future__ import annotations

import json
from pathlib import Path

import settings
from fleet import Host
from progress import Step

IP_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")

_MACHINE_RULES = f"""\
table ip {settings.NFT_TABLE}
delete table ip {settings.NFT_TABLE}
table ip {settings.NFT_TABLE} {{
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr {{ {settings.HOST_NETWORK}, {settings.POD_NETWORKS} }} oifname != "{settings.BRIDGE}" masquerade
    }}
}}
"""

# There is no kube-proxy: each host sends the kubernetes service's address straight to the API server.
_TO_API_SERVER = (
    f"ip daddr {settings.KUBERNETES_SERVICE_ADDRESS} tcp dport 443"
    f" dnat to {settings.BRIDGE_ADDRESS}:{settings.API_SERVER_PORT}"
)
_HOST_RULES = f"""\
table ip {settings.NFT_TABLE}
delete table ip {settings.NFT_TABLE}
table ip {settings.NFT_TABLE} {{
    chain prerouting {{
        type nat hook prerouting priority dstnat; policy accept;
        {_TO_API_SERVER}
    }}
    chain output {{
        type nat hook output priority -100; policy accept;
        {_TO_API_SERVER}
    }}
}}
"""


def namespace(host: Host) -> str:
    """Return the name of a host's network namespace."""
    return f"{settings.NAME_PREFIX}{host.name}"


def set_up_bridge(step: Step) -> None:
    """Make the bridge and let what is behind it reach the outside."""
    if not Path(f"/sys/class/net/{settings.BRIDGE}").exists():
        step.run(["ip", "link", "add", settings.BRIDGE, "type", "bridge"])
        step.run(["ip", "address", "add", f"{settings.BRIDGE_ADDRESS}/24", "dev", settings.BRIDGE])
    step.run(["ip", "link", "set", settings.BRIDGE, "up"])
    IP_FORWARD.write_text("1\n")
    step.run(["nft", "-f", "-"], stdin=_MACHINE_RULES)


def connect(host: Host, step: Step) -> None:
    """Make a host's network namespace with its eth0 on the bridge; nothing happens where it is there already."""
    name = namespace(host)
    cable = f"{settings.BRIDGE}-{host.number}"
    if not Path(f"/run/netns/{name}").exists():
        step.run(["ip", "netns", "add", name])
    if not Path(f"/sys/class/net/{cable}").exists():
        step.run(["ip", "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", name])
    step.run(["ip", "link", "set", cable, "master", settings.BRIDGE, "up"])
    inside = ["ip", "-n", name]
    step.run([*inside, "link", "set", "lo", "up"])
    step.run([*inside, "address", "replace", f"{host.address}/24", "dev", "eth0"])
    step.run([*inside, "link", "set", "eth0", "up"])
    step.run([*inside, "route", "replace", "default", "via", settings.BRIDGE_ADDRESS])
    step.run(["ip", "netns", "exec", name, "sh", "-c", f"echo 1 > {IP_FORWARD}"])
    step.run(["ip", "netns", "exec", name, "nft", "-f", "-"], stdin=_HOST_RULES)
    step.run(["ip", "route", "replace", host.pod_network, "via", host.address, "dev", settings.BRIDGE])


def cni_configuration(host: Host) -> str:
    """Return the host's pod network: a bridge of its own, addresses of its own, host ports."""
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": host.pod_network}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    ports = {"type": "portmap", "capabilities": {"portMappings": True}}
    return json.dumps({"cniVersion": "1.0.0", "name": "lab", "plugins": [bridge, ports]}, indent=2) + "\n"
