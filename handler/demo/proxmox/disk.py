"""The VM's disk: a boot sector with a program for each scenario. Pure."""

# Prints the text after it and halts, so that the console picture is not empty.
_PRINTER = bytes.fromhex("31C08ED8BE197CFCAC84C07409B40EBB0700CD10EBF2F4EBFD")
# Reads the disk ten times at each tick of the timer and halts between: a frozen disk has a request in flight, and a
# sound one does not keep a processor of this machine busy.
_READER = bytes.fromhex("31C08EC0BB007EBD0A00B80102B9010030F6CD134D75F3FBF4EBEC")
# Reads the second sector in a loop, which the firmware does not read by itself.
_SECOND_READER = _READER.replace(bytes.fromhex("B90100"), bytes.fromhex("B90200"))
# Tells the pvpanic device that its kernel has panicked.
_PANICKER = bytes.fromhex("BA0505B001EEFAF4EBFC")

_PROGRAMS = {
    "healthy": _READER,
    "disk-frozen": _READER,
    "io-error": _SECOND_READER,
    "guest-panicked": _PANICKER,
}


def make_disk(scenario: str) -> bytes:
    """Return the disk of a scenario, with a boot sector of 512 bytes."""
    code = _PROGRAMS.get(scenario, _PRINTER + b"devvm login: \0")
    return code.ljust(510, b"\0") + b"\x55\xaa" + bytes(1 << 20)
