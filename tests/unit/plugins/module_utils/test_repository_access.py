# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest

from ansible_collections.onprem.gpu.plugins.module_utils.repository_access import (
    FetchError,
    RepositoryAccess,
    SignatureError,
)

# Status lines as gpgv 2.2.40 prints them.
GOOD = (
    "[GNUPG:] NEWSIG repo@example.org\n"
    "[GNUPG:] GOODSIG E77B816172FAD394 Example Repository <repo@example.org>\n"
    "[GNUPG:] VALIDSIG 34D2FF9F5DB5AEA8D0D1B359E77B816172FAD394 2026-11-23 1795467000 0 4 0 1 10 01 "
    "34D2FF9F5DB5AEA8D0D1B359E77B816172FAD394\n"
)
UNKNOWN_KEY = (
    "[GNUPG:] NEWSIG repo@example.org\n"
    "[GNUPG:] ERRSIG E77B816172FAD394 1 10 01 1795467000 9 34D2FF9F5DB5AEA8D0D1B359E77B816172FAD394\n"
    "[GNUPG:] NO_PUBKEY E77B816172FAD394\n"
)
CHANGED = "[GNUPG:] NEWSIG\n[GNUPG:] BADSIG E77B816172FAD394 Example Repository <repo@example.org>\n"


def access(tmp_path, *answers):
    """Return (access, the commands it will have run); each command gets the next answer (rc, stdout, stderr)."""
    waiting, commands = list(answers), []

    def run(command):
        commands.append(command)
        return waiting.pop(0)

    return RepositoryAccess(run, "apt", str(tmp_path), 5), commands


@pytest.fixture
def _gpgv_is_installed(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}" if name == "gpgv" else None)


@pytest.mark.usefixtures("_gpgv_is_installed")
def test_a_good_signature_gives_the_primary_keys_fingerprint(tmp_path):
    reader, commands = access(tmp_path, (0, GOOD, ""))
    content, fingerprint = reader.verify(b"keyring", "/x/InRelease")
    assert fingerprint == "34D2FF9F5DB5AEA8D0D1B359E77B816172FAD394"
    assert content != "/x/InRelease", "only what gpgv wrote is inside the signature"
    assert commands[0][0] == "gpgv"


@pytest.mark.usefixtures("_gpgv_is_installed")
@pytest.mark.parametrize(
    ("status", "says"),
    [
        (UNKNOWN_KEY, "signed by the key 34D2FF9F5DB5AEA8D0D1B359E77B816172FAD394"),
        (CHANGED, "changed after signing"),
        ("[GNUPG:] EXPKEYSIG E77B816172FAD394 x\n", "expired"),
        ("[GNUPG:] REVKEYSIG E77B816172FAD394 x\n", "revoked"),
        ("[GNUPG:] NODATA 4\n", "not signed"),
    ],
)
def test_any_other_signature_is_an_error_in_words(tmp_path, status, says):
    reader, _commands = access(tmp_path, (1, status, ""))
    with pytest.raises(SignatureError, match=says):
        reader.verify(b"keyring", "/x/repomd.xml", "/x/repomd.xml.asc")


@pytest.mark.usefixtures("_gpgv_is_installed")
def test_a_good_status_line_with_a_bad_exit_status_is_not_trusted(tmp_path):
    reader, _commands = access(tmp_path, (1, GOOD, ""))
    with pytest.raises(SignatureError):
        reader.verify(b"keyring", "/x/InRelease")


def test_without_a_program_that_verifies_nothing_is_trusted(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    reader, _commands = access(tmp_path)
    with pytest.raises(SignatureError, match="neither gpgv nor sqv"):
        reader.verify(b"keyring", "/x/InRelease")


def test_sequoia_verifies_where_there_is_no_gpgv(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/sqv" if name == "sqv" else None)
    reader, _commands = access(tmp_path, (0, "34D2FF9F5DB5AEA8D0D1B359E77B816172FAD394\n", ""))
    assert reader.verify(b"keyring", "/x/Release", "/x/Release.gpg")[1].startswith("34D2")


@pytest.mark.parametrize(
    ("stderr", "absent"),
    [
        ("E: Failed to fetch http://m/InRelease  404  Not Found [IP: 10.0.0.1 80]\nE: Download Failed\n", True),
        ("E: Failed to fetch http://m/InRelease  Could not resolve 'm'\nE: Download Failed\n", False),
    ],
)
def test_a_failed_download_says_why_and_whether_the_file_is_just_not_there(tmp_path, stderr, absent):
    reader, _commands = access(tmp_path, (100, "", stderr))
    with pytest.raises(FetchError) as caught:
        reader.fetch("http://m/InRelease")
    assert caught.value.absent is absent
    assert "http://m/InRelease" in str(caught.value)
