# Copyright: Contributors to the onprem.gpu collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether the user of a kubeconfig may do something, as the API server itself judges.

Pure. SelfSubjectAccessReview, authorization.k8s.io/v1: every authenticated user may ask about itself.
"""

from __future__ import annotations

import typing as t

PATH = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"

Right = t.Mapping[str, t.Any]


def reviews(right: Right) -> list[dict[str, t.Any]]:
    """Return one SelfSubjectAccessReview per verb of a right {resource, verbs, group, namespace}."""
    return [
        {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {
                "resourceAttributes": {
                    "verb": verb,
                    "group": right.get("group") or "",
                    "resource": right["resource"],
                    "namespace": right.get("namespace") or "",
                }
            },
        }
        for verb in right["verbs"]
    ]


def in_words(review: t.Mapping[str, t.Any]) -> str:
    """Return "create secrets in kube-system" for a review."""
    asked = review["spec"]["resourceAttributes"]
    resource = f"{asked['resource']}.{asked['group']}" if asked["group"] else asked["resource"]
    return f"{asked['verb']} {resource}" + (f" in {asked['namespace']}" if asked["namespace"] else "")
