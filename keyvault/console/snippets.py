"""Copy-paste snippets with the real address of a key. They name a variable for the token, never a token."""

from __future__ import annotations

from dataclasses import dataclass
from string import Template

from django.conf import settings


@dataclass(frozen=True)
class Snippet:
    """``slug`` is an id in the page, ``name`` what people call the tool."""

    slug: str
    name: str
    text: str


_CURL = """\
curl -sSf -H "X-API-Key: $$KEYTURN_TOKEN" \\
  "$url?instance=$$(hostname)"
"""

_CLI = """\
export KEYTURN_URL="$origin"
keyturn get $service $environment

# or give it to a program as $variable:
keyturn run $service:$environment:$variable -- printenv $variable
"""

_PYTHON = """\
import os, socket, httpx

answer = httpx.get(
    "$url",
    params={"instance": socket.gethostname()},
    headers={"X-API-Key": os.environ["KEYTURN_TOKEN"]},
)
answer.raise_for_status()
held = answer.json()
api_key, ask_again_after = held["key"], held["refresh_after"]  # seconds
"""

_GITHUB = """\
- name: Get the key of $service
  env:
    KEYTURN_TOKEN: $${{ secrets.KEYTURN_TOKEN }}
  run: |
    key=$$(curl -sSf -H "X-API-Key: $$KEYTURN_TOKEN" "$url?format=raw")
    echo "::add-mask::$$key"
    echo "$variable=$$key" >> "$$GITHUB_ENV"
"""

_GITLAB = """\
# KEYTURN_TOKEN: a masked variable of the project (Settings, CI/CD, Variables)
use-$service:
  script:
    - |
      $variable=$$(curl -sSf -H "X-API-Key: $$KEYTURN_TOKEN" "$url?format=raw")
      export $variable
    - echo "now call what needs $variable"
"""

_KUBERNETES = """\
apiVersion: external-secrets.io/v1
kind: SecretStore
metadata:
  name: keyturn
spec:
  provider:
    webhook:
      url: "$origin/v1/keys/{{ .remoteRef.key }}/"
      headers:
        X-API-Key: "{{ .auth.token }}"
      result:
        jsonPath: "$$.key"
      secrets:
        - name: auth
          secretRef:
            name: keyturn-token
            key: token
---
apiVersion: external-secrets.io/v1
kind: ExternalSecret
metadata:
  name: $service
spec:
  refreshInterval: 30s
  secretStoreRef:
    name: keyturn
    kind: SecretStore
  target:
    name: $service
  data:
    - secretKey: key
      remoteRef:
        key: $service/$environment
"""

_TERRAFORM = """\
# The state holds the key afterwards: keep the state encrypted.
variable "keyturn_token" {
  type      = string
  sensitive = true
}

data "http" "$name" {
  url             = "$url?format=raw"
  request_headers = { "X-API-Key" = var.keyturn_token }

  lifecycle {
    postcondition {
      condition     = self.status_code == 200
      error_message = "Keyturn answered $${self.status_code}."
    }
  }
}

locals {
  $name = sensitive(data.http.$name.response_body)
}
"""

_DOCKER = """\
$variable=$$(curl -sSf -H "X-API-Key: $$KEYTURN_TOKEN" "$url?format=raw") && export $variable
docker run --rm -e $variable your-image
"""

_TEMPLATES = (
    ("curl", "curl", _CURL),
    ("cli", "keyturn", _CLI),
    ("python", "Python", _PYTHON),
    ("github", "GitHub Actions", _GITHUB),
    ("gitlab", "GitLab CI", _GITLAB),
    ("kubernetes", "Kubernetes", _KUBERNETES),
    ("terraform", "Terraform", _TERRAFORM),
    ("docker", "Docker", _DOCKER),
)


def key_url(service: str, environment: str) -> str:
    """Where consumers ask for this key."""
    return f"{settings.KEYTURN_URL}/v1/keys/{service}/{environment}/"


def variable_of(service: str) -> str:
    """The name of an environment variable for the key of this service."""
    name = f"{service}-key".upper().replace("-", "_")
    return f"_{name}" if name[0].isdigit() else name


def snippets(service: str, environment: str) -> list[Snippet]:
    variable = variable_of(service)
    names = {
        "url": key_url(service, environment),
        "origin": settings.KEYTURN_URL,
        "service": service,
        "environment": environment,
        "variable": variable,
        "name": variable.lower(),
    }
    return [Snippet(slug, name, Template(text).substitute(names)) for slug, name, text in _TEMPLATES]
