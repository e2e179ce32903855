"""Reads the payloads of the monitoring systems into alerts. Pure.

Unknown fields are allowed, because new versions of the senders add fields. If a field that is used has the wrong type,
that is an error. An alert does not fire if it is resolved, a test, or has an unknown status.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ..base.errors import BadRequest
from ..base.text import shown

Json = Mapping[str, object]

MOST_ALERTS = 1000  # of one notification; any further alert is ignored


@dataclass(frozen=True)
class Alert:
    """One alert. `match` compares its `labels`; its `annotations` only go into the job's reason.

    `fingerprint` identifies it and `starts_at` is its start; each is empty if the sender does not send it.
    """

    firing: bool
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    fingerprint: str = ""
    starts_at: str = ""


def read_payload(source: str, body: bytes) -> list[Alert]:
    """Return the alerts in a sender's payload. Raises BadRequest, naming the field, if a type is wrong."""
    return SENDERS[source](_payload(body))


def challenge_in(body: bytes) -> str:
    """Return the clock challenge in the payload of a sender that signs by Standard Webhooks, if there is one."""
    return _text(_payload(body), "challenge", "")


def _payload(body: bytes) -> Json:
    try:
        payload = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the body is not JSON: {str(error)[:120]}", SEE) from None
    return _object(payload, "the body")


SEE = "see breakglass docs alerts"
_NO_START = "0001-01-01T00:00:00Z"  # Go's zero time
_GRAFANA_TEST = "TestAlert"
_HEALTHCHECKS_TEST = {"name": "TEST"}


def _alertmanager(payload: Json) -> list[Alert]:
    """Return the alerts of Alertmanager's webhook, version 4; Grafana's has the same shape."""
    alerts = _list(payload.get("alerts"), "alerts")
    read = [_prometheus(_object(each, f"alerts[{n}]"), f"alerts[{n}].") for n, each in enumerate(alerts[:MOST_ALERTS])]
    return read + [Alert(False)] * (len(alerts) - len(read))


def _prometheus(alert: Json, path: str) -> Alert:
    start = _text(alert, "startsAt", path)
    return Alert(
        _text(alert, "status", path) == "firing",
        _labels(alert, "labels", path),
        _labels(alert, "annotations", path),
        _text(alert, "fingerprint", path),
        "" if start == _NO_START else start,
    )


def _grafana(payload: Json) -> list[Alert]:
    alerts = _alertmanager(payload)
    return [Alert(False) if alert.labels.get("alertname") == _GRAFANA_TEST else alert for alert in alerts]


def _kuma(payload: Json) -> list[Alert]:
    """Return the alert of Uptime Kuma's JSON; its test and its certificate warnings have no heartbeat or monitor."""
    if payload.get("heartbeat") is None or payload.get("monitor") is None:
        return [Alert(False)]
    heartbeat, monitor = _object(payload["heartbeat"], "heartbeat"), _object(payload["monitor"], "monitor")
    tags = [(_object(tag, f"monitor.tags[{n}]"), n) for n, tag in enumerate(_list(monitor.get("tags"), "monitor.tags"))]
    labels = {_text(tag, "name", f"monitor.tags[{n}]."): _text(tag, "value", f"monitor.tags[{n}].") for tag, n in tags}
    named = {"monitor": "name", "hostname": "hostname", "url": "url"}
    labels |= _present({label: _text(monitor, name, "monitor.") for label, name in named.items()})
    return [
        Alert(
            _number(heartbeat, "status", "heartbeat.") == 0,  # 0 down, 1 up, 2 pending, 3 maintenance
            labels,
            _present({"msg": _text(payload, "msg", "")}),
            _name_or_number(monitor, "id", "monitor."),
            _text(heartbeat, "time", "heartbeat."),
        )
    ]


def _gatus(payload: Json) -> list[Alert]:
    """Return the alert in the body that docs/alerts.md gives Gatus, which has no event and no time."""
    labels = _present({name: _text(payload, name, "") for name in ("endpoint", "group", "url")})
    annotations = _present({"description": _text(payload, "description", "")})
    which = json.dumps([labels.get("group", ""), labels.get("endpoint", "")])
    return [Alert(_text(payload, "status", "") == "TRIGGERED", labels, annotations, which)]


def _healthchecks(payload: Json) -> list[Alert]:
    """Return the alert in the body that docs/alerts.md gives Healthchecks.

    Its test is a check that is down, with the name TEST and no slug.
    """
    labels = _present({name: _text(payload, name, "") for name in ("name", "slug", "tags")})
    firing = _text(payload, "status", "") == "down" and labels != _HEALTHCHECKS_TEST
    return [Alert(firing, labels, {}, _text(payload, "code", ""), _text(payload, "now", ""))]


def _pve(payload: Json) -> list[Alert]:
    """Return the alert in the body that docs/alerts.md gives Proxmox, an event. Its test has no type."""
    fields = _object(payload.get("fields") or {}, "fields")
    labels = {name: _text(fields, name, "fields.") for name in ("type", "hostname")}
    labels["severity"] = _text(payload, "severity", "")
    annotations = _present({name: _text(payload, name, "") for name in ("title", "message")})
    which = _name_or_number(fields, "job-id", "fields.") or json.dumps([labels["type"], labels["hostname"]])
    firing = labels["type"] not in ("", "test")
    return [Alert(firing, _present(labels), annotations, which, _name_or_number(payload, "timestamp", ""))]


def _generic(payload: Json) -> list[Alert]:
    return [
        Alert(
            _text(payload, "status", "") == "firing",
            _labels(payload, "labels", ""),
            _labels(payload, "annotations", ""),
            _text(payload, "fingerprint", ""),
            _text(payload, "starts_at", ""),
        )
    ]


SENDERS: Mapping[str, Callable[[Json], list[Alert]]] = {
    "alertmanager": _alertmanager,
    "grafana": _grafana,
    "kuma": _kuma,
    "gatus": _gatus,
    "healthchecks": _healthchecks,
    "pve": _pve,
    "generic": _generic,
}


# --- Read fields: a field that is null counts as missing ---


def _object(value: object, path: str) -> Json:
    if not isinstance(value, dict):
        raise BadRequest(f"{path} is not a JSON object", SEE)
    return value


def _list(value: object, path: str) -> Sequence[object]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise BadRequest(f"{path} is not a list", SEE)
    return value


def _text(table: Json, key: str, path: str) -> str:
    value = table.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadRequest(f"{path}{shown(key)} is not text", "put it in quotes")
    return value


def _number(table: Json, key: str, path: str) -> int:
    value = table.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise BadRequest(f"{path}{key} is not a number", SEE)
    return value


def _name_or_number(table: Json, key: str, path: str) -> str:
    value = table.get(key)
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else _text(table, key, path)


def _labels(table: Json, key: str, path: str) -> Mapping[str, str]:
    labels = _object(table.get(key) or {}, f"{path}{key}")
    return {name: _text(labels, name, f"{path}{key}.") for name in labels}


def _present(labels: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in labels.items() if value}
