"""How the handler is run decides which commands the fixes name."""

from breakglass.base.manager import find_manager, is_handler

from ..support.rows import each_row

HANDLER = ["/usr/bin/python3", "-P", "/opt/breakglass/bin/breakglass", "serve", ""]
OTHERS = {1: ["/sbin/init"], 7: ["vi", "breakglass"], 8: ["sh", "-c", "breakglass serve"], 9: ["breakglass", "doctor"]}
POD = {"KUBERNETES_SERVICE_HOST": "192.0.2.1"}


RELOADS = [
    (True, OTHERS, {}, "systemctl reload breakglass"),
    (False, {1: HANDLER}, {}, "podman kill --signal HUP breakglass"),
    (False, {**OTHERS, 12: HANDLER}, {}, "kill -HUP 12"),
    (False, {12: HANDLER, 13: HANDLER}, {}, "kill -HUP PID"),
    (False, OTHERS, {}, "systemctl reload breakglass (without systemd: kill -HUP PID)"),
    (False, {1: HANDLER}, POD, "kubectl -n breakglass rollout restart deployment/breakglass"),
]


@each_row("is_booted, commands, variables, expected", RELOADS)
def test_the_commands_are_those_of_this_machine(
    is_booted: bool, commands: dict[int, list[str]], variables: dict[str, str], expected: str
) -> None:
    """A pod is rolled out for a start, too."""
    found = find_manager(is_booted, commands, variables)
    assert found.reload == expected
    if variables:
        assert (found.start, found.restart, found.log.split()[0]) == (expected, expected, "kubectl")


@each_row("words", list(OTHERS.values()))
def test_another_process_is_no_handler(words: list[str]) -> None:
    """A reload sends it SIGHUP, which ends most programs."""
    assert not is_handler(words)
    assert is_handler(HANDLER)
    assert is_handler(["python", "current/handler", "serve"])
