# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The program gpu-mig, which lives on a node and brings its GPUs back to their MIG layout when the node boots.

A front end like the module mig, over the same engine. Everything behind it is Python 3.9 and its standard library; the
filter mig_tool_files puts it on a node together with nvidia-ml-py.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
import typing as t

from ansible_collections.onprem.gpu.plugins.module_utils import mig_config
from ansible_collections.onprem.gpu.plugins.module_utils.host import Host
from ansible_collections.onprem.gpu.plugins.module_utils.mig_host import (
    partition,
    present_gpus,
    require_root,
    wait_for_driver,
    write_whole,
)
from ansible_collections.onprem.gpu.plugins.module_utils.mig_layout import Gpu, users_of
from ansible_collections.onprem.gpu.plugins.module_utils.mig_picture import bars, users
from ansible_collections.onprem.gpu.plugins.module_utils.mig_run import (
    MigRunError,
    Result,
    described,
    failure,
    final_pictures,
)
from ansible_collections.onprem.gpu.plugins.module_utils.mig_wish import SavedWishError, Wish, saved_wish

SAVED_FILE = "/etc/onprem-gpu/mig.json"
STATE_FILE = "/run/onprem-gpu/mig.json"
APPLIED, FAILED = "applied", "failed"
DONE, REFUSED, BAD_FILE = 0, 1, 2  # exit statuses; argparse ends with the last one too

STATE_KEYS = ("state", "reason", "message", "selected", "changed", "reset_required", "reboot_required")


def main(arguments: t.Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    try:
        require_root()
        return int(options.run(options))
    except SavedWishError as error:
        _complain(str(error))
        return BAD_FILE
    except (MigRunError, OSError) as error:
        _complain(str(error))
        return REFUSED


# --- what it can do ---------------------------------------------------------------------------------------------------


def apply(options: argparse.Namespace) -> int:
    """No state is left while this goes on: what is there afterwards is always that of the last run that ended."""
    with contextlib.suppress(FileNotFoundError):
        os.remove(options.state_file)
    try:
        wish = _saved(options.file)
    except SavedWishError as error:
        _write_state(options.state_file, failure("invalid", str(error)), None)
        raise
    wait_for_driver(options.wait_seconds)
    result = partition(None, wish, False, options.lock_timeout_seconds)
    _write_state(options.state_file, result, wish.selected)
    return _tell(result)


def plan(options: argparse.Namespace) -> int:
    return _tell(partition(None, _saved(options.file), True, options.lock_timeout_seconds))


def export(options: argparse.Namespace) -> int:
    document, notes = mig_config.export(present_gpus(None, options.lock_timeout_seconds), options.name)
    _say(json.dumps(document, indent=2))
    for note in notes:
        _complain(note)
    return DONE


def show(options: argparse.Namespace) -> int:
    """What can be read is shown, whatever else cannot."""
    problems: list[str] = []
    gpus: list[Gpu] = []
    try:
        gpus = present_gpus(None, options.lock_timeout_seconds)
    except MigRunError as error:
        problems.append(str(error))
    host = Host()
    selected = _selected(host, options.file, problems)
    last = _last_apply(host, options.state_file, problems)
    if options.json:
        shown = {"gpus": [_with_users(gpu) for gpu in gpus], "selected": selected, "last_apply": last}
        _say(json.dumps(shown, indent=2))
    else:
        _say(
            *_drawn(gpus),
            f"wanted: {_told_wish(host, options.file, selected)}",
            f"last apply: {_told_state(last, host.modified_ns(options.state_file))}",
        )
    for problem in problems:
        _complain(problem)
    return REFUSED if problems else DONE


# --- the saved wish and the state -------------------------------------------------------------------------------------


def _saved(path: str) -> Wish:
    host = Host()
    text = host.read_text(path)
    for error in host.errors:
        raise SavedWishError(path, f"cannot be read: {error['reason']}.")
    return saved_wish(text, path)


def _selected(host: Host, path: str, problems: list[str]) -> str | None:
    """The name of the wanted layout; None without a file, or with one that cannot be used."""
    if not host.exists(path):
        return None
    try:
        return _saved(path).selected
    except SavedWishError as error:
        problems.append(str(error))
        return None


def _write_state(path: str, result: Result, selected: str | None) -> None:
    state = {
        "state": FAILED if result.get("failed") else APPLIED,
        "reason": result.get("reason", ""),
        "message": result.get("msg", ""),
        "selected": selected,
        "changed": result["changed"],
        "reset_required": result["reset_required"],
        "reboot_required": result["reboot_required"],
    }
    write_whole(path, f"{json.dumps(state, indent=2)}\n")


def _last_apply(host: Host, path: str, problems: list[str]) -> dict[str, t.Any] | None:
    text = host.read_text(path)
    if text is None:
        return None
    with contextlib.suppress(ValueError):
        state = json.loads(text)
        if isinstance(state, dict) and state.keys() == set(STATE_KEYS):
            return state
    problems.append(f"{path} is not as `gpu-mig apply` writes it. The next one writes it anew.")
    return None


# --- for people -------------------------------------------------------------------------------------------------------


def _tell(result: Result) -> int:
    """What was done or is going to be done, what comes of it, and what went wrong."""
    failed = bool(result.get("failed"))
    lines = result.get("plan") or ([] if failed else ["Nothing is to be done: all GPUs are as wanted."])
    _say(*lines, *result.get("notes", []), *final_pictures(result))
    if not failed:
        return DONE
    _complain(result["msg"])
    return REFUSED


def _told_wish(host: Host, path: str, selected: str | None) -> str:
    if selected is not None:
        return f"{selected} ({path})"
    return f"unknown, because {path} cannot be used" if host.exists(path) else f"nothing, because there is no {path}"


def _told_state(state: t.Mapping[str, t.Any] | None, written_ns: int | None) -> str:
    if state is None or written_ns is None:
        return "none has ended since this node booted"
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(written_ns // 1_000_000_000))
    if state["state"] == FAILED:
        return f"{FAILED} ({state['reason']}) at {when}. {state['message']}"
    return f"{state['state']} {state['selected']} at {when}{'' if state['changed'] else ', nothing was to be done'}"


def _drawn(gpus: t.Iterable[Gpu]) -> t.Iterator[str]:
    for gpu in gpus:
        yield from bars(gpu)
        for line in users(gpu):
            yield f"    {line}"


def _with_users(gpu: Gpu) -> dict[str, t.Any]:
    shown = described(gpu)
    instances = [
        {**told, "users": list(users_of(instance))} for told, instance in zip(shown["instances"], gpu.instances)
    ]
    return {**shown, "instances": instances, "users": list(gpu.users)}


def _say(*lines: str) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()  # a journal has it before what goes wrong


def _complain(message: str) -> None:
    sys.stderr.write(f"gpu-mig: {message}\n")


# --- usage ------------------------------------------------------------------------------------------------------------


def _seconds(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds; allowed: 0, 1, 2, ...")
    return int(text)


ABOUT = (
    "The MIG layout of this node's GPUs, which a reboot takes away and `gpu-mig apply` brings back. Nothing that is in "
    "use is touched. Run it as root. Exit status: 0 done, 1 refused or failed, 2 wrong usage or a saved layout that "
    "cannot be used."
)
OPTIONS: dict[str, dict[str, t.Any]] = {
    "--file": {
        "default": SAVED_FILE,
        "metavar": "PATH",
        "help": "the layout that is saved on this node, as the role gpu_mig writes it (default: %(default)s)",
    },
    "--state-file": {
        "default": STATE_FILE,
        "metavar": "PATH",
        "help": "how the last `gpu-mig apply` since the boot ended, as JSON (default: %(default)s)",
    },
    "--lock-timeout-seconds": {
        "type": _seconds,
        "default": 60,
        "metavar": "N",
        "help": "how long to wait while another run has the GPUs (default: %(default)s)",
    },
    "--wait-seconds": {
        "type": _seconds,
        "default": 0,
        "metavar": "N",
        "help": "how long to wait for a driver that is not loaded yet, as when booting (default: %(default)s)",
    },
    "--json": {"action": "store_true", "help": "print data instead of bars"},
    "--name": {"default": "current", "help": "name of the layout in what is printed (default: %(default)s)"},
}
COMMANDS: tuple[tuple[t.Callable[[argparse.Namespace], int], str, tuple[str, ...]], ...] = (
    (
        apply,
        "Bring the GPUs to the layout that is saved on this node.",
        ("--file", "--state-file", "--lock-timeout-seconds", "--wait-seconds"),
    ),
    (
        plan,
        "Print what apply would do, and change nothing. Exit status 1 when it would refuse.",
        ("--file", "--lock-timeout-seconds"),
    ),
    (
        show,
        "Draw the slices of every GPU and say who uses what, which layout is wanted and how the last apply ended.",
        ("--file", "--state-file", "--lock-timeout-seconds", "--json"),
    ),
    (
        export,
        "Print a configuration in mig-parted's language that makes the present layouts again. It is JSON, which is "
        "valid YAML: it can stand in gpu_mig_config as it is.",
        ("--name", "--lock-timeout-seconds"),
    ),
)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gpu-mig", description=ABOUT, allow_abbrev=False)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for run, about, names in COMMANDS:
        command = commands.add_parser(run.__name__, help=about, description=about, allow_abbrev=False)
        command.set_defaults(run=run)
        for name in names:
            command.add_argument(name, **OPTIONS[name])
    return parser
