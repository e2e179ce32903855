"""What an operator's status takes while monitoring scrapes: as a rule, and without a pause over several connections."""

import http.client
import subprocess
import sys
import threading
import time

from breakglass.demo.proxmox.world import World

from ..support.service import Service
from ..support.sshd import Sshd
from .client import Keeping, millis, timed

TOKEN = "bgt_" + "m" * 43
SECONDS = 4.0
CLIENTS = 8
HEADERS = {  # as Prometheus 2.53 sends them
    "authorization": f"Bearer {TOKEN}",
    "accept": "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
    "accept-encoding": "gzip",
}
TITLES = {
    "scrape": "one scrape by itself, ms",
    "scraped_never": "an operator's status without scrapes, median, ms",
    "scraped_often": "the same with a scrape a second, median, ms",
    "scraped_flood": "the same while 8 connections scrape without a pause, median, ms",
    "scraped_flood_worst": "the same, worst, ms",
    "scrapes_answered": "scrapes answered a second meanwhile",
}


def scrape_figures(world: World, sshd: Sshd) -> dict[str, float]:
    """Return the figures of a handler with [metrics]."""
    extra = f'[metrics]\ntoken = "{TOKEN}"\n'
    host_key = [sshd.host_key]
    service = Service(world.directory, port=sshd.port, key=sshd.power_key, host_key=host_key, extra=extra)
    try:
        service.answering()
        found = {"scraped_never": millis(_statuses(service))}
        found["scrape"] = millis([_scrape_alone(service) for _ in range(10)])
        with _scraping(service, 1, 1.0):
            found["scraped_often"] = millis(_statuses(service))
        with _scraping(service, CLIENTS, 0.0) as scraping:
            samples = _statuses(service)
        found["scraped_flood"], found["scraped_flood_worst"] = millis(samples), round(max(samples) * 1000, 1)
        found["scrapes_answered"] = round(int(scraping.answered) / SECONDS, 1)
        return found
    finally:
        service.stop()


def _scrape_alone(service: Service) -> float:
    time.sleep(0.3)  # after which the one before has had its share
    return timed(lambda: service.send("GET", "/metrics", headers=HEADERS), 1, warm=0)[0]


def _statuses(service: Service) -> list[float]:
    keeping, samples, until = Keeping(service), [], time.monotonic() + SECONDS - 0.5
    keeping.status()
    while time.monotonic() < until:
        samples += timed(keeping.status, 1, warm=0)
    return samples


class _scraping:  # noqa: N801  a context, as a function would be
    """Clients in their own process."""

    answered = "0"

    def __init__(self, service: Service, clients: int, pause: float) -> None:
        self._command = [sys.executable, "-m", "tests.bench.scrapes", *map(str, (service.port, clients, pause))]

    def __enter__(self) -> "_scraping":
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self._process.stdout.readline()
        return self

    def __exit__(self, *_: object) -> None:
        self.answered = self._process.communicate()[0]


def main(port: int, clients: int, pause: float) -> None:
    """Scrape for SECONDS; print how many scrapes were answered."""
    answered = [0] * clients
    print("begun", flush=True)
    until = time.monotonic() + SECONDS

    def scrape(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        while time.monotonic() < until:
            connection.request("GET", "/metrics", headers=HEADERS)
            response = connection.getresponse()
            assert response.read()
            assert response.status == 200
            answered[number] += 1
            time.sleep(pause)

    threads = [threading.Thread(target=scrape, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(sum(answered))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
