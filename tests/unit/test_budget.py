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
from breakglass.proxmox import run
from breakglass.server import server
from breakglass.web import alert, report

from ..support.rows import each_row

UNITS = Path(__file__).parent.parent.parent / "deploy/systemd"


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
}


@each_row(("outer", "inner"), OUTLASTS.values())
def test_a_time_outlasts_those_inside_it(outer: float, inner: float) -> None:
    assert outer > inner
