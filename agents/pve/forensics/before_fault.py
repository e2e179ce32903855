"""What Proxmox's statistics of the last hour show from before a fault: at most three lines, with times. Pure.

pvestatd takes a sample every 10 s, and rrdcached keeps an average for each minute, named by the minute's beginning
(pve-cluster 9.1.6, PVE/RRD.pm). A sample that it did not take is missing in the row. Since PVE 9 a row has the pressure
on the VM's own processes, in percent of the time (qemu-server 9.2.6, `vmstatus`).
"""

import json

MOST_BEFORE = 3
_MINUTE = 60.0
_ENDED = 3 * _MINUTE  # a healthy host's answer may lack the newest minute
_QUIET = 2 * _MINUTE
_PRESSED = 20.0
_FULL, _FREE = 0.97, 0.9  # of the VM's memory; the guest's cache counts as used, so a healthy guest often has 0.95
_PRESSURES = {"pressureiosome": "disks", "pressurememorysome": "memory", "pressurecpusome": "a processor"}

Sample = tuple[float, float]


def before_lines(text: str, now: float) -> list[str]:
    """Return the lines on pvesh's rrddata: when it ended, and when disk writes, pressure and memory changed."""
    try:
        rows = [row for row in json.loads(text) if len(row) > 1 and isinstance(row.get("time"), int | float)]
    except (ValueError, TypeError, AttributeError):
        return []
    lines = [*_end_line(rows, now), *_write_line(rows, now), *_pressure_line(rows, now), *_memory_line(rows, now)]
    return lines[:MOST_BEFORE]


def moment(at: float, now: float) -> str:
    """Return a time of the last 24 hours, as `02:48 UTC (17 min ago)`."""
    minutes = max(0, int(now - at)) // 60
    age = f"{minutes} min" if minutes < 120 else f"{minutes // 60} h"
    return f"{clock(at)} ({age} ago)"


def clock(at: float) -> str:
    """Return a time of day in UTC, because host, guest and reader may be in several zones."""
    hours, seconds = divmod(int(at) % 86400, 3600)
    return f"{hours:02}:{seconds // 60:02} UTC"


def _samples(rows: list[dict[str, float]], name: str) -> list[Sample]:
    return [(row["time"], row[name]) for row in rows if isinstance(row.get(name), int | float)]


def _end_line(rows: list[dict[str, float]], now: float) -> list[str]:
    end = rows[-1]["time"] + _MINUTE if rows else now
    if now - end < _ENDED:
        return []
    return [f"Proxmox's statistics of the VM end at {moment(end, now)}, so pvestatd, which takes them, may hang"]


def _write_line(rows: list[dict[str, float]], now: float) -> list[str]:
    samples = _samples(rows, "diskwrite")
    wrote = [at for at, rate in samples if rate > 0]
    if not wrote or samples[-1][0] - wrote[-1] < _QUIET:
        return []
    return [f"Proxmox's statistics show no disk write since {moment(wrote[-1] + _MINUTE, now)}"]


def _pressure_line(rows: list[dict[str, float]], now: float) -> list[str]:
    parts = []
    for name, words in _PRESSURES.items():
        samples = _samples(rows, name)
        if high := _last_high(samples, _PRESSED):
            most = max(part for _, part in high)
            parts.append(f"for {words} up to {most:.0f} % of the time {_span(high, samples, now)}")
    return [f"the VM's processes waited {', and '.join(parts)}"] if parts else []


def _memory_line(rows: list[dict[str, float]], now: float) -> list[str]:
    sizes = dict(_samples(rows, "maxmem"))
    samples = [(at, used / sizes[at]) for at, used in _samples(rows, "mem") if sizes.get(at)]
    high = _last_high(samples, _FULL)
    if not high or not any(part < _FREE for at, part in samples if at < high[0][0]):
        return []  # the guest's memory was always full, which is usual because the guest's cache counts as used
    return [f"the guest's memory was full, its cache counted, {_span(high, samples, now)}"]


def _last_high(samples: list[Sample], limit: float) -> list[Sample]:
    """Return the last samples in a row that reach a limit; none for a single one."""
    high: list[Sample] = []
    for sample in reversed(samples):
        if sample[1] >= limit:
            high.insert(0, sample)
        elif len(high) > 1:
            break
        else:
            high = []
    return high if len(high) > 1 else []


def _span(part: list[Sample], samples: list[Sample], now: float) -> str:
    began, ended = part[0][0], part[-1][0]
    if ended == samples[-1][0]:
        return f"since {'before ' if began == samples[0][0] else ''}{moment(began, now)}"
    return f"from {clock(began)} to {moment(ended + _MINUTE, now)}"
