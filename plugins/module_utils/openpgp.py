# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Fingerprints of an ASCII-armoured OpenPGP public key, without gpg.

Pure. Armour: RFC 9580 section 6. Packets: section 4.2. Fingerprints: section 5.5.4 (version 4 is SHA-1 over the
packet, version 6 SHA-256). Nothing is verified here but the armour's checksum: a fingerprint tells *which* key it is.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import typing as t

PUBLIC_KEY = 6  # packet tags, RFC 9580 section 5
SHORTEST_KEY = 6  # octets: version, four of time, algorithm

_ARMOUR = re.compile(
    r"-----BEGIN PGP (?P<kind>[A-Z ]+)-----[ \t]*\r?\n(?P<body>.*?)-----END PGP (?P=kind)-----", re.DOTALL
)


class OpenPgpError(ValueError):
    """The text is not an armoured public key; the message says why, in words for the person who pasted it."""


def fingerprints(text: str) -> list[str]:
    """Return the fingerprints of all primary keys in the text, upper-case hex; raise OpenPgpError."""
    found = [_fingerprint(body) for tag, body in _packets(keyring(text)) if tag == PUBLIC_KEY]
    if not found:
        raise OpenPgpError("the block holds no primary key")
    return found


def keyring(text: str) -> bytes:
    """Return all armoured public keys in the text as one binary keyring, which gpgv reads; raise OpenPgpError."""
    blocks = list(_ARMOUR.finditer(text))
    if not blocks:
        raise OpenPgpError("no '-----BEGIN PGP PUBLIC KEY BLOCK-----' ... '-----END PGP PUBLIC KEY BLOCK-----' in it")
    for block in blocks:
        if block["kind"] != "PUBLIC KEY BLOCK":
            raise OpenPgpError(f"it is a PGP {block['kind'].lower()}, not a public key block")
    return b"".join(_unarmoured(block["body"]) for block in blocks)


def normalized(fingerprint: str) -> str:
    """Return a fingerprint as people write it (spaces, colons, 0x, lower case) as fingerprints() does."""
    text = re.sub(r"[\s:]", "", fingerprint).upper()
    return text[2:] if text.startswith("0X") else text


def key_problem(text: str, wanted: str) -> str:
    """Return why the text is not the wanted key and nothing else, naming both fingerprints, or "" when it is.

    A second key in the text is refused: a package manager would trust it just as much.
    """
    try:
        found = fingerprints(text)
    except OpenPgpError as error:
        return f"the key is not usable: {error}"
    if found == [normalized(wanted)]:
        return ""
    return f"the key has the fingerprint {' and '.join(found)}, wanted is {normalized(wanted)} alone"


def _unarmoured(body: str) -> bytes:
    """Return the octets of an armour body; headers end at the first empty line, the checksum is optional."""
    lines = [text.strip() for text in body.splitlines()]
    if "" in lines:
        lines = lines[lines.index("") + 1 :]
    checksum = [text[1:] for text in lines if text.startswith("=") and len(text) == 5]
    data = _decoded("".join(text for text in lines if text and not text.startswith("=")))
    if checksum and int.from_bytes(_decoded(checksum[0]), "big") != _crc24(data):
        raise OpenPgpError("its checksum is wrong, so a part is missing or was changed")
    return data


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise OpenPgpError(f"its base64 text is damaged ({error})") from error


def _crc24(data: bytes) -> int:
    """RFC 9580 section 6.1.1."""
    crc = 0xB704CE
    for octet in data:
        crc ^= octet << 16
        for _bit in range(8):
            crc <<= 1
            if crc & 0x1000000:
                crc ^= 0x1864CFB
    return crc


def _packets(data: bytes) -> t.Iterator[tuple[int, bytes]]:
    """Yield (tag, body) of each packet."""
    position = 0
    while position < len(data):
        header = data[position]
        if not header & 0x80:
            raise OpenPgpError(f"octet {position} does not start a packet")
        new_format = bool(header & 0x40)
        tag = header & 0x3F if new_format else (header & 0x3C) >> 2
        start, length = _new_length(data, position + 1) if new_format else _old_length(data, position + 1, header & 3)
        if start + length > len(data):
            raise OpenPgpError("it ends in the middle of a packet")
        yield tag, data[start : start + length]
        position = start + length


def _new_length(data: bytes, position: int) -> tuple[int, int]:
    """Return (start of the body, its length), RFC 9580 section 4.2.1. Keys never have partial lengths."""
    first = data[position] if position < len(data) else 0
    if first < 192:
        return position + 1, first
    if first < 224:
        return position + 2, ((first - 192) << 8) + int.from_bytes(data[position + 1 : position + 2], "big") + 192
    if first == 255:
        return position + 5, int.from_bytes(data[position + 1 : position + 5], "big")
    raise OpenPgpError("it has a packet of partial length, which no key has")


def _old_length(data: bytes, position: int, kind: int) -> tuple[int, int]:
    """Return (start of the body, its length), RFC 9580 section 4.2.2."""
    if kind == 3:
        return position, len(data) - position
    octets = 1 << kind
    return position + octets, int.from_bytes(data[position : position + octets], "big")


def _fingerprint(body: bytes) -> str:
    version = body[0] if len(body) >= SHORTEST_KEY else 0
    if version == 4:
        return hashlib.sha1(b"\x99" + len(body).to_bytes(2, "big") + body).hexdigest().upper()
    if version == 6:
        return hashlib.sha256(b"\x9b" + len(body).to_bytes(4, "big") + body).hexdigest().upper()
    raise OpenPgpError(f"it is a key of version {version}; known are 4 and 6")
