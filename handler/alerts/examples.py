"""The complete configuration of each sender for this handler, which `breakglass alert-example` prints.

No secret is printed: each example names the place from which the sender reads it. The texts are in `templates/`.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial

from ..base.templates import fill, read_template
from .rules import Rule

Matches = list[Mapping[str, str | re.Pattern[str]]]

_SAMPLE = {"alertname": "DevvmDown"}


def example(source: str, url: str, rules: Iterable[Rule]) -> str:
    """Return the text of a sender's configuration. Of `rules`, only the sender's own entries are used."""
    matches = [rule.match for rule in rules if rule.source == source]
    return EXAMPLES[source](f"{url.rstrip('/')}/alert/{source}", matches)


def _template(name: str) -> str:
    return read_template(f"alerts/templates/{name}")


def _plain(name: str, url: str, _: Matches) -> str:
    return fill(_template(name), url=url)


def _alertmanager(url: str, matches: Matches) -> str:
    distinct = dict.fromkeys(json.dumps(_matchers(match)) for match in matches or [_SAMPLE])
    route = _template("alertmanager-route.yml").rstrip("\n")
    routes = "\n".join(fill(route, matchers=matchers) for matchers in distinct)
    return fill(_template("alertmanager.yml"), url=url, routes=routes)


def _matchers(match: Mapping[str, str | re.Pattern[str]]) -> list[str]:
    return [
        f"{name}={json.dumps(wanted, ensure_ascii=False)}"
        if isinstance(wanted, str)
        else f"{name}=~{json.dumps(wanted.pattern, ensure_ascii=False)}"
        for name, wanted in match.items()
    ]


def _generic(url: str, matches: Matches) -> str:
    labels = {name: want if isinstance(want, str) else "…" for name, want in (*matches, {"host": "devvm"})[0].items()}
    quoted = json.dumps(labels, ensure_ascii=False).replace("'", "'\\''")
    return fill(_template("generic.sh"), url=url, labels=quoted)


EXAMPLES: Mapping[str, Callable[[str, Matches], str]] = {
    "alertmanager": _alertmanager,
    "grafana": partial(_plain, "grafana.yml"),
    "kuma": partial(_plain, "kuma.txt"),
    "gatus": partial(_plain, "gatus.yml"),
    "healthchecks": partial(_plain, "healthchecks.txt"),
    "pve": partial(_plain, "pve.txt"),
    "generic": _generic,
}
