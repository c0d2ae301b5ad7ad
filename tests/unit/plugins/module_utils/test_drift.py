# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import hashlib
import typing as t

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.onprem.gpu.plugins.module_utils.drift import (
    ANY_VERSION,
    CheckpointState,
    Difference,
    FileState,
    GeneratedContent,
    GpuLayout,
    MigState,
    ModuleState,
    PackageState,
    Present,
    ServiceState,
    differences,
    disruptions,
)
from ansible_collections.onprem.gpu.plugins.module_utils.state_document import DISRUPTIONS, Documents, checked_documents

BEFORE, WHEN_STARTED, LATER = 100, 200, 300  # moments in nanoseconds
VERSION = "580.159.03"

# --- a document and a host that is as it wants ------------------------------------------------------------------------


def present_of(documents: Documents) -> Present:
    """A host on which nothing differs, derived from the documents without the code under test."""
    every = list(documents.values())
    items = {
        section: [item for document in every for item in document[section]]
        for section in every[0]
        if section not in ("initramfs", "mig")
    }
    files = {item["path"]: _file_of(item) for item in items["files"]}
    output = {tuple(item["argv"]): b"printed by " + item["argv"][0].encode() for item in items["generated"]}
    for item in items["generated"]:
        files[item["path"]] = FileState(
            "file", item["mode"], item["owner"], 0, item["group"], 0, output[tuple(item["argv"])]
        )
    return Present(
        packages={item["name"]: _package_of(item) for item in items["packages"]},
        files=files,
        generated={argv: GeneratedContent(content) for argv, content in output.items()},
        modules={item["name"]: ModuleState(item["state"] == "loaded", item["version"]) for item in items["modules"]},
        services={item["name"]: _service_of(item) for item in items["services"]},
        checkpoints={
            (item["path"], item["key"]): CheckpointState(True, item["value"]) for item in items["checkpoints"]
        },
        modified_ns={path: BEFORE for path, file in files.items() if file.kind == "file"},
        initramfs_ns=WHEN_STARTED,
        mig={name: MigState() for name, document in documents.items() if document["mig"]},
    )


def _package_of(item: dict[str, t.Any]) -> PackageState:
    if item["state"] == "absent":
        return PackageState()
    return PackageState((f"{item['version'] or '1.0'}-1",), (ANY_VERSION,) if item["hold"] else ())


def _file_of(item: dict[str, t.Any]) -> FileState:
    if item["state"] == "absent":
        return FileState()
    return FileState("file", item["mode"], item["owner"], 0, item["group"], 0, item["content"].encode())


def _service_of(item: dict[str, t.Any]) -> ServiceState:
    enabled = "masked" if item["masked"] else {True: "enabled", False: "disabled", None: "disabled"}[item["enabled"]]
    active = {"started": "active", "stopped": "inactive", None: "active"}[item["state"]]
    return ServiceState(True, active, enabled, bool(item["enabled"]), WHEN_STARTED)


def ids(documents: Documents, present: Present) -> list[str]:
    return [difference.id for difference in differences(documents, present)]


# --- any document: nothing differs, and one change is one difference --------------------------------------------------

NAMES = st.text("abcdefgh", min_size=1, max_size=4)
DISRUPTS = st.sampled_from(DISRUPTIONS)
PATHS = NAMES.map(lambda name: f"/etc/{name}")
MAYBE_VERSION = st.sampled_from([None, VERSION, "1.2.3"])


def unique(item: st.SearchStrategy[dict[str, t.Any]], key: str) -> st.SearchStrategy[list[dict[str, t.Any]]]:
    return st.lists(item, max_size=3, unique_by=lambda one: one[key])


PACKAGES = st.fixed_dictionaries(
    {
        "name": NAMES,
        "version": MAYBE_VERSION,
        "hold": st.sampled_from([True, False, None]),
        "state": st.sampled_from(["present", "absent"]),
        "disrupts": DISRUPTS,
    }
)
FILES = st.fixed_dictionaries(
    {
        "path": PATHS,
        "content": st.text(max_size=5),
        "mode": st.sampled_from(["0644", "0600"]),
        "state": st.sampled_from(["present", "absent"]),
        "first": st.booleans(),
        "disrupts": DISRUPTS,
    }
)
GENERATED = st.fixed_dictionaries(
    {"path": NAMES.map(lambda name: f"/gen/{name}"), "argv": st.lists(NAMES, min_size=1), "disrupts": DISRUPTS}
)
MODULES = st.fixed_dictionaries(
    {"name": NAMES, "version": MAYBE_VERSION, "state": st.sampled_from(["loaded", "absent"]), "disrupts": DISRUPTS}
)
SERVICES = st.fixed_dictionaries(
    {
        "name": NAMES,
        "enabled": st.sampled_from([True, False, None]),
        "state": st.sampled_from(["started", "stopped", None]),
        "restarts_on": st.lists(PATHS, max_size=2),
        "disrupts": DISRUPTS,
    }
)
CHECKPOINTS = st.fixed_dictionaries(
    {"path": PATHS, "key": NAMES, "value": NAMES, "service": NAMES, "disrupts": DISRUPTS}
)
DOCUMENTS = st.fixed_dictionaries(
    {
        "packages": unique(PACKAGES, "name"),
        "files": unique(FILES, "path"),
        "generated": unique(GENERATED, "path"),
        "modules": unique(MODULES, "name"),
        "services": unique(SERVICES, "name"),
        "checkpoints": unique(CHECKPOINTS, "path"),
        "initramfs": st.none() | st.fixed_dictionaries({"newer_than": st.lists(PATHS, max_size=2)}),
    }
).map(lambda document: checked_documents({"d": document}))


@given(documents=DOCUMENTS)
def test_a_host_that_is_as_wanted_has_no_difference(documents):
    assert ids(documents, present_of(documents)) == []


@given(documents=DOCUMENTS, data=st.data())
def test_one_change_is_one_difference_with_the_id_of_its_item(documents, data):
    changes = [change for section in CHANGES for change in CHANGES[section](documents["d"], present_of(documents))]
    if not changes:
        return
    expected, changed = data.draw(st.sampled_from(changes))
    assert ids(documents, changed) == [expected]


@given(documents=DOCUMENTS, data=st.data())
def test_a_rewritten_file_also_restarts_its_services_and_rebuilds_the_initramfs(documents, data):
    files = [item for item in documents["d"]["files"] if item["state"] == "present"]
    if not files:
        return
    present, path = present_of(documents), data.draw(st.sampled_from(files))["path"]
    changed = present._replace(files={**present.files, path: present.files[path]._replace(content=b"\xffother")})
    restarted = [
        f"d/service/{item['name']}"
        for item in documents["d"]["services"]
        if path in item["restarts_on"] and item["state"] != "stopped"
    ]
    initramfs = documents["d"]["initramfs"]
    rebuilt = ["d/initramfs/initramfs"] if initramfs and path in initramfs["newer_than"] else []
    assert sorted(ids(documents, changed)) == sorted([f"d/file/{path}", *rebuilt, *restarted])


@given(documents=DOCUMENTS)
def test_ids_are_unique_and_stable(documents):
    bare = present_of(checked_documents({"d": {}}))._replace(initramfs_ns=None)
    for section, empty in (("packages", PackageState()), ("files", FileState()), ("modules", ModuleState())):
        names = [item.get("name") or item["path"] for item in documents["d"][section]]
        bare = bare._replace(**{section: dict.fromkeys(names, empty)})
    bare = bare._replace(
        files={**bare.files, **{item["path"]: FileState() for item in documents["d"]["generated"]}},
        generated={tuple(item["argv"]): GeneratedContent(problem="no") for item in documents["d"]["generated"]},
        services={item["name"]: ServiceState() for item in documents["d"]["services"]},
        checkpoints={(item["path"], item["key"]): CheckpointState() for item in documents["d"]["checkpoints"]},
    )
    found = ids(documents, bare)
    assert len(set(found)) == len(found)
    assert ids(documents, bare) == found


def package_changes(document, present):
    for item in document["packages"]:
        name, have = item["name"], present.packages[item["name"]]
        if item["state"] == "present":
            yield f"d/package/{name}", _with(present, "packages", name, have._replace(installed=()))
            if item["version"]:
                yield f"d/package/{name}", _with(present, "packages", name, have._replace(installed=("9.9-1",)))
            if item["hold"] is not None:
                flipped = () if item["hold"] else (ANY_VERSION,)
                yield f"d/hold/{name}", _with(present, "packages", name, have._replace(held_at=flipped))
        else:
            yield f"d/package/{name}", _with(present, "packages", name, have._replace(installed=("1-1",)))


def file_changes(document, present):
    dependent = {path for item in document["services"] for path in item["restarts_on"]}
    dependent |= set(document["initramfs"]["newer_than"]) if document["initramfs"] else set()
    for item in document["files"]:
        path, have = item["path"], present.files[item["path"]]
        if item["state"] == "present":
            for change in ({"mode": "0777"}, {"owner": "nobody", "uid": 65534}, {"group": "nogroup", "gid": 65534}):
                yield f"d/file/{path}", _with(present, "files", path, have._replace(**change))
        if path not in dependent:
            for kind in {"file", "directory", "symlink", "absent"} - {have.kind}:
                yield f"d/file/{path}", _with(present, "files", path, FileState(kind))


def generated_changes(document, present):
    for item in document["generated"]:
        path, have = item["path"], present.files[item["path"]]
        yield f"d/generated/{path}", _with(present, "files", path, have._replace(content=have.content + b"x"))
        yield f"d/generated/{path}", _with(present, "files", path, FileState())


def module_changes(document, present):
    for item in document["modules"]:
        have = present.modules[item["name"]]
        yield f"d/module/{item['name']}", _with(present, "modules", item["name"], have._replace(loaded=not have.loaded))
        if item["state"] == "loaded" and item["version"]:
            yield f"d/module/{item['name']}", _with(present, "modules", item["name"], have._replace(version="1"))


def service_changes(document, present):
    for item in document["services"]:
        name, have = item["name"], present.services[item["name"]]
        if item["enabled"] is not None:
            yield f"d/service/{name}", _with(present, "services", name, have._replace(enabled=not have.enabled))
        if item["state"] is not None:
            flipped = "failed" if item["state"] == "started" else "active"
            yield f"d/service/{name}", _with(present, "services", name, have._replace(active_state=flipped))
        if item["restarts_on"] and item["state"] != "stopped":
            early = _with(present, "services", name, have._replace(started_ns=BEFORE - 1))
            path = item["restarts_on"][0]
            if not any(path in other["restarts_on"] for other in document["services"] if other is not item):
                yield f"d/service/{name}", early._replace(modified_ns={**present.modified_ns, path: BEFORE})


def checkpoint_changes(document, present):
    for item in document["checkpoints"]:
        key = (item["path"], item["key"])
        yield f"d/checkpoint/{item['path']}", _with(present, "checkpoints", key, CheckpointState(True, "other value"))
        yield f"d/checkpoint/{item['path']}", _with(present, "checkpoints", key, CheckpointState(True, problem="empty"))


def initramfs_changes(document, present):
    if document["initramfs"]:
        yield "d/initramfs/initramfs", present._replace(initramfs_ns=None)


CHANGES = {
    "packages": package_changes,
    "files": file_changes,
    "generated": generated_changes,
    "modules": module_changes,
    "services": service_changes,
    "checkpoints": checkpoint_changes,
    "initramfs": initramfs_changes,
}


def _with(present: Present, field: str, key: t.Any, value: t.Any) -> Present:
    return present._replace(**{field: {**getattr(present, field), key: value}})


# --- single rules -----------------------------------------------------------------------------------------------------


def only(document: dict[str, t.Any], present: Present) -> Difference:
    found = differences(checked_documents({"d": document}), present)
    assert len(found) == 1
    return found[0]


def none(document: dict[str, t.Any], present: Present) -> bool:
    return differences(checked_documents({"d": document}), present) == []


@pytest.mark.parametrize(
    ("item", "have", "want_shown", "have_shown", "summary"),
    [
        ({"version": VERSION}, (), VERSION, "absent", f"install a {VERSION}"),
        ({}, (), "installed", "absent", "install a"),
        ({"version": VERSION}, ("3:570.1-1",), VERSION, "3:570.1-1", f"a: 3:570.1-1 -> {VERSION}"),
        ({"state": "absent"}, ("1-1",), "absent", "1-1", "remove a 1-1"),
    ],
)
def test_package_differences_tell_versions(item, have, want_shown, have_shown, summary):
    found = only({"packages": [{"name": "a", **item}]}, Present(packages={"a": PackageState(have)}))
    assert (found.want, found.have, found.summary) == (want_shown, have_shown, summary)


@pytest.mark.parametrize(
    ("version", "hold", "installed", "held_at", "differs"),
    [
        (VERSION, True, ("3:580.159.03-1.el9",), ("3:580.159.03-1.el9",), False),
        (VERSION, True, ("3:580.159.03-1.el9",), (), True),
        (VERSION, True, ("3:580.159.03-1.el9",), ("3:570.1-1.el9",), True),
        (VERSION, True, ("3:580.159.03-1.el9",), ("3:570.1-1.el9", "3:580.159.03-1.el9"), True),
        (VERSION, True, ("1.37.1-1",), ("0:1.37.1-1",), True),
        (VERSION, True, (), ("3:580.159.03-1.el9",), False),
        (VERSION, True, ("3:570.1-1.el9",), ("3:570.1-1.el9",), True),
        (None, True, ("1.37.1-1",), ("0:1.37.1-1",), False),
        (None, True, (), ("0:1.37.1-1",), True),
        (None, True, ("2-1",), (ANY_VERSION,), False),
        (None, False, ("2-1",), (), False),
        (None, False, ("2-1",), ("2-1",), True),
        (None, None, ("2-1",), ("1-1",), False),
    ],
)
def test_a_hold_must_keep_exactly_what_is_wanted(version, hold, installed, held_at, differs):
    item = {"name": "a", "version": version, "hold": hold}
    present = Present(packages={"a": PackageState(installed, held_at)})
    found = differences(checked_documents({"d": {"packages": [item]}}), present)
    assert ("d/hold/a" in [difference.id for difference in found]) is differs


def test_an_interrupted_transaction_concerns_documents_with_packages_and_disrupts_what_its_packages_do():
    documents = checked_documents(
        {
            "driver": {"packages": [{"name": "nvidia", "disrupts": "gpu"}, {"name": "tool"}]},
            "toolkit": {"packages": [{"name": "other", "disrupts": "runtime"}]},
            "files": {"files": []},
        }
    )
    installed = PackageState(("1-1",))
    present = Present(
        packages={"nvidia": installed, "tool": installed, "other": installed},
        unfinished={"nvidia": "is unpacked", "tool": "is half-configured"},
    )
    found = differences(documents, present)
    assert [(one.id, one.disrupts) for one in found] == [
        ("driver/unfinished/dpkg", "gpu"),
        ("toolkit/unfinished/dpkg", "none"),
    ]
    assert found[0].have == "nvidia is unpacked, tool is half-configured"


def test_what_differs_of_a_file_is_one_difference_that_names_it():
    document = {"files": [{"path": "/f", "content": "new\n", "mode": "0600", "disrupts": "runtime"}]}
    found = only(document, Present(files={"/f": FileState("file", "0644", "root", 0, "root", 0, b"old\n")}))
    assert found.summary == "change /f (content, mode)"
    assert found.want.startswith("content sha256:")
    assert found.want.endswith(", mode 0600")
    assert found.have.endswith(", mode 0644")
    assert found.disrupts == "runtime"
    assert found.as_diff()["before"] == "old\n"
    assert found.as_diff()["after"] == "new\n"


def test_a_file_of_the_controller_is_compared_by_its_digest():
    digest = hashlib.sha256(b"new\n").hexdigest()
    document = {"files": [{"path": "/f", "sha256": digest, "src": "/collection/f.py"}]}
    right, wrong = (
        Present(files={"/f": FileState("file", "0644", "root", 0, "root", 0, content)})
        for content in (b"new\n", b"old\n")
    )
    assert none(document, right)
    found = only(document, wrong)
    assert found.want == f"content sha256:{digest}"
    assert found.as_diff() == {**found.as_diff(), "before": "old\n", "after": "(/collection/f.py of the controller)\n"}


def test_a_wrong_mode_shows_modes_and_not_the_text():
    found = only({"files": [{"path": "/f"}]}, Present(files={"/f": FileState("file", "0600", "root", 0, "root", 0)}))
    assert found.as_diff()["before"] == "mode 0600\n"
    assert found.as_diff()["after"] == "mode 0644\n"


def test_an_owner_may_be_named_by_number():
    have = FileState("file", "0644", "kube", 998, "kube", 997)
    document = {"files": [{"path": "/f", "owner": "998", "group": "997"}]}
    assert none(document, Present(files={"/f": have}))


def test_bytes_that_are_no_text_are_shown_by_their_digest():
    found = only(
        {"files": [{"path": "/f"}]}, Present(files={"/f": FileState("file", "0644", "root", 0, "root", 0, b"\xff\xfe")})
    )
    assert found.as_diff()["before"].startswith("(2 bytes that are no text, sha256:")


@pytest.mark.parametrize("have", [FileState(), FileState("file", "0644", "root", 0, "root", 0, b"")])
def test_a_program_that_cannot_print_yet_is_a_difference_that_restarts_services(have):
    document = {
        "generated": [{"path": "/f", "argv": ["nvidia-ctk"], "disrupts": "runtime"}],
        "services": [{"name": "c.service", "restarts_on": ["/f"]}],
    }
    present = Present(
        files={"/f": have},
        generated={("nvidia-ctk",): GeneratedContent(problem="nvidia-ctk is not installed")},
        services={"c.service": ServiceState(True, "active", "enabled", True, WHEN_STARTED)},
    )
    found = differences(checked_documents({"d": document}), present)
    assert [one.id for one in found] == ["d/generated//f", "d/service/c.service"]
    assert found[0].have == "cannot be generated yet: nvidia-ctk is not installed"


@pytest.mark.parametrize(
    ("item", "have", "want_shown", "have_shown"),
    [
        ({"state": "started"}, ServiceState(False), "started", "not installed"),
        ({"enabled": True, "state": "started"}, ServiceState(False), "enabled, started", "not installed"),
        ({"state": "started"}, ServiceState(True, "failed"), "started", "failed"),
        ({"state": "stopped"}, ServiceState(True, "active"), "stopped", "active"),
        ({"state": "stopped"}, ServiceState(True, "deactivating"), "stopped", "deactivating"),
        (
            {"state": "stopped", "restarts_on": ["/f"]},
            ServiceState(True, "active", started_ns=BEFORE),
            "stopped",
            "active",
        ),
        ({"enabled": True}, ServiceState(True, "active", "disabled"), "enabled", "disabled"),
        ({"enabled": True}, ServiceState(True, "active", "indirect"), "enabled", "indirect"),
        ({"enabled": True}, ServiceState(True, "inactive", "masked"), "not masked, enabled", "masked"),
        ({"state": "started"}, ServiceState(True, "active", "masked"), "not masked", "masked"),
        ({"enabled": False}, ServiceState(True, "active", "static", True), "disabled", "static"),
        ({"masked": True}, ServiceState(True, "inactive", "disabled"), "masked", "not masked"),
        ({"masked": True}, ServiceState(False), "masked", "not masked"),
        ({"masked": False}, ServiceState(True, "inactive", "masked"), "not masked", "masked"),
        (
            {"restarts_on": ["/f"]},
            ServiceState(True, "active", started_ns=BEFORE),
            "restarted for /f",
            "started before",
        ),
        (
            {"restarts_on": ["/f"]},
            ServiceState(True, "activating", started_ns=BEFORE),
            "restarted for /f",
            "started before",
        ),
    ],
)
def test_service_differences(item, have, want_shown, have_shown):
    present = Present(services={"s.service": have}, modified_ns={"/f": WHEN_STARTED})
    found = only({"services": [{"name": "s.service", **item}]}, present)
    assert (found.want, found.have) == (want_shown, have_shown)


@pytest.mark.parametrize(
    ("item", "have"),
    [
        ({"state": "started"}, ServiceState(True, "activating")),
        ({"state": "stopped"}, ServiceState(True, "failed")),
        ({"state": "stopped", "enabled": False}, ServiceState(False)),
        ({"enabled": True}, ServiceState(True, "active", "static", True)),
        ({"enabled": False}, ServiceState(True, "active", "indirect")),
        ({"enabled": False, "masked": True}, ServiceState(True, "inactive", "masked")),
        ({"restarts_on": ["/f"]}, ServiceState(True, "active", started_ns=WHEN_STARTED)),
        ({"restarts_on": ["/f"]}, ServiceState(True, "inactive", started_ns=BEFORE)),
        ({"restarts_on": ["/nowhere"]}, ServiceState(True, "active", started_ns=BEFORE)),
        ({"restarts_on": ["/f"], "state": "stopped"}, ServiceState(True, "inactive", started_ns=BEFORE)),
    ],
)
def test_services_that_are_as_wanted(item, have):
    present = Present(services={"s.service": have}, modified_ns={"/f": WHEN_STARTED})
    assert none({"services": [{"name": "s.service", **item}]}, present)


def test_a_file_of_one_document_restarts_a_service_of_another():
    documents = checked_documents(
        {
            "a": {"files": [{"path": "/f", "content": "new"}]},
            "b": {"services": [{"name": "s.service", "restarts_on": ["/f"], "disrupts": "kubelet"}]},
        }
    )
    present = Present(
        files={"/f": FileState()}, services={"s.service": ServiceState(True, "active", started_ns=WHEN_STARTED)}
    )
    assert ids(documents, present) == ["a/file//f", "b/service/s.service"]


def test_a_changed_mode_restarts_nothing():
    document = {"files": [{"path": "/f"}], "services": [{"name": "s.service", "restarts_on": ["/f"]}]}
    present = Present(
        files={"/f": FileState("file", "0600", "root", 0, "root", 0)},
        services={"s.service": ServiceState(True, "active", started_ns=WHEN_STARTED)},
        modified_ns={"/f": BEFORE},
    )
    assert only(document, present).kind == "file"


@pytest.mark.parametrize(
    ("initramfs_ns", "have"), [(None, "missing"), (BEFORE, "older than /f"), (WHEN_STARTED, None), (LATER, None)]
)
def test_the_initramfs_must_not_be_older_than_its_files(initramfs_ns, have):
    document = {"initramfs": {"newer_than": ["/f", "/nowhere"], "disrupts": "reboot"}}
    found = differences(
        checked_documents({"d": document}), Present(initramfs_ns=initramfs_ns, modified_ns={"/f": WHEN_STARTED})
    )
    assert [(one.have, one.disrupts) for one in found] == ([(have, "reboot")] if have else [])


@pytest.mark.parametrize(
    ("item", "have", "summary"),
    [
        ({"version": "580.2"}, ModuleState(), "load nvidia 580.2"),
        ({}, ModuleState(), "load nvidia"),
        ({"version": "580.2"}, ModuleState(True, "580.1"), "nvidia: 580.1 is loaded, 580.2 is wanted"),
        ({"version": "580.2"}, ModuleState(True, None), "nvidia: an unknown version is loaded, 580.2 is wanted"),
        ({"state": "absent"}, ModuleState(True, None), "unload nvidia"),
    ],
)
def test_module_differences(item, have, summary):
    assert only({"modules": [{"name": "nvidia", **item}]}, Present(modules={"nvidia": have})).summary == summary


def test_a_checkpoint_may_be_missing_but_not_disagree():
    item = {"path": "/s", "key": "policyName", "value": "static", "service": "kubelet.service", "disrupts": "kubelet"}
    document = {"checkpoints": [item]}
    key = ("/s", "policyName")
    assert none(document, Present(checkpoints={key: CheckpointState()}))
    assert none(document, Present(checkpoints={key: CheckpointState(True, "static")}))
    assert only(document, Present(checkpoints={key: CheckpointState(True, "none")})).have == "policyName none"
    assert (
        only(document, Present(checkpoints={key: CheckpointState(True, problem="no JSON object")})).disrupts
        == "kubelet"
    )


def test_differences_come_in_the_order_in_which_a_document_is_written():
    document = {
        "services": [{"name": "s.service", "state": "started"}],
        "checkpoints": [{"path": "/c", "key": "k", "value": "v", "service": "s.service"}],
        "modules": [{"name": "m"}],
        "initramfs": {"newer_than": []},
        "generated": [{"path": "/g", "argv": ["g"]}],
        "files": [{"path": "/later"}, {"path": "/first", "first": True}],
        "packages": [{"name": "p2", "hold": True}, {"name": "p1"}],
    }
    present = Present(
        packages={"p1": PackageState(), "p2": PackageState()},
        unfinished={"x": "is unpacked"},
        files=dict.fromkeys(("/later", "/first", "/g"), FileState()),
        generated={("g",): GeneratedContent(b"g")},
        modules={"m": ModuleState()},
        services={"s.service": ServiceState()},
        checkpoints={("/c", "k"): CheckpointState(True, "w")},
    )
    assert ids(checked_documents({"d": document}), present) == [
        "d/unfinished/dpkg",
        "d/file//first",
        "d/package/p2",
        "d/package/p1",
        "d/hold/p2",
        "d/file//later",
        "d/generated//g",
        "d/initramfs/initramfs",
        "d/module/m",
        "d/checkpoint//c",
        "d/service/s.service",
    ]


def test_disruptions_are_told_from_harmless_to_hardest():
    document = {
        "packages": [{"name": name, "disrupts": name} for name in ("reboot", "none", "kubelet", "gpu", "runtime")]
    }
    present = Present(packages={name: PackageState() for name in DISRUPTIONS})
    assert disruptions(differences(checked_documents({"d": document}), present)) == [
        "none",
        "gpu",
        "kubelet",
        "runtime",
        "reboot",
    ]


def test_a_result_is_plain_text_without_the_diff():
    found = only({"packages": [{"name": "a"}]}, Present(packages={"a": PackageState()}))
    assert found.as_result() == {
        "id": "d/package/a",
        "document": "d",
        "kind": "package",
        "name": "a",
        "want": "installed",
        "have": "absent",
        "disrupts": "none",
        "summary": "install a",
    }


# --- MIG --------------------------------------------------------------------------------------------------------------


def mig_differences(state: MigState) -> list[Difference]:
    documents = checked_documents({"d": {"mig": {"selected": "all-balanced", "disrupts": "gpu"}}})
    return differences(documents, Present(mig={"d": state}))


def test_gpus_that_have_their_layout_do_not_differ() -> None:
    assert mig_differences(MigState()) == []


def test_each_gpu_with_another_layout_differs() -> None:
    first = GpuLayout("GPU 0", "MIG on, 2 x 3g.40gb", "MIG off", ("enable MIG mode", "create 3g.40gb"), "a\n", "b\n")
    second = GpuLayout("GPU 3", "MIG on, no instances", "MIG on, 7g.80gb", ("destroy 7g.80gb",))
    found = mig_differences(MigState((first, second)))
    assert [difference.id for difference in found] == ["d/mig/GPU 0", "d/mig/GPU 3"]
    assert (found[0].want, found[0].have, found[0].disrupts) == ("MIG on, 2 x 3g.40gb", "MIG off", "gpu")
    assert found[0].summary == "GPU 0: enable MIG mode; create 3g.40gb"
    assert (found[0].as_diff()["before"], found[0].as_diff()["after"]) == ("a\n", "b\n")


def test_a_layout_that_cannot_be_compared_differs_and_says_why() -> None:
    [found] = mig_differences(MigState(problem="the NVIDIA driver is not loaded"))
    assert (found.id, found.want, found.have) == ("d/mig/layout", "all-balanced", "the NVIDIA driver is not loaded")
