# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What systemd says of units, asked once for all of them."""

from __future__ import annotations

import typing as t

from ansible_collections.onprem.gpu.plugins.module_utils.host import Host, HostError, command_failure

Unit = dict[str, str]


def show_units(host: Host, names: t.Sequence[str], properties: t.Sequence[str]) -> dict[str, Unit]:
    """The asked properties by unit, under the name it was asked for; one that is not installed has LoadState not-found.

    Raises HostError when systemd does not answer: a host without systemd as its init, or a broken bus.
    """
    if not names:
        return {}
    result = host.run(("systemctl", "show", "--property=" + ",".join(properties), "--", *names))
    if result is None:
        raise HostError("systemctl is not installed, so the state of the services is unknown")
    blocks = parse_show(result.stdout)
    if result.rc != 0 or len(blocks) != len(names):
        raise HostError(f"systemctl does not show {', '.join(names)}: {command_failure(result)}")
    return dict(zip(names, blocks))


def parse_show(text: str) -> list[Unit]:
    """One dict a unit, in the order asked; units are separated by empty lines."""
    blocks = [block for block in text.split("\n\n") if block.strip()]
    return [dict(line.split("=", 1) for line in block.splitlines() if "=" in line) for block in blocks]
