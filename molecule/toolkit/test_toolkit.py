# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The container toolkit and the runtime as they work on the host."""

from __future__ import annotations

import re
import typing as t

Host = t.Any


def test_runtime_has_read_the_drop_in(host: Host) -> None:
    """What containerd works with, not what a file says. Newer ones cannot turn CDI off and do not speak of it."""
    running = host.run("containerd config dump").stdout
    assert "nvidia-container-runtime" in running
    assert "/var/run/cdi" in running
    assert not re.search(r"enable_cdi\s*=\s*false", running)


def test_runtime_runs_since_after_its_configuration(host: Host) -> None:
    assert host.service("containerd").is_running
    started = float(host.run("stat -c %Y /proc/$(systemctl show -P MainPID containerd)").stdout)
    assert started + 1 >= host.file("/etc/containerd/conf.d/99-nvidia.toml").mtime.timestamp()


def test_cdi_names_every_gpu(host: Host) -> None:
    nodes = [name for name in host.run("ls /dev").stdout.split() if re.fullmatch(r"nvidia\d+", name)]
    devices = host.run("nvidia-ctk cdi list").stdout
    assert "nvidia.com/gpu=all" in devices
    assert {f"nvidia.com/gpu={number}" for number in range(len(nodes))} <= set(devices.split())


def test_cdi_is_made_anew_at_boot(host: Host) -> None:
    assert host.service("nvidia-cdi-refresh.path").is_enabled
