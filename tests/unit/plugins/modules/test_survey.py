# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json

import pytest
from ansible.module_utils.testing import patch_module_args

from ansible_collections.onprem.gpu.plugins.modules import survey


def run(capsys, documents) -> dict:
    with patch_module_args({"documents": documents}), pytest.raises(SystemExit):
        survey.main()
    return json.loads(capsys.readouterr().out)


def test_a_document_that_wants_nothing_is_converged(capsys):
    result = run(capsys, {"empty": {}})
    assert (result["changed"], result["converged"]) == (False, True)
    assert result["documents"] == {"empty": []}
    assert result["differences"] == result["diff"] == result["disrupts"] == []


def test_differences_are_listed_together_and_by_document(capsys, tmp_path):
    missing = {"path": str(tmp_path / "missing"), "content": "text\n", "disrupts": "runtime"}
    present = {"path": str(tmp_path), "state": "absent"}
    result = run(capsys, {"a": {"files": [missing]}, "b": {"files": [present]}, "c": {}})
    assert (result["changed"], result["converged"]) == (False, False)
    assert [one["id"] for one in result["differences"]] == [f"a/file/{missing['path']}", f"b/file/{tmp_path}"]
    assert {name: len(found) for name, found in result["documents"].items()} == {"a": 1, "b": 1, "c": 0}
    assert result["disrupts"] == ["none", "runtime"]
    assert result["diff"][0]["after"] == "text\n"


def test_mistakes_in_documents_fail_with_every_place(capsys):
    result = run(capsys, {"a": {"file": [], "packages": [{"nmae": "x"}]}})
    assert result["failed"] is True
    assert [problem.split(" ", 1)[0] for problem in result["problems"]] == [
        "documents.a.file",
        "documents.a.packages[0].nmae",
        "documents.a.packages[0].name",
    ]
    assert result["msg"].startswith("The state documents have mistakes: documents.a.file is not known here;")
