"""The configuration of each sender, complete, for this instance: what `breakglass alert-example` prints. Pure.

No secret is printed: each example says where the sender reads its own from.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping

from .rules import Rule

_SAMPLE = {"alertname": "DevvmDown"}


def example(source: str, url: str, rules: Iterable[Rule]) -> str:
    """Return what to put into the sender's configuration; `rules` are the entries that it is for."""
    return EXAMPLES[source](
        f"{url.rstrip('/')}/alert/{source}", [rule.match for rule in rules if rule.source == source]
    )


Matches = list[Mapping[str, str | re.Pattern[str]]]


def _alertmanager(url: str, matches: Matches) -> str:
    distinct = dict.fromkeys(json.dumps(_matchers(match)) for match in matches or [_SAMPLE])
    routes = "".join(_ROUTE.format(matchers=matchers) for matchers in distinct)
    return _ALERTMANAGER.format(url=url, routes=routes)


def _matchers(match: Mapping[str, str | re.Pattern[str]]) -> list[str]:
    return [
        f"{name}={json.dumps(wanted, ensure_ascii=False)}"
        if isinstance(wanted, str)
        else f"{name}=~{json.dumps(wanted.pattern, ensure_ascii=False)}"
        for name, wanted in match.items()
    ]


_ALERTMANAGER = """\
# alertmanager.yml. Merge the route and the receiver into yours; `continue` lets each alert go on to where it goes now.
# The token: breakglass keys new alertmanager --bearer
route:
  receiver: default
  routes:{routes}
receivers:
  - name: default
  - name: breakglass
    webhook_configs:
      - url: {url}
        max_alerts: 100
        http_config:
          follow_redirects: false
          authorization:
            credentials_file: /etc/alertmanager/breakglass.token
"""
_ROUTE = """
    - receiver: breakglass
      matchers: {matchers}
      group_by: [alertname]
      group_wait: 0s
      group_interval: 1m
      repeat_interval: 12h
      continue: true"""

_GRAFANA = """\
# provisioning/alerting/breakglass.yaml, for Grafana 12 or later. Send the alerts to it in a notification policy.
# Grafana's environment has BREAKGLASS_GRAFANA_SECRET: breakglass keys new grafana --grafana
apiVersion: 1
contactPoints:
  - orgId: 1
    name: breakglass
    receivers:
      - uid: breakglass
        type: webhook
        settings:
          url: {url}
          httpMethod: POST
          maxAlerts: "100"
          hmacConfig:
            secret: $BREAKGLASS_GRAFANA_SECRET
            header: X-Grafana-Alerting-Signature
            timestampHeader: X-Grafana-Alerting-Timestamp
"""

_KUMA = """\
# Settings, Notifications, Setup Notification. The token: breakglass keys new kuma --bearer
Notification Type:  Webhook
Post URL:           {url}
Request Body:       Preset - application/json
Additional Headers: {{"Authorization": "Bearer bgt_…"}}
"""

_GATUS = """\
# Gatus's configuration. Its environment has BREAKGLASS_TOKEN: breakglass keys new gatus --bearer
alerting:
  custom:
    url: {url}
    method: POST
    headers:
      Authorization: Bearer ${{BREAKGLASS_TOKEN}}
    body: |
      {{"endpoint": "[ENDPOINT_NAME]", "group": "[ENDPOINT_GROUP]", "url": "[ENDPOINT_URL]",
       "status": "[ALERT_TRIGGERED_OR_RESOLVED]"}}
endpoints:
  - name: devvm
    group: vms
    url: tcp://192.0.2.20:22
    conditions: ["[CONNECTED] == true"]
    alerts:
      - type: custom
"""

_HEALTHCHECKS = """\
# Integrations, Webhook, "Execute when a check goes down". The token: breakglass keys new healthchecks --bearer
Method:  POST
URL:     {url}
Headers: Authorization: Bearer bgt_…
Body:
{{"code": "$CODE", "name": "$NAME", "slug": "$SLUG", "tags": "$TAGS", "status": "$STATUS", "now": "$NOW"}}
"""

_PVE = """\
# Datacenter, Notifications, Add, Webhook; then a matcher with "exact:type=fencing". Proxmox VE 8.3 or later.
# The token: breakglass keys new pve --bearer
Method:  POST
URL:     {url}
Headers: Authorization  Bearer {{{{ secrets.token }}}}
Secrets: token          bgt_…
Body:
{{"fields": {{{{ json fields }}}}, "severity": "{{{{ severity }}}}", "timestamp": {{{{ timestamp }}}},
 "title": "{{{{ escape title }}}}", "message": "{{{{ escape message }}}}"}}
"""

_GENERIC = """\
# Any script. A caller that signs: breakglass keys new NAME; its secret is in a file that BREAKGLASS_SECRET_FILE names.
# The same `fingerprint` and `starts_at` are the same alert, however often it is sent.
body='{{"status": "firing", "labels": {labels},
  "fingerprint": "devvm", "starts_at": "2026-11-24T02:50:00Z"}}'
printf %s "$body" | breakglass sign | curl --fail-with-body --max-time 15 --retry 3 -H @- --data-binary "$body" \\
  {url}
"""


def _generic(url: str, matches: Matches) -> str:
    labels = {name: want if isinstance(want, str) else "…" for name, want in (*matches, {"host": "devvm"})[0].items()}
    return _GENERIC.format(url=url, labels=json.dumps(labels, ensure_ascii=False).replace("'", "'\\''"))


def _plain(template: str) -> Callable[[str, Matches], str]:
    return lambda url, _: template.format(url=url)


EXAMPLES: Mapping[str, Callable[[str, Matches], str]] = {
    "alertmanager": _alertmanager,
    "grafana": _plain(_GRAFANA),
    "kuma": _plain(_KUMA),
    "gatus": _plain(_GATUS),
    "healthchecks": _plain(_HEALTHCHECKS),
    "pve": _plain(_PVE),
    "generic": _generic,
}
