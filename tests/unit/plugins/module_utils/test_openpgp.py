# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.onprem.gpu.plugins.module_utils import openpgp

# Made with gpg 2.2 for this test; "gpg --show-keys" prints the fingerprint.
ED25519_KEY = (Path(__file__).parent / "fixtures" / "openpgp-ed25519.asc").read_text()
FINGERPRINT = "BA58A493B788F7DCF35BF85F637D54D2336C94FF"
OTHER = "34D2FF9F5DB5AEA8D0D1B359E77B816172FAD394"


def test_fingerprint_is_the_one_gpg_prints():
    assert openpgp.fingerprints(ED25519_KEY) == [FINGERPRINT]


def test_text_around_the_block_and_armour_headers_do_not_matter():
    text = (
        "pasted by mail:\n" + ED25519_KEY.replace("BLOCK-----\n\n", "BLOCK-----\nComment: x\nVersion: 1\n\n", 1) + "bye"
    )
    assert openpgp.fingerprints(text.replace("\n", "\r\n")) == [FINGERPRINT]


def test_a_missing_checksum_is_allowed():
    assert openpgp.fingerprints(ED25519_KEY.replace("=pe7T\n", "")) == [FINGERPRINT]


@pytest.mark.parametrize(
    "wanted",
    [FINGERPRINT, FINGERPRINT.lower(), "0x" + FINGERPRINT, "BA58 A493 B788 F7DC F35B  F85F 637D 54D2 336C 94FF"],
)
def test_the_wanted_fingerprint_may_be_written_as_people_do(wanted):
    assert openpgp.key_problem(ED25519_KEY, wanted) == ""


def test_another_key_is_an_error_that_names_both_fingerprints():
    problem = openpgp.key_problem(ED25519_KEY, OTHER)
    assert FINGERPRINT in problem
    assert OTHER in problem


def test_a_second_key_next_to_the_wanted_one_is_refused():
    assert openpgp.key_problem(ED25519_KEY + ED25519_KEY, FINGERPRINT)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("https://example.org/key.asc", "BEGIN PGP PUBLIC KEY BLOCK"),
        (ED25519_KEY.replace("PUBLIC KEY", "PRIVATE KEY"), "private key block"),
        (ED25519_KEY.replace("mDMEawSq", "mDMEawSr"), "checksum"),
        (ED25519_KEY.replace("F4AACgkQY31U", "F4AAC*kQY31U"), "base64"),
        (ED25519_KEY.replace("mDMEawSqnx", "mDQEawSqnx").replace("=pe7T\n", ""), "packet"),
        (ED25519_KEY.replace("mDMEawSqnx", "mDMCawSqnx").replace("=pe7T\n", ""), "version 2"),
        ("-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n-----END PGP PUBLIC KEY BLOCK-----\n", "no primary key"),
        ("-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nmDME\n-----END PGP PUBLIC KEY BLOCK-----\n", "middle of a packet"),
    ],
    ids=["url", "private", "changed", "not-base64", "length", "version", "empty", "cut"],
)
def test_what_is_no_public_key_is_an_error_that_says_why(text, says):
    with pytest.raises(openpgp.OpenPgpError, match=says):
        openpgp.fingerprints(text)
