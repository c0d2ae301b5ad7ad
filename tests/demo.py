# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`make demo`: a lab with bare hosts, the site playbook twice, GPU pods, and a table of what came of it."""

from __future__ import annotations

import subprocess
import sys
import time
import typing as t
from collections import Counter
from dataclasses import dataclass

import observe
from observe import Event, ObservationError, Run
from workloads import Team, refusal, teams, what_a_pod_sees

SITE = observe.ROOT / "playbooks" / "site.yml"
LAB = [sys.executable, str(observe.ROOT / "tests" / "lab")]
NEXT_COMMANDS = (
    ("make site", "a third run, which changes nothing either"),
    ("make lab-status", "what runs in the lab"),
    (".lab/bin/kubectl --kubeconfig .lab/kubeconfig get nodes", "the cluster, as its admin sees it"),
    ("ssh -F .lab/ssh/config gpu-h100-1", "a look inside a host"),
    (
        ".venv/bin/ansible-playbook playbooks/survey.yml",
        "what differs from the wishes, after you changed something there",
    ),
    ("make lab-down", "stop the lab and leave nothing behind"),
)


def main() -> int:
    started = time.monotonic()
    try:
        headline("1. A data centre on this machine: a real cluster and bare hosts with simulated GPUs")
        bare_lab()
        headline("2. From bare machines to GPUs in service: playbooks/site.yml")
        first = watched_site()
        headline("3. The same again, which has to change nothing")
        second, sessions = counted_site()
        headline("4. GPU pods: one on each host, and one that its team's quota refuses")
        outcome = run_pods()
        headline("What came of it")
        show_result(first, second, sessions, outcome)
    except (ObservationError, subprocess.CalledProcessError) as error:
        print(f"\ndemo: {error}", file=sys.stderr)
        return 1
    print(f"\nAll of it took {clock(time.monotonic() - started)}. The lab stays up. Try next:\n")
    width = max(len(command) for command, _ in NEXT_COMMANDS)
    for command, purpose in NEXT_COMMANDS:
        print(f"  {command:{width}}  {purpose}")
    return 0 if not second.changed_items() else 1


def headline(text: str) -> None:
    print(f"\n\033[1m{text}\033[0m\n" if sys.stdout.isatty() else f"\n{text}\n", flush=True)


def clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


# -- the steps --------------------------------------------------------------------------------------------------------


def bare_lab() -> None:
    """A lab that is up already gets its hosts as delivered again, so that the demo always starts from bare machines."""
    was_up = subprocess.run([*LAB, "status"], capture_output=True, check=False).returncode == 0
    subprocess.run([*LAB, "up"], check=True)
    if was_up:
        subprocess.run([*LAB, "reset"], check=True)


def watched_site() -> Run:
    progress = Progress()
    run = observe.play(SITE, each_event=progress.see).require_success()
    progress.finish()
    changes = sum(len(items) for items in run.changed_items().values())
    print(f"\n  {changes} changes on {len(run.tasks())} hosts in {clock(run.seconds)} (full output: {shown_path(run)})")
    return run


def counted_site() -> tuple[Run, dict[str, int]]:
    progress = Progress()
    count = observe.SessionCount(observe.hosts())
    run = observe.play(SITE, each_event=progress.see).require_success()
    sessions = count.finish()
    progress.finish()
    changes = sum(len(items) for items in run.changed_items().values())
    print(f"  {changes} changes in {run.seconds:.1f} s (full output: {shown_path(run)})")
    return run, sessions


def shown_path(run: Run) -> str:
    return str(run.log.relative_to(observe.ROOT))


class Progress:
    """A line for each task that changed something, and on a terminal the name of the one that runs."""

    def __init__(self) -> None:
        self.title = ""
        self.started = 0.0
        self.changed: Counter[str] = Counter()

    def see(self, event: Event) -> None:
        if event["event"] == "task":
            self.finish()
            self.title = f"{event['role'] or '':14} {event['task']}"
            self.started = event["seconds"]
            if sys.stdout.isatty():
                print(f"\r  {clock(self.started)}  {self.title[:90]:90}", end="", flush=True)
        elif event["event"] == "item" and event["status"] == "changed":
            self.changed[event["host"]] += 1
        elif event["event"] == "result" and event["status"] == "changed":
            self.changed[event["host"]] = max(self.changed[event["host"]], 1)

    def finish(self) -> None:
        if sys.stdout.isatty():
            print(f"\r{'':110}\r", end="")
        if self.changed:
            where = ", ".join(
                f"{host} ({count})" if count > 1 else host for host, count in sorted(self.changed.items())
            )
            print(f"  {clock(self.started)}  {self.title[:70]:70}  {where}", flush=True)
        self.changed = Counter()


@dataclass(frozen=True)
class Pods:
    """What each host's pod saw, and what was said to the one over quota."""

    seen: dict[str, dict[str, t.Any]]
    refused_team: Team
    refused_gpus: int
    refusal: str


def run_pods() -> Pods:
    generous, *_, strict = [*teams(), *teams()[-1:]]
    seen = {}
    for host in observe.hosts():
        seen[host] = what_a_pod_sees(f"demo-{host}", generous, 1, host)
        print(f"  {host}: team {generous.namespace} asked for 1 GPU and sees {described(seen[host])}", flush=True)
    answer = refusal("demo-over-quota", strict, strict.gpus + 1)
    print(f"  team {strict.namespace} asked for {strict.gpus + 1} GPUs: {answer}")
    return Pods(seen, strict, strict.gpus + 1, answer)


def described(report: dict[str, t.Any]) -> str:
    return ", ".join(f"{gpu['name']} {gpu['uuid'][:12]}" for gpu in report["gpus"]) or report["nvml"]


# -- the table --------------------------------------------------------------------------------------------------------


def show_result(first: Run, second: Run, sessions: dict[str, int], pods: Pods) -> None:
    nodes = {node["metadata"]["name"]: node for node in observe.cluster_objects("get", "nodes")["items"]}
    columns = {}
    for host in observe.hosts():
        facts = second.result_of("onprem.gpu.gpu_info", host)
        columns[host] = {
            **host_rows(facts),
            **node_rows(nodes[host], observe.kubelet_configuration(host)),
            "GPU pod": described(pods.seen[host]),
            "first run": f"{len(first.changed_items().get(host, []))} changes",
            "second run": f"{len(second.changed_items().get(host, []))} changes, {second.tasks()[host]} tasks",
            "SSH sessions": f"{sessions[host]} in the second run",
        }
    print_table(columns)
    print(f"\n  First run {first.seconds:.0f} s, second run {second.seconds:.1f} s for all hosts.")


def host_rows(facts: dict[str, t.Any]) -> dict[str, str]:
    driver, runtime = facts["driver"], facts["runtime"]
    models = Counter(gpu["model"] for gpu in facts["gpus"])
    fabric = [version for name, version in driver["packages"].items() if name.startswith("nvidia-fabric")]
    return {
        "system": facts["os"]["name"],
        "GPUs found": ", ".join(f"{count} x {model}" for model, count in models.items()),
        "driver": f"{driver['module_version']} {driver['flavour']}, {len(driver['held'])} packages held",
        "NVSwitch": f"{facts['nvswitch']['count']}, fabric manager {fabric[0]}" if fabric else "-",
        "runtime": f"containerd {runtime['containerd']['version']}, toolkit {facts['toolkit']['version']}",
    }


def node_rows(node: dict[str, t.Any], kubelet: dict[str, t.Any]) -> dict[str, str]:
    labels = node["metadata"]["labels"]
    ready = next(item["status"] for item in node["status"]["conditions"] if item["type"] == "Ready")
    taints = node["spec"].get("taints", [])
    return {
        "node": "Ready" if ready == "True" else "NOT READY",
        "kubelet": node["status"]["nodeInfo"]["kubeletVersion"],
        "CPU manager": kubelet["cpuManagerPolicy"],
        "memory manager": kubelet["memoryManagerPolicy"],
        "topology": f"{kubelet['topologyManagerPolicy']} ({kubelet['topologyManagerScope']})",
        "reserved": kubelet.get("reservedSystemCPUs") or "-",
        "taint": ", ".join(f"{taint['key']}={taint.get('value', '')}:{taint['effect']}" for taint in taints) or "-",
        "labels": f"{sum(name.startswith('nvidia.com/') for name in labels)} of nvidia.com",
        "product": labels.get("nvidia.com/gpu.product", "-"),
        "allocatable": f"{node['status']['allocatable'].get('nvidia.com/gpu', '0')} nvidia.com/gpu",
    }


def print_table(columns: dict[str, dict[str, str]]) -> None:
    """One column a host, one row a fact."""
    names = list(next(iter(columns.values())))
    first = max(len(name) for name in names)
    widths = {host: max(len(host), *(len(rows[name]) for name in names)) for host, rows in columns.items()}
    print(f"  {'':{first}}  " + "  ".join(f"{host:{widths[host]}}" for host in columns))
    print(f"  {'─' * first}  " + "  ".join("─" * widths[host] for host in columns))
    for name in names:
        print(f"  {name:{first}}  " + "  ".join(f"{rows[name]:{widths[host]}}" for host, rows in columns.items()))


if __name__ == "__main__":
    sys.exit(main())
