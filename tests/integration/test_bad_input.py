# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bad input on the lab: a host is refused before anything on it is changed, the message says all, the others go on.

One host, as delivered, is given each wrong wish in turn; the others are converged first, so every run shows both sides.
"""

from __future__ import annotations

import contextlib
import typing as t
from dataclasses import dataclass, field
from pathlib import Path

import observe
import pytest
import yaml

SITE = observe.ROOT / "playbooks" / "site.yml"
VICTIM = "gpu-a100-1"
LAST_ROLE = "gpu_node"  # the last one with tasks of each host
KEYS = observe.LAB / "repositories" / "keys"
# PCI device ids of the victim's GPUs, and of those that a test makes of them.
A100, V100, B200 = "0x20b5", "0x1db4", "0x2901"


@dataclass(frozen=True)
class Case:
    """A wrong wish for one host, and words that the refusal must have besides the host's name."""

    wishes: dict[str, t.Any]
    says: list[str]
    # Names of variables whose file and line the message must name.
    placed: list[str] = field(default_factory=list)
    circumstance: t.Callable[[], t.ContextManager[None]] = contextlib.nullcontext


def key(name: str) -> str:
    return f"{{{{ lookup('ansible.builtin.file', '{KEYS / name}.asc') }}}}"


def fingerprint(name: str) -> str:
    return str(yaml.safe_load((KEYS / "fingerprints.json").read_text())[name])


@contextlib.contextmanager
def pci_device(device: str) -> t.Iterator[None]:
    """All GPUs of the host have another PCI device id while this lasts."""
    files = sorted((observe.LAB / "hosts" / VICTIM / "silicon" / "pci" / "devices").glob("*/device"))
    before = {path: path.read_text() for path in files if path.read_text().strip() == A100}
    assert before, "the host has no A100 to disguise"
    for path in before:
        path.write_text(f"{device}\n")
    try:
        yield
    finally:
        for path, text in before.items():
            path.write_text(text)


@contextlib.contextmanager
def full_disk() -> t.Iterator[None]:
    """The host's /boot is a file system with hardly any space."""
    observe.on_host(VICTIM, "mount -t tmpfs -o size=64k tmpfs /boot && head -c 60000 /dev/zero > /boot/full")
    try:
        yield
    finally:
        observe.on_host(VICTIM, "umount /boot")


CASES = {
    "unknown variable": Case(
        {"gpu_driver_brnch": "595"},
        ["gpu_driver_brnch", "'595'", "did you mean gpu_driver_branch?"],
        ["gpu_driver_brnch"],
    ),
    "CPU manager policy in the wrong case": Case(
        {"gpu_kubelet_cpu_manager_policy": "Static"},
        ["'Static'", "Allowed: none, static"],
        ["gpu_kubelet_cpu_manager_policy"],
    ),
    "memory manager policy in the wrong case": Case(
        {"gpu_kubelet_memory_manager_policy": "static"},
        ["'static'", "Allowed: None, Static"],
        ["gpu_kubelet_memory_manager_policy"],
    ),
    "V100 with 595": Case(
        {"gpu_driver_branch": "595", "gpu_driver_version": "595.91.07"},
        ["595", "V100", "Allowed: 580"],
        ["gpu_driver_branch"],
        lambda: pci_device(V100),
    ),
    "Blackwell below 570": Case(
        {"gpu_driver_branch": "565", "gpu_driver_version": "565.57.01", "gpu_driver_allow_end_of_life": True},
        ["565", "B200", "Allowed: 580"],
        ["gpu_driver_branch"],
        lambda: pci_device(B200),
    ),
    "branch past its end of life": Case(
        {"gpu_driver_branch": "570", "gpu_driver_version": "570.172.08"},
        ["570", "2026-02", "580", "gpu_driver_allow_end_of_life"],
        ["gpu_driver_branch"],
    ),
    "fabric manager of another version": Case(
        {"gpu_driver_fabric_manager_version": "580.159.03"},
        ["580.159.03", "580.173.02"],
        ["gpu_driver_fabric_manager_version"],
    ),
    "reserved CPUs that leave none": Case(
        {"gpu_kubelet_reserved_cpus": "0-1"}, ["0-1", "gpu_kubelet_reserved_cpus"], ["gpu_kubelet_reserved_cpus"]
    ),
    "a key with another fingerprint": Case(
        {"gpu_kubelet_repository_key": key("cuda")},
        ["kubernetes", fingerprint("cuda") if KEYS.exists() else "", "gpu_kubelet_repository_key"],
        ["gpu_kubelet_repository_key"],
    ),
    "a repository signed by another key": Case(
        {
            "gpu_kubelet_repository_key": key("cuda"),
            "gpu_kubelet_repository_key_fingerprint": fingerprint("cuda") if KEYS.exists() else "",
        },
        ["kubernetes", "is not signed by the wanted key", "gpu_kubelet_repository"],
        ["gpu_kubelet_repository_key"],
    ),
    "a version that no repository has": Case(
        {"gpu_toolkit_version": "1.20.99"}, ["nvidia-container-toolkit 1.20.99", "1.20.1"]
    ),
    "a full disk": Case({}, ["/boot", "0 MiB", "200 MiB", "gpu_preflight_min_free"], circumstance=full_disk),
}


@pytest.fixture(scope="module")
def others(hosts: list[str], reset_hosts: t.Callable[..., None]) -> list[str]:
    """All hosts but the victim, converged; the victim as delivered."""
    reset_hosts(VICTIM)
    others = [host for host in hosts if host != VICTIM]
    observe.play(SITE, "--limit", ",".join(others)).require_success()
    return others


@pytest.fixture
def untouched() -> t.Iterator[None]:
    """Fails when the victim is not afterwards as it was before."""
    before = (observe.host_state(VICTIM), observe.files_fingerprint(VICTIM))
    yield
    after = (observe.host_state(VICTIM), observe.files_fingerprint(VICTIM))
    assert observe.differing(before[0], after[0]) == {}
    assert observe.differing(before[1], after[1]) == {}


def overlay(folder: Path, wishes: dict[str, t.Any]) -> Path:
    """An inventory that gives the victim some more variables."""
    path = folder / "wishes.yml"
    path.write_text(yaml.safe_dump({"all": {"hosts": {VICTIM: wishes}}}, width=10000, sort_keys=False))
    return path


def line_of(path: Path, name: str) -> int:
    return next(number for number, line in enumerate(path.read_text().splitlines(), 1) if line.strip().startswith(name))


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
@pytest.mark.usefixtures("untouched")
def test_a_wrong_wish_stops_its_host_alone(case: Case, others: list[str], tmp_path: Path) -> None:
    wishes = overlay(tmp_path, case.wishes)
    with case.circumstance():
        run = observe.play(SITE, "-i", str(wishes))
    assert run.exit_code != 0
    failures = run.failures()
    assert {failure.split(":")[0] for failure in failures} == {VICTIM}, "\n".join(failures)
    text = " ".join("\n".join(failures).split())
    places = [f"wishes.yml:{line_of(wishes, name)}" for name in case.placed]
    assert [word for word in [*case.says, *places] if word not in text] == [], text
    went_on = {event["host"] for event in run.results(("ok", "changed")) if str(event["role"]).endswith(LAST_ROLE)}
    assert went_on == set(others)


def with_cluster(folder: Path, change: t.Callable[[dict[str, t.Any]], None]) -> Path:
    """The lab's kubeconfig, changed."""
    content = yaml.safe_load(observe.KUBECONFIG.read_text())
    change(content)
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(content))
    return path


def nobody_listens(kubeconfig: dict[str, t.Any]) -> None:
    kubeconfig["clusters"][0]["cluster"]["server"] = "https://10.88.0.1:6444"


def unknown_token(kubeconfig: dict[str, t.Any]) -> None:
    kubeconfig["users"][0]["user"] = {"token": "abcdef.0123456789abcdef"}


def a_user_without_rights(kubeconfig: dict[str, t.Any]) -> None:
    token = observe.kubectl("create", "token", "default", "--namespace=default").strip()
    kubeconfig["users"][0]["user"] = {"token": token}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (nobody_listens, ["https://10.88.0.1:6444", "kubeconfig", "Connection refused"]),
        (unknown_token, ["401", "expired", "kubeconfig"]),
        (a_user_without_rights, ["patch nodes", "create secrets in kube-system", "gpu_cluster_kubeconfig"]),
    ],
    ids=["unreachable API server", "expired token", "missing rights"],
)
def test_a_cluster_that_cannot_be_used_stops_all_before_any_host_is_touched(
    change: t.Callable[[dict[str, t.Any]], None], says: list[str], hosts: list[str], tmp_path: Path
) -> None:
    kubeconfig = with_cluster(tmp_path, change)
    count = observe.SessionCount(hosts)
    run = observe.play(SITE, "-e", f"gpu_cluster_kubeconfig={kubeconfig}")
    sessions = count.finish()
    assert run.exit_code != 0
    text = " ".join("\n".join(run.failures()).split())
    assert [word for word in [*says, str(kubeconfig)] if word not in text] == [], text
    assert sessions == dict.fromkeys(hosts, 0)
