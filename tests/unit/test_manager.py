"""How the handler is run decides which commands the fixes name, and one module knows these commands."""

from breakglass.base.manager import find_manager, is_handler

from ..support.rows import each_row

HANDLER = ["/usr/bin/python3", "-P", "/opt/breakglass/bin/breakglass", "serve", ""]
OTHERS = {1: ["/sbin/init"], 7: ["vi", "breakglass"], 8: ["sh", "-c", "breakglass serve"], 9: ["breakglass", "doctor"]}
POD = {"KUBERNETES_SERVICE_HOST": "192.0.2.1"}


@each_row(
    ("is_booted", "commands", "environment", "expected"),
    [
        (True, OTHERS, {}, ("systemctl start breakglass", "systemctl reload breakglass", "journalctl -u breakglass")),
        (
            False,
            {1: HANDLER},
            {},
            ("podman start breakglass", "podman kill --signal HUP breakglass", "podman logs breakglass"),
        ),
        (False, {**OTHERS, 12: HANDLER}, {}, ("breakglass serve", "kill -HUP 12", "the output of breakglass serve")),
        (False, {**OTHERS, 12: HANDLER}, POD, ("breakglass serve", "kill -HUP 12", "the output of breakglass serve")),
        (
            False,
            {12: HANDLER, 13: HANDLER},
            {},
            ("breakglass serve", "kill -HUP PID", "the output of breakglass serve"),
        ),
        (
            False,
            OTHERS,
            {},
            (
                "systemctl start breakglass (without systemd: breakglass serve)",
                "systemctl reload breakglass (without systemd: kill -HUP PID)",
                "journalctl -u breakglass (without systemd: the output of breakglass serve)",
            ),
        ),
    ],
)
def test_the_commands_are_those_of_this_machine(
    is_booted: bool, commands: dict[int, list[str]], environment: dict[str, str], expected: tuple[str, str, str]
) -> None:
    found = find_manager(is_booted, commands, environment)
    assert (found.start, found.reload, found.log) == expected


def test_a_pod_is_rolled_out() -> None:
    found = find_manager(False, {1: HANDLER}, POD)
    assert {found.start, found.reload, found.restart} == {"kubectl -n breakglass rollout restart deployment/breakglass"}
    assert found.log == "kubectl -n breakglass logs deployment/breakglass"


@each_row("words", list(OTHERS.values()))
def test_another_process_is_no_handler(words: list[str]) -> None:
    """A reload sends it SIGHUP, which ends most programs."""
    assert not is_handler(words)
    assert is_handler(HANDLER)
    assert is_handler(["python", "current/handler", "serve"])
