# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Compares what state documents want with what a host has.

Pure: documents (see state_document.py) and a Present in, differences out. It says what the builtin modules would change
that write the documents: copy, file, apt, dnf, dpkg_selections, systemd_service. Where those disagree with common sense
(a unit that is "static" counts as enabled), they win: a survey that disagrees with its writers never converges.

A file that is going to be written makes every service that must restart for it, and the initramfs, differ as well:
what a run will disrupt has to be known before its first write.
"""

from __future__ import annotations

import hashlib
import typing as t

from ansible_collections.onprem.gpu.plugins.module_utils.installed_packages import version_matches
from ansible_collections.onprem.gpu.plugins.module_utils.state_document import DISRUPTIONS, Document, Documents, Item

ANY_VERSION = "*"  # a dpkg hold keeps whatever is installed
RUNNING = ("active", "activating", "reloading", "refreshing")


class PackageState(t.NamedTuple):
    """Complete versions of a package: those installed, and those it is held at."""

    installed: tuple[str, ...] = ()
    held_at: tuple[str, ...] = ()


class FileState(t.NamedTuple):
    """What is at a path. `kind`: file, directory, symlink, other or absent; only a file has content."""

    kind: str = "absent"
    mode: str = ""
    owner: str = ""
    uid: int = -1
    group: str = ""
    gid: int = -1
    content: bytes = b""


class GeneratedContent(t.NamedTuple):
    """What a program prints for a generated file, or why it cannot."""

    content: bytes = b""
    problem: str = ""


class ModuleState(t.NamedTuple):
    """A kernel module: whether it is in the kernel, and which version."""

    loaded: bool = False
    version: str | None = None


class ServiceState(t.NamedTuple):
    """A unit: ActiveState, what is-enabled says, and when it last started (nanoseconds since 1970, None: never).

    `enabled` is what systemd_service makes of the enabled state.
    """

    installed: bool = False
    active_state: str = "inactive"
    enabled_state: str = ""
    enabled: bool = False
    started_ns: int | None = None


class CheckpointState(t.NamedTuple):
    """The value under the asked key of a checkpoint file; `problem` when the file is there and has none."""

    exists: bool = False
    value: t.Any = None
    problem: str = ""


class GpuLayout(t.NamedTuple):
    """A GPU whose MIG layout has to change: what there is and what is wanted, in words, and both drawn."""

    name: str
    want: str
    have: str
    operations: tuple[str, ...]
    before: str = ""
    after: str = ""


class MigState(t.NamedTuple):
    """The GPUs of a host that differ from a layout, or why that cannot be told or reached now."""

    gpus: tuple[GpuLayout, ...] = ()
    problem: str = ""


class Present(t.NamedTuple):
    """Everything the documents mention, as it is on the host, by name or path."""

    package_manager: str = "dpkg"
    packages: t.Mapping[str, PackageState] = {}
    unfinished: t.Mapping[str, str] = {}  # package name, or what else is half done: how
    files: t.Mapping[str, FileState] = {}
    generated: t.Mapping[tuple[str, ...], GeneratedContent] = {}  # by argv
    modules: t.Mapping[str, ModuleState] = {}
    services: t.Mapping[str, ServiceState] = {}
    checkpoints: t.Mapping[tuple[str, str], CheckpointState] = {}  # by path and key
    modified_ns: t.Mapping[str, int] = {}  # files that exist, of restarts_on and newer_than
    initramfs_ns: int | None = None  # of the running kernel; None: there is none
    mig: t.Mapping[str, MigState] = {}  # by document


class Difference(t.NamedTuple):
    """One item that is not as wanted. `before` and `after` are its diff, as text."""

    document: str
    kind: str
    name: str
    want: str
    have: str
    disrupts: str
    summary: str
    before: str = ""
    after: str = ""

    @property
    def id(self) -> str:
        return f"{self.document}/{self.kind}/{self.name}"

    def as_result(self) -> dict[str, str]:
        """The difference as the module returns it."""
        shown = self._asdict()
        return {"id": self.id, **{key: shown[key] for key in shown if key not in ("before", "after")}}

    def as_diff(self) -> dict[str, str]:
        """The difference as Ansible's --diff shows it; without a text of its own, what is had and what is wanted."""
        has_text = self.before != self.after
        return {
            "before_header": f"{self.id} (now)",
            "after_header": f"{self.id} (wanted)",
            "before": self.before if has_text else f"{self.have}\n",
            "after": self.after if has_text else f"{self.want}\n",
        }


def differences(documents: Documents, present: Present) -> list[Difference]:
    """Every difference, document by document, in the order in which a document is written."""
    rewritten = {path for document in documents.values() for path in _rewritten_paths(document, present)}
    return [found for name, document in documents.items() for found in _of_document(name, document, present, rewritten)]


def disruptions(found: t.Iterable[Difference]) -> list[str]:
    """What the differences disrupt when they are made good, each once, from harmless to hardest."""
    present = {difference.disrupts for difference in found}
    return [name for name in DISRUPTIONS if name in present]


def _of_document(name: str, document: Document, present: Present, rewritten: set[str]) -> list[Difference]:
    first = [item for item in document["files"] if item["first"]]
    later = [item for item in document["files"] if not item["first"]]
    found = [
        _unfinished(name, document["packages"], present),
        *(_file(name, item, present.files[item["path"]]) for item in first),
        *(_package(name, item, present.packages[item["name"]]) for item in document["packages"]),
        *(_hold(name, item, present.packages[item["name"]]) for item in document["packages"]),
        *(_mig(name, document["mig"], present.mig[name]) if document["mig"] else ()),
        *(_file(name, item, present.files[item["path"]]) for item in later),
        *(_generated(name, item, present) for item in document["generated"]),
        _initramfs(name, document["initramfs"], present, rewritten),
        *(_module(name, item, present.modules[item["name"]]) for item in document["modules"]),
        *(_checkpoint(name, item, present.checkpoints[item["path"], item["key"]]) for item in document["checkpoints"]),
        *(_service(name, item, present, rewritten) for item in document["services"]),
    ]
    return [difference for difference in found if difference]


# --- packages ---------------------------------------------------------------------------------------------------------


def _unfinished(document: str, packages: t.Sequence[Item], present: Present) -> Difference | None:
    """An interrupted transaction stops every later one, so it concerns each document that has packages."""
    if not packages or not present.unfinished:
        return None
    concerned = [item["disrupts"] for item in packages if item["name"] in present.unfinished]
    have = ", ".join(f"{name} {state}" for name, state in sorted(present.unfinished.items()))
    return Difference(
        document,
        "unfinished",
        present.package_manager,
        want="finished",
        have=have,
        disrupts=max(concerned, key=DISRUPTIONS.index, default=DISRUPTIONS[0]),
        summary=f"finish the interrupted package transaction: {have}",
    )


def _package(document: str, item: Item, have: PackageState) -> Difference | None:
    if _package_is_right(item, have):
        return None
    wanted = "absent" if item["state"] == "absent" else item["version"] or "installed"
    installed = ", ".join(have.installed) or "absent"
    if item["state"] == "absent":
        summary = f"remove {item['name']} {installed}"
    elif have.installed:
        summary = f"{item['name']}: {installed} -> {wanted}"
    else:
        summary = " ".join(filter(None, ("install", item["name"], item["version"])))
    return Difference(document, "package", item["name"], wanted, installed, item["disrupts"], summary)


def _package_is_right(item: Item, have: PackageState) -> bool:
    if item["state"] == "absent":
        return not have.installed
    return any(version_matches(item["version"], version) for version in have.installed)


def _hold(document: str, item: Item, have: PackageState) -> Difference | None:
    """A hold that is not as wanted: none, too much, or one of another version than the wanted."""
    if item["hold"] is None or item["state"] == "absent" or _hold_is_right(item, have):
        return None
    name, held = item["name"], ", ".join(have.held_at).replace(ANY_VERSION, "held")
    if not item["hold"]:
        return Difference(document, "hold", name, "not held", held, "none", f"release the hold of {name}")
    shown = item["version"] or "the installed version"
    return Difference(document, "hold", name, f"held at {shown}", held or "not held", "none", f"hold {name} at {shown}")


def _hold_is_right(item: Item, have: PackageState) -> bool:
    if not item["hold"]:
        return not have.held_at
    if have.held_at == (ANY_VERSION,):
        return True
    # What will be installed is what has to be held: the right version that is there, else the wanted one.
    kept = [version for version in have.installed if version_matches(item["version"], version)]
    goals = kept or ([item["version"]] if item["version"] else [])
    return bool(have.held_at) and all(
        any(version_matches(goal, held) or version_matches(held, goal) for goal in goals) for held in have.held_at
    )


# --- files ------------------------------------------------------------------------------------------------------------


class Content(t.NamedTuple):
    """What a file should contain: its digest, and what a diff shows."""

    digest: str
    text: str


def _file(document: str, item: Item, have: FileState) -> Difference | None:
    if item["state"] == "absent":
        return _superfluous_file(document, item, have)
    return _file_with(document, "file", item, _wanted_content(item), have)


def _superfluous_file(document: str, item: Item, have: FileState) -> Difference | None:
    if have.kind == "absent":
        return None
    return Difference(
        document,
        "file",
        item["path"],
        want="absent",
        have=have.kind,
        disrupts=item["disrupts"],
        summary=f"remove {item['path']}",
        before=_as_text(have.content),
    )


def _file_with(document: str, kind: str, item: Item, content: Content, have: FileState) -> Difference | None:
    wanted = _attributes(item["mode"], item["owner"], item["group"], content.digest)
    had = _present_attributes(item, have)
    parts = [name for name, value in wanted.items() if had.get(name) != value]
    if not parts:
        return None
    content_differs = "content" in parts
    return Difference(
        document,
        kind,
        item["path"],
        want=", ".join(f"{name} {wanted[name]}" for name in parts),
        have=", ".join(f"{name} {had[name]}" for name in parts) if had else have.kind,
        disrupts=item["disrupts"],
        summary=f"write {item['path']}" if have.kind == "absent" else f"change {item['path']} ({', '.join(parts)})",
        before=_as_text(have.content) if content_differs else "",
        after=content.text if content_differs else "",
    )


def _attributes(mode: str, owner: str, group: str, digest: str) -> dict[str, str]:
    return {"content": digest, "mode": mode, "owner": owner, "group": group}


def _present_attributes(item: Item, have: FileState) -> dict[str, str]:
    """What the file has; its owners by number where the document names them so. {} when what is there is no file."""
    if have.kind != "file":
        return {}
    owner = str(have.uid) if item["owner"] == str(have.uid) else have.owner
    group = str(have.gid) if item["group"] == str(have.gid) else have.group
    return _attributes(have.mode, owner, group, _digest(have.content))


def _generated(document: str, item: Item, present: Present) -> Difference | None:
    wanted, have = present.generated[tuple(item["argv"])], present.files[item["path"]]
    if not wanted.problem:
        return _file_with(document, "generated", item, _content_of(wanted.content), have)
    return Difference(
        document,
        "generated",
        item["path"],
        want=f"the output of {item['argv'][0]}",
        have=f"cannot be generated yet: {wanted.problem}",
        disrupts=item["disrupts"],
        summary=f"generate {item['path']} (not possible yet: {wanted.problem})",
    )


def _rewritten_paths(document: Document, present: Present) -> list[str]:
    """The files whose content a run of this document will write or remove; a change of mode alone keeps their time."""
    written = [
        item["path"]
        for item in document["files"]
        if _content_differs(item["state"], _wanted_content(item), present.files[item["path"]])
    ]
    generated = [(item["path"], present.generated[tuple(item["argv"])]) for item in document["generated"]]
    return written + [
        path
        for path, wanted in generated
        if wanted.problem or _content_differs("present", _content_of(wanted.content), present.files[path])
    ]


def _content_differs(state: str, content: Content, have: FileState) -> bool:
    if state == "absent":
        return have.kind != "absent"
    return have.kind != "file" or _digest(have.content) != content.digest


def _wanted_content(item: Item) -> Content:
    """Of a file that the controller sends as it is, only the digest is in the document."""
    if item["sha256"]:
        return Content(f"sha256:{item['sha256']}", f"({item['src'] or 'a file'} of the controller)\n")
    return _content_of(item["content"].encode("utf-8"))


def _content_of(content: bytes) -> Content:
    return Content(_digest(content), _as_text(content))


def _digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def _as_text(content: bytes) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return f"({len(content)} bytes that are no text, {_digest(content)})\n"


# --- what files have consequences for ---------------------------------------------------------------------------------


def _initramfs(document: str, item: Item | None, present: Present, rewritten: set[str]) -> Difference | None:
    if item is None:
        return None
    newer = _newer_than(item["newer_than"], present.initramfs_ns, present, rewritten)
    if present.initramfs_ns is not None and not newer:
        return None
    have = f"older than {', '.join(newer)}" if present.initramfs_ns is not None else "missing"
    return Difference(
        document,
        "initramfs",
        "initramfs",
        want="newer than " + ", ".join(item["newer_than"]),
        have=have,
        disrupts=item["disrupts"],
        summary=f"rebuild the initramfs ({have})",
    )


def _newer_than(paths: t.Sequence[str], moment_ns: int | None, present: Present, rewritten: set[str]) -> list[str]:
    """Those of the files that changed after a moment, or that this run will change."""
    return [
        path
        for path in paths
        if path in rewritten or (moment_ns is not None and present.modified_ns.get(path, moment_ns) > moment_ns)
    ]


def _module(document: str, item: Item, have: ModuleState) -> Difference | None:
    loaded = have.version or "loaded" if have.loaded else "absent"
    if item["state"] == "absent":
        if not have.loaded:
            return None
        wanted, summary = "absent", f"unload {item['name']} {have.version or ''}".rstrip()
    else:
        if have.loaded and item["version"] in (None, have.version):
            return None
        wanted = item["version"] or "loaded"
        summary = f"load {item['name']} {item['version'] or ''}".rstrip()
        if have.loaded:
            summary = f"{item['name']}: {have.version or 'an unknown version'} is loaded, {wanted} is wanted"
    return Difference(document, "module", item["name"], wanted, loaded, item["disrupts"], summary)


def _checkpoint(document: str, item: Item, have: CheckpointState) -> Difference | None:
    if not have.exists or (not have.problem and str(have.value) == str(item["value"])):
        return None
    shown = have.problem or f"{item['key']} {have.value}"
    return Difference(
        document,
        "checkpoint",
        item["path"],
        want=f"{item['key']} {item['value']}, or absent",
        have=shown,
        disrupts=item["disrupts"],
        summary=f"remove {item['path']} while {item['service']} is stopped ({shown})",
    )


def _mig(document: str, item: Item, have: MigState) -> list[Difference]:
    if have.problem:
        return [
            Difference(
                document,
                "mig",
                "layout",
                want=item["selected"],
                have=have.problem,
                disrupts=item["disrupts"],
                summary=f"partition the GPUs as {item['selected']} (not possible yet: {have.problem})",
            )
        ]
    return [
        Difference(
            document,
            "mig",
            gpu.name,
            want=gpu.want,
            have=gpu.have,
            disrupts=item["disrupts"],
            summary=f"{gpu.name}: {'; '.join(gpu.operations)}",
            before=gpu.before,
            after=gpu.after,
        )
        for gpu in have.gpus
    ]


def _service(document: str, item: Item, present: Present, rewritten: set[str]) -> Difference | None:
    parts = _service_parts(item, present.services[item["name"]], present, rewritten)
    if not parts:
        return None
    return Difference(
        document,
        "service",
        item["name"],
        want=", ".join(want for want, _have in parts),
        have=", ".join(dict.fromkeys(have for _want, have in parts)),
        disrupts=item["disrupts"],
        summary=f"{item['name']}: " + "; ".join(f"{want} (now {have})" for want, have in parts),
    )


def _service_parts(item: Item, have: ServiceState, present: Present, rewritten: set[str]) -> list[tuple[str, str]]:
    """What differs of a unit: (wanted, had). One that is not installed is as stopped and disabled as can be."""
    parts = []
    masked = False if item["masked"] is None and (item["enabled"] or item["state"] == "started") else item["masked"]
    if masked is not None and masked != (have.enabled_state == "masked"):
        parts.append(("masked", "not masked") if masked else ("not masked", "masked"))
    if item["enabled"] is not None and item["enabled"] != have.enabled:
        shown = have.enabled_state or ("disabled" if have.installed else "not installed")
        parts.append(("enabled" if item["enabled"] else "disabled", shown))
    running = have.active_state in RUNNING
    if item["state"] == "started" and not running:
        parts.append(("started", have.active_state if have.installed else "not installed"))
    if item["state"] == "stopped" and (running or have.active_state == "deactivating"):
        parts.append(("stopped", have.active_state))
    if item["state"] != "stopped" and running:
        newer = _newer_than(item["restarts_on"], have.started_ns, present, rewritten)
        parts += [(f"restarted for {', '.join(newer)}", "started before")] if newer else []
    return parts
