# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import pytest

from ansible_collections.onprem.gpu.plugins.module_utils.repository_access import FetchError, SignatureError
from ansible_collections.onprem.gpu.plugins.modules import repository_info

KEY = (Path(__file__).parent.parent / "module_utils" / "fixtures" / "openpgp-ed25519.asc").read_text()
URL = "http://mirror.example/deb"
PACKAGES = b"Package: kubelet\nVersion: 1.37.1-1.1\n"


class FakeAccess:
    """A repository in memory: {url: content}; signed says whether the signature is the wanted one."""

    def __init__(self, folder, files, signed=True):
        self._folder, self._files, self._signed = folder, files, signed

    def fetch(self, url):
        if url not in self._files:
            raise FetchError(f"{url}: 404 Not Found", absent=True)
        path = self._folder / str(abs(hash(url)))
        path.write_bytes(self._files[url])
        return str(path)

    def verify(self, keyring, signed, signature=None):
        if not self._signed:
            raise SignatureError("signed by the key 34D2")
        return signed, "BA58"


def flat_repository(served=None):
    """Return the files of a repository; served is the package list that is really there."""
    listed = gzip.compress(PACKAGES, mtime=0)
    release = f"Origin: x\nSHA256:\n {hashlib.sha256(listed).hexdigest()} {len(listed)} Packages.gz\n"
    return {
        f"{URL}/Release": release.encode(),
        f"{URL}/Release.gpg": b"signature",
        f"{URL}/Packages.gz": served or listed,
    }


def ask(access, packages=("kubelet",), **changes):
    repository = {"name": "kubernetes", "url": URL, "suites": "/", "components": "main", "key": KEY, **changes}
    return repository_info.answer_about(access, "apt", repository, list(packages))


def test_a_good_repository_says_who_signed_it_and_what_it_offers(tmp_path):
    answer = ask(FakeAccess(tmp_path, flat_repository()))
    assert answer == {
        "name": "kubernetes",
        "url": URL,
        "reachable": True,
        "signed_by": "BA58",
        "error": "",
        "offered": {"kubelet": ["1.37.1-1.1"]},
    }


def test_without_packages_no_list_is_fetched(tmp_path):
    files = flat_repository()
    del files[f"{URL}/Packages.gz"]
    answer = ask(FakeAccess(tmp_path, files), packages=())
    assert (answer["error"], answer["offered"]) == ("", None)


@pytest.mark.parametrize(
    ("access", "changes", "reachable", "says"),
    [
        ({"files": {}}, {}, False, "cannot fetch"),
        ({"signed": False}, {}, True, "not signed by the wanted key: signed by the key 34D2"),
        ({}, {"key": "no key"}, False, "BEGIN PGP PUBLIC KEY BLOCK"),
        ({"files": flat_repository(served=b"something else")}, {}, True, "damaged index: Packages.gz"),
    ],
    ids=["unreachable", "wrong key", "no key", "changed list"],
)
def test_what_is_wrong_is_an_error_that_offers_nothing(tmp_path, access, changes, reachable, says):
    answer = ask(FakeAccess(tmp_path, **{"files": flat_repository(), **access}), **changes)
    assert answer["reachable"] is reachable
    assert says in answer["error"]
    assert answer["offered"] is None
