# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a module reaches the Kubernetes API server: names and environment variables as in kubernetes.core."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  kubeconfig:
    description:
      - Path to a kubeconfig file, or its content as a dictionary.
      - The environment variable E(K8S_AUTH_KUBECONFIG) is used when the option is not set.
      - Without any of O(kubeconfig), O(context) and O(host) with credentials, the service account of the pod the
        controller runs in is used, and outside of a pod the file of E(KUBECONFIG) or C(~/.kube/config).
    type: raw
  context:
    description:
      - Context of the kubeconfig. Default is its current context.
      - The environment variable E(K8S_AUTH_CONTEXT) is used when the option is not set.
    type: str
  host:
    description:
      - URL of the API server, in place of the one in the kubeconfig.
      - The environment variable E(K8S_AUTH_HOST) is used when the option is not set.
    type: str
  api_key:
    description:
      - Bearer token.
      - The environment variable E(K8S_AUTH_API_KEY) is used when the option is not set.
    type: str
  ca_cert:
    description:
      - Path to the CA certificates the server is checked with.
      - The environment variables E(K8S_AUTH_CA_CERT) and E(K8S_AUTH_SSL_CA_CERT) are used when the option is not set.
    type: path
    aliases: [ssl_ca_cert]
  validate_certs:
    description:
      - Whether the server's certificate is checked. Default is what the kubeconfig says, which is V(true) unless it
        says otherwise.
      - The environment variables E(K8S_AUTH_VALIDATE_CERTS) and E(K8S_AUTH_VERIFY_SSL) are used when the option is not
        set.
    type: bool
    aliases: [verify_ssl]
  client_cert:
    description:
      - Path to a client certificate.
      - The environment variables E(K8S_AUTH_CLIENT_CERT) and E(K8S_AUTH_CERT_FILE) are used when the option is not set.
    type: path
    aliases: [cert_file]
  client_key:
    description:
      - Path to the key of O(client_cert).
      - The environment variables E(K8S_AUTH_CLIENT_KEY) and E(K8S_AUTH_KEY_FILE) are used when the option is not set.
    type: path
    aliases: [key_file]
  proxy:
    description:
      - URL of a proxy to reach the server through.
      - The environment variable E(K8S_AUTH_PROXY) is used when the option is not set.
    type: str
  no_proxy:
    description:
      - Hosts, domains and networks, separated by commas, that are reached without O(proxy).
      - The environment variable E(K8S_AUTH_NO_PROXY) is used when the option is not set.
    type: str
  impersonate_user:
    description:
      - User to act as.
      - The environment variable E(K8S_AUTH_IMPERSONATE_USER) is used when the option is not set.
    type: str
  impersonate_groups:
    description:
      - Groups to act as.
      - The environment variable E(K8S_AUTH_IMPERSONATE_GROUPS) is used when the option is not set; separate groups with
        commas there.
    type: list
    elements: str
requirements:
  - kubernetes (Python library) on the host the task runs on, usually the controller
notes:
  - Run it on the controller, once for all nodes, with C(delegate_to=localhost) and C(run_once=true).
  - Options common to all tasks go into C(module_defaults) for the action group C(onprem.gpu.cluster).
"""
