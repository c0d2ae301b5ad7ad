# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bootstrap tokens and the cluster-info they are used with.

A token is a Secret ``bootstrap-token-<id>`` in kube-system; format and keys:
https://kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens/.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import string
import typing as t

from ansible_collections.onprem.gpu.plugins.module_utils.cluster import Cluster, ClusterError, OutcomeUnknown

try:
    import yaml
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
except ImportError:
    HAS_LIBRARIES = False
else:
    HAS_LIBRARIES = True

SECRETS = "/api/v1/namespaces/kube-system/secrets"
CLUSTER_INFO = "/api/v1/namespaces/kube-public/configmaps/cluster-info"
ALPHABET = string.ascii_lowercase + string.digits
ATTEMPTS = 3


def new_token(choose: t.Callable[[str], str]) -> str:
    """A token "<6 characters>.<16 characters>"; ``choose`` picks a character, in earnest secrets.choice."""
    characters = "".join(choose(ALPHABET) for _position in range(22))
    return f"{characters[:6]}.{characters[6:]}"


def token_secret(token: str, expires: datetime.datetime, description: str, groups: t.Sequence[str]) -> dict[str, t.Any]:
    """The Secret that makes a token good for joining, until ``expires`` (with time zone)."""
    token_id, secret = token.split(".")
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "bootstrap.kubernetes.io/token",
        "metadata": {"name": secret_name(token_id), "namespace": "kube-system"},
        "stringData": {
            "token-id": token_id,
            "token-secret": secret,
            "expiration": expires.astimezone(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "usage-bootstrap-authentication": "true",
            "usage-bootstrap-signing": "true",
            "auth-extra-groups": ",".join(groups),
            "description": description,
        },
    }


def secret_name(token_id: str) -> str:
    return f"bootstrap-token-{token_id}"


def create_token(cluster: Cluster, secret: t.Mapping[str, t.Any]) -> None:
    """Store a token. A lost answer is settled by looking. Raises ClusterError."""
    name = secret["metadata"]["name"]
    failure = "another token has the same id"
    for _attempt in range(ATTEMPTS):
        try:
            answer = cluster.request("POST", SECRETS, {"fieldValidation": "Strict"}, secret)
        except OutcomeUnknown as error:
            failure = str(error)
        else:
            if answer.status != 409:
                cluster.demand(answer, "create secrets in the namespace kube-system (the bootstrap token of this run)")
                return
        if stored_secret(cluster, secret["stringData"]["token-id"]) == secret["stringData"]["token-secret"]:
            return
    raise ClusterError("conflict", f"Could not create the bootstrap token {name} in {cluster.where}: {failure}.")


def stored_secret(cluster: Cluster, token_id: str) -> str | None:
    """The secret part of a token, None when there is no such token. Raises ClusterError."""
    name = secret_name(token_id)
    answer = cluster.get(f"{SECRETS}/{name}")
    if answer.status == 404:
        return None
    stored = cluster.demand(answer, f"get secret {name} in the namespace kube-system").get("data") or {}
    return base64.b64decode(stored.get("token-secret") or "").decode()


def delete_token(cluster: Cluster, token_id: str) -> bool:
    """Remove a token; whether there was one. A lost answer is settled by asking again. Raises ClusterError."""
    path = f"{SECRETS}/{secret_name(token_id)}"
    failure = ""
    for _attempt in range(ATTEMPTS):
        try:
            answer = cluster.request("DELETE", path)
        except OutcomeUnknown as error:
            failure = str(error)
            continue
        if answer.status == 404:
            return bool(failure)
        cluster.demand(answer, "delete secrets in the namespace kube-system (the bootstrap token of this run)")
        return True
    raise ClusterError(
        "api_unavailable",
        f"Could not delete the bootstrap token {secret_name(token_id)} in {cluster.where}: {failure}. It expires by "
        "itself.",
    )


def cluster_access(cluster: Cluster) -> dict[str, t.Any]:
    """What a joining host needs to find and trust the cluster: api_server_endpoint, ca_cert and ca_cert_hashes.

    Read from kube-public/cluster-info over the controller's trusted connection, so the hashes pin what the admin
    trusts.
    """
    answer = cluster.get(CLUSTER_INFO)
    if answer.status == 404:
        raise ClusterError(
            "not_found",
            f"{cluster.where} has no ConfigMap cluster-info in kube-public, so hosts cannot join it with kubeadm. "
            "Join them with the cluster's own tools first (k3s, RKE2 and others have theirs); they are then "
            "recognised as nodes.",
        )
    text = (cluster.demand(answer, "get configmap kube-public/cluster-info").get("data") or {}).get("kubeconfig", "")
    try:
        entry = yaml.safe_load(text)["clusters"][0]["cluster"]
        ca_cert = base64.b64decode(entry["certificate-authority-data"]).decode()
        return {
            "api_server_endpoint": endpoint(entry["server"]),
            "ca_cert": ca_cert,
            "ca_cert_hashes": public_key_hashes(ca_cert),
        }
    except (KeyError, IndexError, TypeError, ValueError, yaml.YAMLError) as error:
        raise ClusterError(
            "refused",
            f"The ConfigMap kube-public/cluster-info of {cluster.where} has no usable kubeconfig ({error!r}). Repair "
            "it with 'kubeadm init phase bootstrap-token' on a control plane host.",
        ) from error


def endpoint(server: str) -> str:
    """host:port of a server URL, as kubeadm wants it."""
    address = server.rpartition("//")[2].split("/")[0]
    return address if address.rpartition("]")[2].count(":") else f"{address}:443"


def public_key_hashes(pem: str) -> list[str]:
    """sha256 of each certificate's public key (SubjectPublicKeyInfo, DER), the form of kubeadm's caCertHashes."""
    return [
        "sha256:"
        + hashlib.sha256(
            certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        ).hexdigest()
        for certificate in x509.load_pem_x509_certificates(pem.encode())
    ]
