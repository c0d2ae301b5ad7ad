# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""See what a playbook run did: to the hosts, by their own account, and in Ansible's.

Shared by the demo, the tests on the lab and the speed measurements. Reads the lab through what a person would use: its
inventory, its SSH configuration and its kubeconfig.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import tempfile
import time
import typing as t
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LAB = ROOT / ".lab"
SSH_CONFIG = LAB / "ssh" / "config"
KUBECONFIG = LAB / "kubeconfig"
KUBECTL = LAB / "bin" / "kubectl"
INVENTORY = ROOT / "inventories" / "lab"
VENV_BIN = ROOT / ".venv" / "bin"
RUN_LOGS = ROOT / ".build" / "logs" / "runs"

Event = dict[str, t.Any]


class ObservationError(Exception):
    """The lab or a program did not answer; the message has what it said."""


# -- playbook runs ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """A finished playbook run. `seconds` is wall time, `cpu_seconds` the controller's processor time."""

    command: tuple[str, ...]
    exit_code: int
    seconds: float
    cpu_seconds: float
    log: Path
    events: list[Event] = field(repr=False)

    def changed_items(self) -> dict[str, list[str]]:
        """What changed on each host: 'role : task' or, in a loop, 'role : task : item'."""
        changed: dict[str, list[str]] = {}
        for event in self.results(("changed",)):
            changed.setdefault(event["host"], []).append(item_name(event))
        return changed

    def results(self, statuses: Sequence[str]) -> list[Event]:
        """Results with one of STATUSES; of a loop its items, not their sum."""
        looped = {(event["host"], event["task"]) for event in self.events if event["event"] == "item"}
        return [
            event
            for event in self.events
            if event["event"] in ("item", "result")
            and event["status"] in statuses
            and not (event["event"] == "result" and (event["host"], event["task"]) in looped)
        ]

    def failures(self) -> list[str]:
        failed = self.results(("failed", "unreachable"))
        return [f"{event['host']}: {item_name(event)}: {event['result'].get('msg', '')}" for event in failed]

    def tasks(self) -> Counter[str]:
        """Tasks that ran (were not skipped) on each host."""
        done = [event for event in self.events if event["event"] == "result" and event["status"] != "skipped"]
        return Counter(event["host"] for event in done)

    def result_of(self, action: str, host: str) -> dict[str, t.Any]:
        """The last result of ACTION (a module's full name) on HOST."""
        for event in reversed(self.events):
            if event["event"] == "result" and event["action"] == action and event["host"] == host:
                return t.cast("dict[str, t.Any]", event["result"])
        raise ObservationError(f"{action} did not run on {host}, see {self.log}")

    def require_success(self) -> Run:
        if self.exit_code != 0:
            raise ObservationError("\n".join([f"exit code {self.exit_code}, see {self.log}", *self.failures()]))
        return self


def item_name(event: Event) -> str:
    parts = [event["role"], event["task"], event["item"]]
    return " : ".join(part if isinstance(part, str) else json.dumps(part) for part in parts if part is not None)


def play(
    playbook: str | Path,
    *words: str,
    inventory: Path = INVENTORY,
    environment: dict[str, str] | None = None,
    each_event: Callable[[Event], None] | None = None,
) -> Run:
    """Run a playbook to its end. EACH_EVENT sees what happens while it happens."""
    with started_play(playbook, *words, inventory=inventory, environment=environment) as running:
        return running.finish(each_event)


class RunningPlay:
    """A playbook run under way. It opens its own connections to the hosts, so that counts of runs compare."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        RUN_LOGS.mkdir(parents=True, exist_ok=True)
        self.scratch = tempfile.TemporaryDirectory(prefix="onprem-gpu-")
        self.command = command
        self.log = RUN_LOGS / f"{time.strftime('%H%M%S')}-{Path(self.scratch.name).name[-8:]}.log"
        self.started = time.monotonic()
        self.events_path = Path(self.scratch.name) / "events"
        self.events_path.touch()
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, **self._own_settings(), **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __enter__(self) -> RunningPlay:
        return self

    def __exit__(self, *_error: object) -> None:
        if self.process.returncode is None:
            self.kill()
        self.scratch.cleanup()

    def finish(self, each_event: Callable[[Event], None] | None = None) -> Run:
        events: list[Event] = []
        with self.events_path.open(encoding="utf-8") as lines:
            ended = False
            while not ended:
                time.sleep(0.05)
                done, status, usage = os.wait4(self.process.pid, os.WNOHANG)
                ended = done != 0
                for event in complete_lines(lines):
                    events.append(event)
                    if each_event:
                        each_event(event)
        self.process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - self.started
        cpu_seconds = usage.ru_utime + usage.ru_stime
        return Run(tuple(self.command), self.process.returncode, seconds, cpu_seconds, self.log, events)

    def kill(self) -> None:
        """As a power cut of the controller would: every process of the run is gone at once."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _own_settings(self) -> dict[str, str]:
        return {
            "PATH": f"{VENV_BIN}{os.pathsep}{os.environ['PATH']}",
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".build" / "collections"),
            "ANSIBLE_CALLBACK_PLUGINS": str(ROOT / "tests" / "callbacks"),
            "ANSIBLE_CALLBACKS_ENABLED": "events",
            "ANSIBLE_SSH_CONTROL_PATH_DIR": f"{self.scratch.name}/ssh",
            "EVENTS_PATH": str(self.events_path),
        }


def started_play(
    playbook: str | Path, *words: str, inventory: Path = INVENTORY, environment: dict[str, str] | None = None
) -> RunningPlay:
    command = [str(VENV_BIN / "ansible-playbook"), "-i", str(inventory), str(playbook), *words]
    return RunningPlay(command, environment or {})


def complete_lines(lines: t.TextIO) -> Iterable[Event]:
    """Events written since the last call; a line that is still being written waits for the next one."""
    while True:
        position = lines.tell()
        line = lines.readline()
        if not line.endswith("\n"):
            lines.seek(position)
            return
        yield json.loads(line)


# -- hosts ------------------------------------------------------------------------------------------------------------


def hosts() -> list[str]:
    """The lab's hosts that are to become GPU nodes, by inventory name."""
    return sorted(inventory("--list")["gpu_nodes"]["hosts"])


def host_variables(host: str) -> dict[str, t.Any]:
    """The variables that the inventory gives a host; templates are not rendered."""
    return inventory("--host", host)


def inventory(*words: str) -> dict[str, t.Any]:
    command = [str(VENV_BIN / "ansible-inventory"), "-i", str(INVENTORY), *words]
    answer = json.loads(output_of(command, environment={"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}))
    return t.cast("dict[str, t.Any]", answer)


def on_host(host: str, command: str, text: str = "") -> str:
    """Standard output of a shell command that root runs on HOST, with TEXT as its standard input."""
    return output_of(["ssh", "-F", str(SSH_CONFIG), host, f"sudo sh -c {shlex.quote(command)}"], text)


def on_hosts(names: Iterable[str], function: Callable[[str], t.Any]) -> dict[str, t.Any]:
    """FUNCTION(host) for all hosts at the same time."""
    listed = list(names)
    with ThreadPoolExecutor(max(len(listed), 1)) as pool:
        return dict(zip(listed, pool.map(function, listed), strict=True))


class SessionCount:
    """Counts SSH sessions by the hosts' own sshd logs (LogLevel VERBOSE) from here to `finish`."""

    def __init__(self, names: Iterable[str]) -> None:
        self.cursors = on_hosts(names, self._cursor)

    def finish(self) -> dict[str, int]:
        return on_hosts(self.cursors, self._sessions)

    @staticmethod
    def _cursor(host: str) -> str:
        shown = on_host(host, "journalctl --sync; journalctl -n 0 --show-cursor")
        return shown.split("-- cursor: ", 1)[1].strip()

    def _sessions(self, host: str) -> int:
        """Sessions since the cursor, less the one that asks."""
        cursor = shlex.quote(self.cursors[host])
        journal = on_host(host, f"journalctl --sync; journalctl -o cat --after-cursor={cursor} _COMM=sshd")
        return sum(line.startswith("Starting session:") for line in journal.splitlines()) - 1


# What a run that changes nothing must not touch. Times are part of it, so that even rewriting the same content shows.
TOUCHABLE = (
    "/etc /usr /var/lib/kubelet/config.yaml /var/lib/kubelet/kubeadm-flags.env /var/lib/kubelet/instance-config.yaml"
)


def files_fingerprint(host: str) -> dict[str, str]:
    """Path -> mode, owner, size, modification and change time of every file under TOUCHABLE."""
    listing = on_host(host, f"find {TOUCHABLE} -printf '%p\\t%m %u:%g %s %T@ %C@ %l\\n' 2>/dev/null || true")
    return dict(line.split("\t", 1) for line in listing.splitlines() if "\t" in line)


def host_state(host: str, *more_files: str) -> dict[str, str]:
    """What the host is, by tests/host_state.py: 'file /etc/x', 'package x', 'service x' and so on -> value."""
    script = (ROOT / "tests" / "host_state.py").read_text()
    return t.cast("dict[str, str]", json.loads(on_host(host, shlex.join(["python3", "-", *more_files]), script)))


def differing(before: dict[str, str], after: dict[str, str]) -> dict[str, tuple[str | None, str | None]]:
    """Keys whose values differ, with both values."""
    names = sorted(before.keys() | after.keys())
    return {name: (before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)}


# -- the cluster ------------------------------------------------------------------------------------------------------


def kubectl(*words: str, text: str = "") -> str:
    return output_of([str(KUBECTL), f"--kubeconfig={KUBECONFIG}", *words], text)


def cluster_objects(*words: str) -> t.Any:
    return json.loads(kubectl(*words, "-o", "json"))


def kubelet_configuration(node: str) -> dict[str, t.Any]:
    """What the running kubelet of NODE says it works with."""
    answer = json.loads(kubectl("get", "--raw", f"/api/v1/nodes/{node}/proxy/configz"))
    return t.cast("dict[str, t.Any]", answer["kubeletconfig"])


# What runs write to the API server. Pods, leases, events and endpoints move by themselves.
WRITTEN_KINDS = (
    "nodes namespaces resourcequotas limitranges networkpolicies roles rolebindings clusterroles clusterrolebindings "
    "priorityclasses daemonsets deployments configmaps secrets serviceaccounts"
)


def cluster_state() -> dict[str, str]:
    """'Kind namespace/name' -> what was written of every object of those kinds, as JSON.

    Left out: what the API server and controllers add, Helm's own records and tokens, which carry times and randomness.
    """
    return {
        name: json.dumps(written(item), sort_keys=True) for name, item in written_objects().items() if is_wish(item)
    }


def written_objects() -> dict[str, dict[str, t.Any]]:
    objects = cluster_objects("get", "--all-namespaces", WRITTEN_KINDS.replace(" ", ","))["items"]
    return {
        f"{item['kind']} {item['metadata'].get('namespace', '')}/{item['metadata']['name']}": item for item in objects
    }


def is_wish(item: dict[str, t.Any]) -> bool:
    return item.get("type") not in ("helm.sh/release.v1", "bootstrap.kubernetes.io/token")


def written(item: dict[str, t.Any]) -> dict[str, t.Any]:
    metadata = item["metadata"]
    labels = {name: value for name, value in metadata.get("labels", {}).items() if not name.endswith("timestamp")}
    if item["kind"] == "Node":
        spec = {name: item["spec"].get(name) for name in ("taints", "unschedulable")}
        return {"labels": labels, "spec": spec, "gpus": item["status"]["allocatable"].get("nvidia.com/gpu")}
    parts = {name: value for name, value in item.items() if name not in ("metadata", "status")}
    if (metadata.get("namespace"), metadata["name"]) == ("kube-public", "cluster-info"):
        # Signed for each bootstrap token; a token that a killed run left ends by itself, and its signature with it.
        parts["data"] = {name: value for name, value in parts["data"].items() if not name.startswith("jws-")}
    return {"labels": labels, "annotations": metadata.get("annotations"), **parts}


def generations() -> dict[str, int]:
    """'Kind namespace/name' -> how often its spec was written, of the objects that count that."""
    metadata = {name: item["metadata"] for name, item in written_objects().items()}
    return {name: content["generation"] for name, content in metadata.items() if "generation" in content}


def output_of(command: list[str], text: str = "", environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        command, input=text, capture_output=True, text=True, check=False, env={**os.environ, **(environment or {})}
    )
    if done.returncode != 0:
        raise ObservationError(f"{' '.join(command)}: exit code {done.returncode}: {done.stderr.strip()[-2000:]}")
    return done.stdout
