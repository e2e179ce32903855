"""Each time outlasts the times inside it, within a program and between two, so that the right one reports a timeout."""

import re
from pathlib import Path

import breakglass.agents.pve.budget as agent
import breakglass.base.budget as handler
from breakglass import client
from breakglass.agents.pve.check import answer, reading
from breakglass.agents.pve.forensics import capture, heartbeat, screen
from breakglass.agents.pve.host.cluster import CLUSTER_SECONDS
from breakglass.agents.pve.host.vmstate import QMP_SECONDS
from breakglass.agents.pve.jobs.proven import RESTORE_SECONDS
from breakglass.agents.pve.reading import states
from breakglass.agents.pve.words import CLAIM_SECONDS, DEADLINES, LATE_SECONDS
from breakglass.base import audit
from breakglass.chat import opinion, probe, program, turn
from breakglass.cli import doctor as cli_doctor
from breakglass.doctor import alerts, chat, configuration, hosts, keys, model_api, sessions, signed
from breakglass.notify import notifier, outbox, send
from breakglass.proxmox import run
from breakglass.proxmox.connect import CONNECT_SECONDS
from breakglass.server import server, telling
from breakglass.web import alert, report

from ..support.rows import each_row

UNITS = Path(__file__).parent.parent.parent / "deploy/systemd"
PLACES = (alerts, chat, keys, model_api, sessions)  # of doctor, each with SECONDS


def unit(name: str, setting: str) -> float:
    """Return a time that systemd allows a service."""
    [seconds] = re.findall(rf"(?m)^{setting}=(\d+)$", (UNITS / name).read_text())
    return float(seconds)


READS = [DEADLINES[verb] for verb in ("status", "ping", "history", "job", "screen", "check", "states")]
STOPPING = server.ANSWER_SECONDS + server.SHUTDOWN_SECONDS + audit._STOP_SECONDS
OUTLASTS = {
    # the host agent
    "stop, its longest": (DEADLINES["stop"], agent.HA_STOP_SECONDS + agent.LADDER_SECONDS + agent.EVIDENCE_SECONDS),
    "stop by HA": (agent.HA_STOP_SECONDS, agent.QM_STOP_SECONDS),
    "start": (DEADLINES["start"], agent.QM_START_SECONDS + agent.EVIDENCE_SECONDS),
    "cycle": (DEADLINES["cycle"], DEADLINES["stop"] + agent.QM_START_SECONDS),
    "qm start": (agent.QM_START_SECONDS, agent.START_COVERED_SECONDS),
    "reset": (DEADLINES["reset"], agent.EVIDENCE_SECONDS),
    "forensics": (DEADLINES["forensics"], agent.EVIDENCE_SECONDS),
    "the steps after qm": (agent.LADDER_SECONDS, agent.QUIT_SECONDS + agent.TERM_SECONDS + agent.KILL_SECONDS),
    "a watch of the guest": (
        agent.EVIDENCE_SECONDS - capture.SCREEN_SECONDS,
        heartbeat.LONGEST_WATCH_SECONDS + heartbeat.SPARE_WATCH_SECONDS,
    ),
    "the heartbeat in a status": (DEADLINES["status"] - QMP_SECONDS, heartbeat.STATUS_SECONDS_FOR_HEARTBEAT),
    "where": (DEADLINES["where"], agent.WHERE_SECONDS),
    "ping": (DEADLINES["ping"], CLUSTER_SECONDS + RESTORE_SECONDS),
    "states": (DEADLINES["states"], states.STATES_SECONDS + states.NAMES_SECONDS),
    "a state": (states.STATE_SECONDS, QMP_SECONDS + heartbeat.STATUS_SECONDS_FOR_HEARTBEAT),
    "screen": (DEADLINES["screen"], screen.ASK_SECONDS),
    "the last look of a check": (answer.SPARE_SECONDS, max(reading.SSHD_SECONDS, reading.FILE_SECONDS)),
    "the result of a killed job": (agent.RESULT_SECONDS, agent.QUESTION_SECONDS),
    # messages
    "ten minutes for a message": (600.0, sum(outbox.TRY_AFTER) + len(outbox.TRY_AFTER) * send.SECONDS),
    "a message of a first handler": (notifier.ENDED_SECONDS, 2 * send.SECONDS),
    "a look at what no handler has sent": (notifier.LOOK_AFTER, notifier.ENDED_SECONDS),
    "the end of a capture": (notifier.CAPTURE_SECONDS, DEADLINES["forensics"]),
    "an answer that waits for its message": (telling.ANSWER_SECONDS, DEADLINES["forensics"]),
    "the end of a capture for an opinion": (opinion.CAPTURE_SECONDS, DEADLINES["forensics"]),
    # the handler, and the host agent
    "a read": (handler.FIRST_SECONDS, max(READS)),
    "a job's first stage": (handler.FIRST_SECONDS, CLAIM_SECONDS),
    "a line that waited": (handler.FIRST_SECONDS, LATE_SECONDS),
    "a job's result": (handler.GRACE_SECONDS, agent.RESULT_SECONDS),
    "the longest job": (handler.MOST_DEADLINE_SECONDS, max(DEADLINES.values()) + agent.MOST_MORE_SECONDS),
    "where it is": (handler.ASK_SECONDS, agent.WHERE_SECONDS),
    "where it was": (handler.ASK_AGAIN_SECONDS, DEADLINES["where"]),
    # a client, and the handler
    "our client": (client.SILENCE_SECONDS, 10.0),
    "a line of a stream": (10.0, run.PING_SECONDS),
    "a report": (client.SILENCE_SECONDS, report.READ_SECONDS),
    "a proxy": (60.0, run.JSON_SECONDS),
    "Alertmanager": (10.0, alert.PLAN_SECONDS + handler.ASK_SECONDS + alert.ACK_SECONDS),
    "a stop by systemd": (unit("breakglass.service", "TimeoutStopSec"), STOPPING),
    "a report by systemd": (
        unit("breakglass-report.service", "TimeoutStartSec"),
        client.REPEAT_SECONDS + client.SILENCE_SECONDS + sum(outbox.TRY_AFTER) + len(outbox.TRY_AFTER) * send.SECONDS,
    ),
    # doctor
    "doctor by systemd": (
        unit("breakglass-doctor.service", "TimeoutStartSec"),
        cli_doctor.READ_SECONDS + handler.ALL_SECONDS + handler.PROOF_SECONDS + cli_doctor.PING_SECONDS,
    ),
    "all places": (handler.ALL_SECONDS, handler.LOOK_SECONDS),
    "a probe": (program.PROBE_SECONDS, turn.SECONDS),
    "a wall": (turn.SECONDS, probe.SECONDS),
    "a probe of doctor": (handler.ALL_SECONDS, program.PROBE_SECONDS),
    "each place": (handler.ALL_SECONDS, max(place.SECONDS for place in PLACES)),
    "the disk": (handler.ALL_SECONDS, max(configuration.DISK_SECONDS, hosts.DIGEST_SECONDS)),
    "a proxy's patience": (handler.LOOK_SECONDS, handler.HOLD_SECONDS),
    "a host": (handler.LOOK_SECONDS, handler.CHECK_SECONDS),
    "a host's check": (handler.CHECK_SECONDS, DEADLINES["check"] - answer.SPARE_SECONDS),
    "a host's ping and where": (handler.READ_SECONDS, max(DEADLINES["ping"], DEADLINES["where"])),
    "a status": (signed._STATUS_SECONDS, CONNECT_SECONDS),
}


@each_row(("outer", "inner"), OUTLASTS.values())
def test_a_time_outlasts_those_inside_it(outer: float, inner: float) -> None:
    assert outer > inner
