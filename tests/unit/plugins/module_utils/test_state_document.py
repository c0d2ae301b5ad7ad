# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest

from ansible_collections.onprem.gpu.plugins.module_utils.state_document import DocumentError, checked_documents


def problems(documents) -> list[str]:
    with pytest.raises(DocumentError) as caught:
        checked_documents(documents)
    return caught.value.problems


def test_an_empty_document_wants_nothing():
    assert checked_documents({"d": {}}) == {
        "d": {
            "packages": [],
            "files": [],
            "generated": [],
            "modules": [],
            "services": [],
            "checkpoints": [],
            "initramfs": None,
            "mig": None,
        }
    }


def test_null_sections_want_nothing():
    assert checked_documents({"d": {"packages": None, "initramfs": None}}) == checked_documents({"d": {}})


def test_what_an_item_leaves_out_is_filled_in():
    document = checked_documents(
        {"d": {"packages": [{"name": "a"}], "files": [{"path": "/f"}], "services": [{"name": "s.service"}]}}
    )["d"]
    assert document["packages"] == [
        {"name": "a", "version": None, "hold": None, "state": "present", "disrupts": "none"}
    ]
    assert document["files"] == [
        {
            "path": "/f",
            "content": "",
            "sha256": None,
            "src": None,
            "mode": "0644",
            "owner": "root",
            "group": "root",
            "state": "present",
            "first": False,
            "disrupts": "none",
        }
    ]
    assert document["services"] == [
        {
            "name": "s.service",
            "enabled": None,
            "state": None,
            "masked": None,
            "restarts_on": [],
            "disrupts": "none",
        }
    ]


def test_a_mode_of_three_digits_gets_its_fourth():
    assert checked_documents({"d": {"files": [{"path": "/f", "mode": "600"}]}})["d"]["files"][0]["mode"] == "0600"


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        (None, "documents.d is null; it must be a dictionary with the keys packages, files,"),
        ({"package": []}, "documents.d.package is not known here; the known keys are packages, files,"),
        ({"packages": {}}, "documents.d.packages is {}; it must be a list."),
        ({"packages": ["a"]}, 'documents.d.packages[0] is "a"; it must be a dictionary with the keys name, version,'),
        ({"packages": [{}]}, "documents.d.packages[0].name is missing; it must be a text that is not empty."),
        ({"packages": [{"name": ""}]}, 'documents.d.packages[0].name is ""; it must be a text that is not empty.'),
        ({"packages": [{"name": "a", "verson": "1"}]}, "documents.d.packages[0].verson is not known here;"),
        ({"packages": [{"name": "a", "version": 580.95}]}, "documents.d.packages[0].version is 580.95; it must be a"),
        ({"packages": [{"name": "a", "hold": "yes"}]}, 'documents.d.packages[0].hold is "yes"; it must be true, false'),
        (
            {"packages": [{"name": "a", "state": "latest"}]},
            'packages[0].state is "latest"; it must be one of "present"',
        ),
        ({"packages": [{"name": "a", "disrupts": "all"}]}, 'packages[0].disrupts is "all"; it must be one of "none"'),
        ({"packages": [{"name": "a"}, {"name": "a"}]}, "documents.d.packages names a more than once;"),
        ({"files": [{"path": "etc/x"}]}, 'documents.d.files[0].path is "etc/x"; it must be an absolute path.'),
        ({"files": [{"path": "/x", "mode": 420}]}, "documents.d.files[0].mode is 420; it must be four octal digits in"),
        ({"files": [{"path": "/x", "mode": "0888"}]}, 'documents.d.files[0].mode is "0888"; it must be four octal'),
        ({"files": [{"path": "/x", "content": {"a": 1}}]}, "files[0].content is {'a': 1}; it must be text."),
        ({"files": [{"path": "/x", "sha256": "abc"}]}, 'files[0].sha256 is "abc"; it must be 64 hexadecimal digits'),
        ({"generated": [{"path": "/x", "argv": "ls"}]}, 'generated[0].argv is "ls"; it must be a list of texts, the'),
        ({"generated": [{"path": "/x", "argv": []}]}, "documents.d.generated[0].argv is []; it must be a list of"),
        (
            {"modules": [{"name": "a b"}]},
            'documents.d.modules[0].name is "a b"; it must be the name of a kernel module',
        ),
        (
            {"services": [{"name": "a*.service"}]},
            'services[0].name is "a*.service"; it must be the name of one systemd',
        ),
        (
            {"services": [{"name": "a@.service"}]},
            'services[0].name is "a@.service"; it must be the name of one systemd',
        ),
        ({"services": [{"name": "a", "state": "restarted"}]}, 'state is "restarted"; it must be started, stopped, or'),
        (
            {"services": [{"name": "a", "restarts_on": "/x"}]},
            'restarts_on is "/x"; it must be a list of absolute paths',
        ),
        ({"initramfs": []}, "documents.d.initramfs is []; it must be a dictionary with the keys newer_than, disrupts."),
        ({"mig": {"config": {}}}, "documents.d.mig.selected is missing; it must be the name of a layout, as text."),
        ({"mig": {"selected": False}}, "documents.d.mig.selected is false; it must be the name of a layout, as text."),
        ({"initramfs": {"newer": []}}, "documents.d.initramfs.newer is not known here; the known keys are newer_than"),
        ({"checkpoints": [{"path": "/x", "key": "k", "value": "v"}]}, "documents.d.checkpoints[0].service is missing;"),
    ],
)
def test_a_mistake_is_named_with_its_place_and_what_is_allowed(document, problem):
    found = problems({"d": document})
    assert len(found) == 1
    assert problem in found[0]


def test_all_mistakes_are_named_at_once():
    found = problems({"a": {"file": []}, "b": {"packages": [{"name": "x", "hold": 1}, {"nmae": "y"}]}})
    assert [line.split(" ", 1)[0] for line in found] == [
        "documents.a.file",
        "documents.b.packages[0].hold",
        "documents.b.packages[1].nmae",
        "documents.b.packages[1].name",
    ]


def test_documents_must_be_named():
    assert problems([]) == ["documents is []; it must be a dictionary from names to documents."]
