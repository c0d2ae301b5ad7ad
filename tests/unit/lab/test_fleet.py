# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from pathlib import Path
from typing import Any

import fleet
import pytest
import settings
import silicon
from progress import LabError

MODELS = ("H100-SXM", "L4")


def a_host(**changes: Any) -> dict[str, Any]:
    host = {"name": "gpu-1", "os": "debian12", "gpus": {"model": "L4", "count": 2}}
    return {key: value for key, value in {**host, **changes}.items() if value is not None}


def parse(*hosts: Any, **rest: Any) -> fleet.Fleet:
    return fleet.parse({"hosts": list(hosts), **rest}, MODELS)


def test_default_fleet_is_valid() -> None:
    default = fleet.read(settings.DEFAULT_FLEET, silicon.MODELS)
    assert [(host.name, host.gpus.count) for host in default.hosts] == [
        ("gpu-h100-1", 8),
        ("gpu-a100-1", 4),
        ("gpu-l4-1", 2),
    ]
    assert [host.name for host in default.hosts if host.os == "el9"] == ["gpu-l4-1"]


@pytest.mark.parametrize("file", sorted(settings.DEFAULT_FLEET.parent.glob("*.yml")), ids=lambda file: file.name)
def test_every_fleet_that_ships_is_valid(file: Path) -> None:
    assert fleet.read(file, silicon.MODELS)


def test_hosts_get_addresses_in_the_order_of_the_file() -> None:
    hosts = parse(a_host(name="a"), a_host(name="b")).hosts
    assert [(host.address, host.pod_network) for host in hosts] == [
        ("10.88.0.11", "10.89.11.0/24"),
        ("10.88.0.12", "10.89.12.0/24"),
    ]


def test_what_is_left_out_has_the_documented_value() -> None:
    host = parse(a_host()).hosts[0]
    assert (host.numa_nodes, host.nvswitches, host.secure_boot) == (1, 0, "disabled")
    assert host.kernel.nouveau == "loaded"
    assert parse(a_host()).kwok == fleet.Kwok(nodes=0, gpus=8)


def test_a_host_may_have_no_gpu() -> None:
    assert parse(a_host(gpus={"model": "L4", "count": 0})).hosts[0].gpus.count == 0


@pytest.mark.parametrize(
    ("host", "message"),
    [
        (a_host(os="centos7"), "host gpu-1: os is 'centos7'; allowed: debian12, ubuntu2404, el9"),
        (a_host(os=None), "host gpu-1: os is None; allowed: debian12, ubuntu2404, el9"),
        (
            a_host(gpus={"model": "H1000", "count": 8}),
            "host gpu-1: gpus.model is 'H1000'; allowed: H100-SXM, L4",
        ),
        (
            a_host(gpus={"model": "L4", "count": "2"}),
            "host gpu-1: gpus.count is '2'; it must be a whole number from 0 to 16",
        ),
        (
            a_host(gpus={"model": "L4", "count": True}),
            "host gpu-1: gpus.count is True; it must be a whole number from 0 to 16",
        ),
        (a_host(gpus=None), "host gpu-1: gpus is None; it must be a mapping"),
        (a_host(gpus={"model": "L4", "number": 2}), "host gpu-1: gpus: unknown key 'number'; allowed: model, count"),
        (a_host(numa_nodes=0), "host gpu-1: numa_nodes is 0; it must be a whole number from 1 to 8"),
        (a_host(secure_boot=True), "host gpu-1: secure_boot is True; allowed: enabled, disabled, unsupported"),
        (a_host(kernel={"nouveau": "gone"}), "host gpu-1: kernel.nouveau is 'gone'; allowed: loaded, absent"),
        (a_host(name="GPU_1"), "hosts[0]: name is 'GPU_1'; it must be 1 to 40 lower case letters, digits and dashes"),
        (a_host(cpus=4), "host gpu-1: unknown key 'cpus'; allowed: name, os, gpus, numa_nodes,"),
        ("gpu-1", "hosts[0] is 'gpu-1'; it must be a mapping"),
    ],
)
def test_a_wrong_host_is_refused_with_name_value_and_what_is_allowed(host: Any, message: str) -> None:
    with pytest.raises(LabError) as caught:
        parse(host)
    assert str(caught.value).startswith(message)


def test_names_must_be_unique() -> None:
    with pytest.raises(LabError, match="host gpu-1: the name is used 2 times"):
        parse(a_host(), a_host())


def test_more_hosts_than_addresses_are_refused() -> None:
    with pytest.raises(LabError, match="hosts has 201 entries; at most 200"):
        parse(*(a_host(name=f"gpu-{number}") for number in range(201)))


def test_kwok_nodes_are_bounded() -> None:
    with pytest.raises(LabError, match=r"kwok\.nodes is 100000; it must be a whole number from 0 to 5000"):
        parse(kwok={"nodes": 100_000})


def test_errors_name_the_file(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yml"
    wrong.write_text("hosts: [")
    with pytest.raises(LabError, match=f"the fleet file {wrong} is not YAML"):
        fleet.read(wrong, MODELS)
    wrong.write_text("racks: []")
    with pytest.raises(LabError, match=f"fleet file {wrong}: the file: unknown key 'racks'; allowed: hosts, kwok"):
        fleet.read(wrong, MODELS)
    with pytest.raises(LabError, match=r"cannot read the fleet file .*: No such file"):
        fleet.read(tmp_path / "none.yml", MODELS)


def test_a_host_that_does_not_exist_is_answered_with_those_that_do() -> None:
    with pytest.raises(LabError, match="no host 'x' in the fleet; there are: gpu-1"):
        parse(a_host()).host("x")
