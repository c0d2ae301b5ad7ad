# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tokens as kubeadm wants them, the cluster's address and CA, and what a lost answer means."""

from __future__ import annotations

import base64
import datetime
from pathlib import Path

import pytest
import yaml

from ansible_collections.onprem.gpu.plugins.module_utils.bootstrap import (
    cluster_access,
    create_token,
    delete_token,
    endpoint,
    new_token,
    token_secret,
)
from ansible_collections.onprem.gpu.plugins.module_utils.cluster import Answer, Cluster, ClusterError, Lost

EXPIRES = datetime.datetime(2026, 1, 1, 12, 15, tzinfo=datetime.timezone(datetime.timedelta(hours=2)))
GROUPS = ["system:bootstrappers:a", "system:bootstrappers:b"]
SECRET = token_secret("abcdef.0123456789abcdef", EXPIRES, "for a test", GROUPS)


class SecretStore:
    """An API server with nothing but secrets; ``lost`` answers get lost after the request was carried out."""

    where = "https://192.0.2.10:6443"

    def __init__(self, lost=0, cluster_info=None):
        self.secrets = {}
        self.lost = lost
        self.cluster_info = cluster_info

    def send(self, method, path, headers, body):
        answer = self.handle(method, path.split("?")[0], body)
        if method != "GET" and self.lost:
            self.lost -= 1
            raise Lost("reset")
        return answer

    def handle(self, method, path, body):
        if "configmaps" in path:
            return Answer(200, self.cluster_info) if self.cluster_info else Answer(404, {"message": "not found"})
        if method == "POST":
            if self.secrets:
                return Answer(409, {"message": "exists"})
            self.secrets["bootstrap-token-abcdef"] = {
                "data": {"token-secret": base64.b64encode(b"0123456789abcdef").decode()}
            }
            return Answer(201, {"kind": "Secret"})
        name = path.rsplit("/", 1)[1]
        if name not in self.secrets:
            return Answer(404, {"message": "not found"})
        return Answer(200, self.secrets.pop(name) if method == "DELETE" else self.secrets[name])

    def renew(self):
        pass


def connected(store):
    return Cluster(store, sleep=lambda seconds: None)


def test_a_token_has_the_form_kubeadm_wants():
    letters = iter("abcdefghijklmnopqrstuv")
    assert new_token(lambda alphabet: next(letters)) == "abcdef.ghijklmnopqrstuv"


def test_the_secret_says_what_the_token_may_do_and_for_how_long():
    assert SECRET["type"] == "bootstrap.kubernetes.io/token"
    assert SECRET["metadata"] == {"name": "bootstrap-token-abcdef", "namespace": "kube-system"}
    assert SECRET["stringData"] == {
        "token-id": "abcdef",
        "token-secret": "0123456789abcdef",
        "expiration": "2026-01-01T10:15:00Z",
        "usage-bootstrap-authentication": "true",
        "usage-bootstrap-signing": "true",
        "auth-extra-groups": "system:bootstrappers:a,system:bootstrappers:b",
        "description": "for a test",
    }


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_token_is_made_once_however_many_answers_get_lost(lost):
    store = SecretStore(lost=lost)
    create_token(connected(store), SECRET)
    assert list(store.secrets) == ["bootstrap-token-abcdef"]


def test_a_token_id_that_is_taken_is_an_error():
    store = SecretStore()
    store.secrets["bootstrap-token-abcdef"] = {"data": {"token-secret": base64.b64encode(b"another").decode()}}
    with pytest.raises(ClusterError, match="same id"):
        create_token(connected(store), SECRET)


@pytest.mark.parametrize("lost", [0, 1])
def test_deleting_tells_whether_there_was_a_token(lost):
    store = SecretStore()
    create_token(connected(store), SECRET)
    store.lost = lost
    assert delete_token(connected(store), "abcdef") is True
    assert store.secrets == {}
    assert delete_token(connected(store), "abcdef") is False


# --- cluster-info ---


# A CA as kubeadm init makes it, and what openssl says of it, the way kubeadm's documentation computes the hash:
# openssl x509 -pubkey -in FILE | openssl pkey -pubin -outform der | openssl dgst -sha256
CA = (Path(__file__).parent / "fixtures" / "kubeadm-1.37-ca.crt").read_text()
CA_HASH = "sha256:b1007b1a003447df3e9469f83383e9ac37f375d9af8a03d43c16abaf4ab094b9"


def cluster_info(pem, server="https://192.0.2.10:6443"):
    data = {"server": server, "certificate-authority-data": base64.b64encode(pem.encode()).decode()}
    return {"data": {"kubeconfig": yaml.safe_dump({"clusters": [{"name": "", "cluster": data}]})}}


def test_address_and_ca_come_from_cluster_info():
    access = cluster_access(connected(SecretStore(cluster_info=cluster_info(CA))))
    assert access == {"api_server_endpoint": "192.0.2.10:6443", "ca_cert": CA, "ca_cert_hashes": [CA_HASH]}


def test_a_cluster_that_is_not_kubeadms_says_how_hosts_join_it():
    with pytest.raises(ClusterError, match="cluster's own tools"):
        cluster_access(connected(SecretStore()))


@pytest.mark.parametrize("data", [{"kubeconfig": ""}, {"kubeconfig": "clusters: []"}, {"kubeconfig": "a: {"}, {}])
def test_a_broken_cluster_info_is_told_apart(data):
    with pytest.raises(ClusterError, match="no usable kubeconfig"):
        cluster_access(connected(SecretStore(cluster_info={"data": data})))


@pytest.mark.parametrize(
    ("server", "expected"),
    [
        ("https://192.0.2.10:6443", "192.0.2.10:6443"),
        ("https://api.example.com", "api.example.com:443"),
        ("https://api.example.com:8443/k8s", "api.example.com:8443"),
        ("https://[2001:db8::1]:6443", "[2001:db8::1]:6443"),
        ("https://[2001:db8::1]", "[2001:db8::1]:443"),
    ],
)
def test_the_address_always_has_a_port(server, expected):
    assert endpoint(server) == expected
