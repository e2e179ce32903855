"""Claude's brief and rules: the known verbs, only commands that work, and what counts as a proposal."""

import re
from dataclasses import replace

from breakglass.base.verbs import VERBS
from breakglass.chat.brief import list_tool_rules, render_ssh_files
from breakglass.chat.events import find_proposed_verb
from breakglass.chat.program import BRIEF
from breakglass.config.model import Address, Host, Vm

from ..support.rows import each_row, read_rows

HOST = Host("pve1", Address("breakglass", "192.0.2.10"), "power")
VM = Vm("devvm", 102, (HOST,), guest=Address("claude", "192.0.2.20"), guest_key="own")
NO_KEY = replace(VM, guest_key="")
TEXT = BRIEF.read_text(encoding="utf-8")
MUTATING = {name for name, verb in VERBS.items() if verb.mutating}


def test_what_the_brief_teaches_may_run() -> None:
    """Every command of the brief has a rule. Only the guest's command has a rule without being in the brief."""
    taught = {f"Bash({command})" for command in re.findall(r"`(pve [a-z]+)`", TEXT)}
    assert taught | {"Bash(pve job:*)", "Bash(devvm:*)"} == set(list_tool_rules(VM))


def test_there_is_no_rule_for_what_is_not_there() -> None:
    """Without a guest or its key, there is no rule for the guest's command. `pve` always has one."""
    for vm in (replace(VM, guest=None), NO_KEY):
        assert "Bash(pve status)" in list_tool_rules(vm)
        assert "Bash(devvm:*)" not in list_tool_rules(vm)
        assert render_ssh_files(vm, "/turn/ssh") == {}


def test_ssh_has_the_key_to_the_guest_alone() -> None:
    """The files have the pinned host keys and the guest's key, but no key of the host."""
    pinned = replace(VM, guest_key="own\n", guest_host_keys=("ssh-ed25519 AAAA",), guest_host_cas=("ssh-rsa BBBB",))
    made = render_ssh_files(pinned, "/turn/ssh")
    assert (made["key"], set(made)) == ("own\n", {"key", "config", "known_hosts"})
    assert made["known_hosts"] == "* ssh-ed25519 AAAA\n@cert-authority * ssh-rsa BBBB\n"
    assert "IdentityFile /turn/ssh/key" in made["config"]
    assert "StrictHostKeyChecking yes" in made["config"]
    assert "StrictHostKeyChecking no" in render_ssh_files(VM, "/turn/ssh")["config"]


SAID = "Exit code 16\napproval-required: reset\nthis key reads only\n#breakglass {}"


@each_row("verb", sorted(VERBS))
def test_a_refused_verb_is_a_request(verb: str) -> None:
    """A request is exactly `pve VERB` with a verb that changes power, which ended with exit 16."""
    words = SAID.replace("reset", verb)
    assert find_proposed_verb("Bash", {"command": f"pve {verb}", "description": "x"}, False, words) == (
        verb if verb in MUTATING else None
    )


@each_row(("tool", "command", "ok", "text"), read_rows("proposals.yaml", said=SAID)["rows"])
def test_nothing_else_is_a_request(tool: str, command: object, ok: bool, text: str) -> None:
    """Another command's output, another exit code, another verb or more words are no request."""
    assert find_proposed_verb(tool, {"command": command}, ok, text) is None
