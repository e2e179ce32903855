"""What a reader costs that asks for a large picture 300 times and reads no answer: an operator's reset, memory."""

import time
from contextlib import ExitStack
from pathlib import Path

from breakglass.client import new_id

from ..handler.test_unread_answers import PICTURE, ask
from ..support.scripted import Scripted, result, scripted_host
from ..support.service import Service
from ..support.stages import until
from .client import resident_kib

READERS = 300
TITLES = {
    "unread_reset": "300 requests for a picture, unread: an operator's reset, ms (wanted: under 1000)",
    "unread_mib": "300 requests for a picture, unread: resident memory, MiB (wanted: at most 130)",
}


def unread_figures(directory: Path) -> dict[str, float]:
    """Return the figures. The reset is sent at the moment at which all answers are due."""
    with scripted_host(directory) as (world, sshd), ExitStack() as ends:
        script = Scripted(world)
        job = [{"wait": "go"}, result(whole_job={"id": "x", "screen_png": PICTURE})]
        script.say([("job", job), ("ping", [result(vms="102")]), ("", [result(jobs=[])])])
        service = Service(directory, port=sshd.port, key=sshd.power_key, host_key=[sshd.host_key])
        ends.callback(service.stop)
        service.answering()
        name = new_id()
        for _ in range(READERS):
            ends.enter_context(ask(service, name, ""))
        until(lambda: script.asked("job"), "the question to the host")
        script.let_go("go")
        began = time.perf_counter()
        assert service.pve("reset").json["outcome"] == "done"
        taken = time.perf_counter() - began
        until(lambda: service.log().count('"history"') >= READERS, "the answers")
        resident = resident_kib(service.process.pid)
        return {"unread_reset": round(taken * 1000, 1), "unread_mib": round(resident / 1024, 1)}
