"""The script of the demo's model. Its commands really run, and their output decides the next step.

The script ignores the question. It examines the VM, states the verdict, and proposes the verb that helps.
"""

import json
from typing import Any

Json = dict[str, Any]

_WHY = {
    "reset": "The guest hangs while QEMU and its disks work, so a reset is enough.",
    "cycle": "Only a new QEMU process ends this hang.",
    "start": "It does not run, and nothing prevents a start.",
}


def next_step(words: str, number: int, shown: str) -> Json:
    """Return the next answer, given the operator's words, the number of answers since, and the last output."""
    verified = "approved it, and it ended" in words
    if number == 0:
        text = "It is done. I am checking whether it helped. " if verified else "I look at the VM first. "
        return _run("pve status", text)
    if verified:
        return {"text": f"The VM is `{_trailer(shown).get('state', 'unknown')}` now. Watch it for a while."}
    if number == 1:
        return _run("pve forensics", "Now the evidence. ")
    if number == 2:
        return _propose(_trailer(shown))
    return {"text": "That needs your approval, and nothing changes until you approve it. I am waiting."}


def _propose(trailer: Json) -> Json:
    verdict = trailer.get("verdict") or {}
    text = f"The verdict: {verdict.get('sentence', 'none, the host did not answer')}\n\n"
    text += "".join(f"- {line}\n" for line in verdict.get("evidence", ())[:4])
    verb = verdict.get("advice") or ("reset" if verdict.get("code") == "guest-silent" else "")
    if not verb:
        return {"text": f"{text}\nI have nothing to propose."}
    return _run(f"pve {verb}", f"{text}\n{_WHY.get(verb, 'The verdict advises it.')}")


def _run(command: str, text: str) -> Json:
    return {"text": text, "tool": "Bash", "input": {"command": command, "description": command}, "pace": 0.01}


def _trailer(shown: str) -> Json:
    """Return the object in the host agent's last line."""
    last = (shown.splitlines() or [""])[-1]
    try:
        found = json.loads(last.removeprefix("#breakglass "))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
