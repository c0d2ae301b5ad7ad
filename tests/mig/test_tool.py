# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""gpu-mig on a node: layouts come back after a boot, and where they cannot, everybody can see why."""

from __future__ import annotations

import configparser
import fcntl
import itertools
import json
import os
import random
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import silicon
import silicon_mig
from mig_module import ROOT, Server
from mig_tool import INTERPRETER, ToolMachine, install

H100, A40, T4 = "H100-SXM", "A100-SXM-40GB", "T4"
MODELS = (H100, A40, "A30", T4, "RTX-PRO-6000", "H100-SXM", "A100-SXM", "B200")
TWO_HALVES = [{"devices": "all", "mig-enabled": True, "mig-devices": {"3g.40gb": 2}}]
KUBELETS = {"kubelet.service", "k3s.service", "k3s-agent.service", "rke2-server.service", "rke2-agent.service"}

Make = Callable[..., ToolMachine]


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(tmp_path_factory.mktemp("node"))


@pytest.fixture
def node(program: Path, server: Server, tmp_path: Path) -> Make:
    numbers = itertools.count()
    return lambda *models: ToolMachine(program, server, tmp_path / str(next(numbers)), models)


# --- after a boot ---


def test_a_boot_takes_layouts_away_and_apply_brings_them_back(node: Make) -> None:
    host = node(H100, A40)
    host.save(
        layout=[
            {"devices": [0], "mig-enabled": True, "mig-devices": {"3g.40gb": 1, "1g.10gb": 3}},
            {"devices": [1], "mig-enabled": True, "mig-devices": {"4g.20gb": 1, "1c.2g.10gb": 2}},
        ]
    )
    assert host.tool("apply").status == 0
    made = (host.present(0), host.present(1))
    assert host.shapes(0) == ["1g.10gb", "1g.10gb", "1g.10gb", "3g.40gb"]
    assert host.shapes(1) == ["2g.10gb+", "4g.20gb"]

    host.reboot()
    assert (host.mode(0), host.mode(1), host.present(0), host.present(1)) == ((0, 0), (1, 1), [], [])
    ended = host.tool("apply")
    assert (ended.status, ended.err, host.mode(0)) == (0, "", (1, 1))
    assert (host.present(0), host.present(1)) == made
    assert "GPU 0: enable MIG mode" in ended.lines
    assert any(line.startswith("GPU 0 NVIDIA H100") and "3g.40gb" in line for line in ended.lines)
    assert host.last() == {
        "state": "applied",
        "reason": "",
        "message": "",
        "selected": "layout",
        "changed": True,
        "reset_required": False,
        "reboot_required": False,
    }
    assert host.state_file.stat().st_mode & 0o777 == 0o644
    assert host.state_file.parent.stat().st_mode & 0o777 == 0o755
    assert [file.name for file in host.state_file.parent.iterdir()] == ["mig.json"]


def test_what_is_as_wanted_is_not_touched(node: Make) -> None:
    host = node(H100, A40)
    host.save(selected="all-balanced")
    host.tool("apply")
    host.forget_calls()
    ended = host.tool("apply")
    assert (ended.status, host.calls()) == (0, [])
    assert ended.lines[0] == "Nothing is to be done: all GPUs are as wanted."
    assert (host.last() or {})["changed"] is False


def test_a_plan_is_what_apply_does_and_changes_nothing(node: Make) -> None:
    host = node(H100, T4)
    host.prepare("1g.10gb@1")
    host.save(config={"version": "v1", "mig-configs": {"halves": TWO_HALVES}}, selected="halves")
    before = host.state()
    planned = host.tool("plan")
    assert (planned.status, host.calls(), host.state(), host.last()) == (0, [], before, None)
    applied = host.tool("apply")
    assert planned.out == applied.out
    assert host.present() == ["3g.40gb@0", "3g.40gb@4"]
    assert any("Tesla T4" in line and "left alone" in line for line in planned.lines)


def test_a_layout_that_gpus_cannot_have_is_refused_with_its_reason(node: Make) -> None:
    host = node(H100)
    host.save(layout=[{"devices": "all", "mig-enabled": True, "mig-devices": {"4g.40gb": 2}}])
    assert host.tool("plan").status == 1
    ended = host.tool("apply")
    assert (ended.status, host.calls()) == (1, [])
    last = host.last() or {}
    assert (last["state"], last["reason"], last["changed"]) == ("failed", "invalid", False)
    assert ended.err == f"gpu-mig: {last['message']}\n"
    assert "4g.40gb" in last["message"]


def test_what_is_in_use_stays_and_is_named(node: Make) -> None:
    host = node(H100)
    host.prepare("1g.10gb@1")
    host.mark_busy("gpu.0.gi.8.ci.0", os.getpid())
    host.save(layout=TWO_HALVES)
    for command in ("plan", "apply"):
        ended = host.tool(command)
        assert (ended.status, host.calls()) == (1, [])
        assert f"process {os.getpid()}" in ended.err
        assert "1g.10gb*" in ended.out
    assert (host.last() or {})["reason"] == "in_use"


def test_a_layout_that_waits_for_a_reboot_says_so(node: Make) -> None:
    host = node(A40)
    host.mark_busy("gpu.0")
    host.save(selected="all-enabled")
    assert host.tool("apply").status == 1
    last = host.last() or {}
    assert (last["reason"], last["reset_required"], last["reboot_required"]) == ("reset_required", True, False)


# --- the driver ---


def test_a_driver_that_never_comes_is_waited_for_and_named(node: Make) -> None:
    host = node(H100)
    host.save(selected="all-balanced")
    host.unload_driver()
    started = time.monotonic()
    ended = host.tool("apply", "--wait-seconds", "2")
    assert time.monotonic() - started >= 2
    assert ended.status == 1
    assert "Load the NVIDIA driver" in ended.err
    last = host.last() or {}
    assert (last["state"], last["reason"], f"gpu-mig: {last['message']}\n") == ("failed", "driver", ended.err)


def test_a_driver_that_comes_late_is_enough(node: Make) -> None:
    host = node(H100)
    host.save(selected="all-balanced")
    host.unload_driver()
    started = host.start("apply", "--wait-seconds", "60")
    time.sleep(0.5)
    host.load_driver()
    _out, err = started.communicate()
    assert (started.returncode, err) == (0, "")
    assert host.present()


def test_nothing_but_a_missing_driver_is_waited_for(node: Make) -> None:
    host = node(H100)
    host.save(selected="all-balanced")
    with host.edit() as state:
        state["module.nvidia"] = "570.10.01 open"
    started = time.monotonic()
    ended = host.tool("apply", "--wait-seconds", "60")
    assert (ended.status, time.monotonic() - started < 30) == (1, True)
    assert "load it again or reboot" in ended.err


def test_a_library_that_is_not_there_is_named(node: Make, tmp_path: Path) -> None:
    host = node(H100)
    host.save(selected="all-balanced")
    (tmp_path / "libnvidia-ml.so.1").write_text("no library")
    ended = host.tool("apply", "--wait-seconds", "1", LD_LIBRARY_PATH=str(tmp_path))
    assert ended.status == 1
    assert "Install the NVIDIA driver" in ended.err


def test_others_look_while_a_boot_waits(node: Make) -> None:
    host = node(H100)
    host.save(selected="all-balanced")
    host.tool("apply")
    assert host.last()
    host.unload_driver()
    waiting = host.start("apply", "--wait-seconds", "60")
    try:
        deadline = time.monotonic() + 30
        while host.last() and time.monotonic() < deadline:  # what an earlier run left is no answer for this one
            time.sleep(0.01)
        shown = host.tool("show", "--lock-timeout-seconds", "0")
        assert shown.status == 1
        assert "Load the NVIDIA driver" in shown.err
        assert "wanted: all-balanced" in shown.out
        assert "last apply: none has ended since this node booted" in shown.out
    finally:
        waiting.kill()
        waiting.communicate()
    assert host.last() is None


# --- files that cannot be used ---

BAD: dict[str, tuple[str | None, tuple[str, ...]]] = {
    "not there": (None, ("is not there",)),
    "empty": ("\n", ("is empty",)),
    "broken": ('{"selected": "all-balanced"', ("is not JSON", "line 1 column 28")),
    "a list": ('["all-balanced"]', ("all-balanced", "not a mapping")),
    "an unknown key": ('{"selected": "all-balanced", "layuot": []}', ("layuot", "config, selected, layout, reset")),
    "nothing wanted": ('{"reset": true}', ("one of selected and layout",)),
    "null wanted": ('{"config": null, "selected": null}', ("one of selected and layout",)),
    "both": ('{"selected": "all-balanced", "layout": []}', ("beside selected", "one of selected and layout")),
    "a configuration for a layout": ('{"config": {}, "layout": []}', ("beside layout",)),
    "a name that is a truth value": ('{"selected": false}', ("selected: false", "as text")),
    "no name": ('{"selected": ""}', ("selected: ''", "the name of a layout")),
    "a layout by name": ('{"layout": "all-balanced"}', ("layout: 'all-balanced'", "a list")),
    "a configuration as text": ('{"config": "v1", "selected": "a"}', ("config: 'v1'", "a mapping")),
    "reset as text": ('{"selected": "all-balanced", "reset": "false"}', ("reset: 'false'", "true or false")),
    "a key twice": ('{"selected": "all-balanced", "selected": "all-disabled"}', ("'selected'", "more than once")),
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_cannot_be_used(node: Make, name: str) -> None:
    content, words = BAD[name]
    host = node(H100)
    if content is not None:
        host.saved.write_text(content)
    before = host.state()
    for command in ("plan", "apply"):
        ended = host.tool(command)
        assert (ended.status, ended.out) == (2, "")
        for word in (str(host.saved), "gpu_mig_layout", "gpu_mig_config", *words):
            assert word in ended.err
    assert (host.calls(), host.state()) == ([], before)
    last = host.last() or {}
    assert (last["state"], last["reason"], last["selected"]) == ("failed", "invalid", None)
    assert f"gpu-mig: {last['message']}\n" == ended.err


def test_a_file_that_cannot_be_read(node: Make) -> None:
    host = node(H100)
    host.saved.mkdir()
    ended = host.tool("apply")
    assert (ended.status, (host.last() or {})["state"]) == (2, "failed")
    assert "cannot be read: Is a directory" in ended.err


def test_what_only_the_gpus_can_judge_is_told_by_the_engine(node: Make) -> None:
    host = node(H100)
    host.save(config={"version": "v2", "mig-configs": {}}, selected="wanted")
    ended = host.tool("apply")
    assert (ended.status, host.calls()) == (1, [])
    assert "version: 'v2' is not a version of this language" in ended.err


# --- the other way ---


def put_at_random(host: ToolMachine, gpu: int, model: str, choose: random.Random) -> None:
    """Make instances wherever dice say; what the GPU refuses is left out."""
    profiles = silicon_mig.PROFILES[silicon.MODELS[model].mig]
    places = [f"{profile.name}@{start}" for profile in profiles for start in profile.starts]
    host.ask(
        f"g = h({gpu})\n"
        "n.nvmlDeviceSetMigMode(g, 1)\n"
        f"for p in {choose.sample(places, choose.randint(0, 6))!r}:\n"
        "    try: default_ci(create(g, p), profile(g, p.partition('@')[0]).sliceCount)\n"
        "    except n.NVMLError as e: assert e.value == 23\n"
        "0"
    )


@pytest.mark.parametrize("seed", range(4))
def test_an_export_makes_the_same_instances_again(node: Make, seed: int) -> None:
    choose = random.Random(seed)
    host = node(*MODELS)
    for index, model in enumerate(MODELS):
        if model != T4 and choose.random() < 0.9:
            put_at_random(host, index, model, choose)
    before = [(host.mode(index), host.shapes(index)) for index in range(len(MODELS))]
    exported = host.tool("export", "--name", "as-found")
    assert exported.status == 0
    assert "not MIG capable" in exported.err

    host.reboot()
    host.save(config=json.loads(exported.out), selected="as-found")
    applied = host.tool("apply")
    assert (applied.status, applied.err) == (0, "")
    assert [(host.mode(index), host.shapes(index)) for index in range(len(MODELS))] == before
    assert any(shapes for _mode, shapes in before)


# --- what people see ---


def test_show_draws_slices_and_names_who_uses_them(node: Make) -> None:
    host = node(H100, T4)
    host.prepare("3g.40gb@4", "1g.10gb@0")
    host.mark_busy("gpu.0.gi.7.ci.0", os.getpid())
    command = Path(f"/proc/{os.getpid()}/comm").read_text().strip()
    shown = host.tool("show")
    assert (shown.status, shown.err, host.calls()) == (0, "", [])
    bar, user, other, wanted, last = shown.lines
    assert bar.startswith("GPU 0 NVIDIA H100")
    assert bar.index("1g.10gb*") < bar.index("3g.40gb")
    assert user == f"    1g.10gb at slice 0: process {os.getpid()} ({command})"
    assert "not MIG capable" in other
    assert wanted == f"wanted: nothing, because there is no {host.saved}"
    assert last == "last apply: none has ended since this node booted"


def test_show_tells_how_the_last_apply_ended(node: Make) -> None:
    host = node(H100)
    host.save(selected="all-balanced")
    host.tool("apply")
    wanted, last = host.tool("show").lines[-2:]
    assert wanted == f"wanted: all-balanced ({host.saved})"
    assert last.startswith("last apply: applied all-balanced at 20")
    host.tool("apply")
    assert host.tool("show").lines[-1].endswith(", nothing was to be done")
    host.save(selected="all-9g.90gb")
    host.tool("apply")
    last = host.tool("show").lines[-1]
    assert last.startswith("last apply: failed (invalid) at 20")
    assert "all-9g.90gb" in last


def test_show_shows_what_it_can_beside_a_bad_file(node: Make) -> None:
    host = node(H100)
    host.saved.write_text("{")
    shown = host.tool("show")
    assert shown.status == 1
    assert shown.lines[0].startswith("GPU 0 ")
    assert f"wanted: unknown, because {host.saved} cannot be used" in shown.lines
    assert "is not JSON" in shown.err


def test_show_as_data_has_what_the_module_has(node: Make) -> None:
    host = node(H100)
    host.prepare("3g.40gb@4", "1g.10gb@0")
    host.mark_busy("gpu.0.gi.7.ci.0", os.getpid())
    host.save(selected="all-balanced")
    shown = json.loads(host.tool("show", "--json").out)
    [gpu] = shown.pop("gpus")
    assert shown == {"selected": "all-balanced", "last_apply": None}
    assert gpu.pop("users") == []
    users = [instance.pop("users") for instance in gpu["instances"]]
    assert [gpu] == host.run(True, selected="all-balanced")["before"]
    assert [len(each) for each in users] == [1, 0]
    host.tool("apply")
    assert json.loads(host.tool("show", "--json").out)["last_apply"] == host.last()


# --- who may run it, and how ---


@pytest.mark.parametrize("command", ["apply", "plan", "show", "export"])
def test_who_is_not_root_is_refused(program: Path, command: str) -> None:
    script = program.read_text().replace("sys.exit(main", "import os; os.seteuid(65534)\nsys.exit(main")
    done = subprocess.run(
        [INTERPRETER, "-BIS", "-c", script, command], capture_output=True, text=True, check=False, env={}
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("gpu-mig: Only root can see and change MIG instances.")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["repair"], "invalid choice: 'repair'"),
        (["apply", "--wait-seconds", "-1"], "--wait-seconds"),
        (["apply", "--wait-seconds", "soon"], "'soon' is no number of seconds; allowed: 0, 1, 2, ..."),
        (["plan", "--wait", "1"], "unrecognized arguments"),
    ],
)
def test_wrong_usage_says_what_is_allowed(program: Path, words: list[str], told: str) -> None:
    done = subprocess.run([program, *words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr


def test_only_one_run_at_a_time(node: Make) -> None:
    host = node(H100)
    host.save(selected="all-balanced")
    with open("/run/onprem-gpu-mig.lock", "a", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ended = host.tool("apply", "--lock-timeout-seconds", "0")
    assert (ended.status, host.calls(), (host.last() or {})["reason"]) == (1, [], "locked")


def test_nothing_installed_on_a_node_takes_the_place_of_its_files(node: Make, program: Path, tmp_path: Path) -> None:
    rivals = tmp_path / "rivals"
    for name in ("ansible_collections", "pynvml", "argparse"):
        (rivals / name).mkdir(parents=True)
        (rivals / name / "__init__.py").write_text("raise SystemExit('a rival was imported')")
    host = node(H100)
    host.save(selected="all-balanced")
    assert host.tool("apply", PYTHONPATH=str(rivals)).status == 0
    assert not list((program.parents[3]).rglob("__pycache__"))
    assert not list((program.parents[3]).rglob("__init__.py"))


# --- the service ---


def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(delimiters=("=",), comment_prefixes=("#",), interpolation=None, strict=True)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string((ROOT / "roles/gpu_mig/files/gpu-mig.service").read_text())
    return parser


def test_the_service_runs_the_program(node: Make) -> None:
    path, *arguments = unit()["Service"]["ExecStart"].split()
    assert path == "/usr/local/sbin/gpu-mig"
    host = node(H100)
    host.save(selected="all-balanced")
    assert host.tool(*arguments).status == 0


def test_no_kubelet_starts_before_or_without_the_layout() -> None:
    before, required = (
        set(unit()[section][key].split()) for section, key in (("Unit", "Before"), ("Install", "RequiredBy"))
    )
    assert required == KUBELETS
    assert before == {*KUBELETS, "nvidia-cdi-refresh.service", "nvidia-dcgm.service"}
