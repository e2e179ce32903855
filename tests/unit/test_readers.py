"""The descriptors of a runner and of the launcher, and the functions that read them."""

import os

from breakglass.claude.runner_io import Readers


def test_a_number_that_is_used_again_is_not_read_for_what_was_ready_before() -> None:
    """A descriptor is closed while it waits to be read, and a new one gets its number: that one has nothing to read.

    The launcher took a turn that had just begun for one that had ended, waited for its end, and took no other message.
    """
    first, second, idle = os.pipe(), os.pipe(), os.pipe()
    for _, end in (first, second):
        os.write(end, b"x")
    readers, read = Readers(), list[str]()

    def replace_second() -> None:
        read.append("first")
        readers.remove(first[0])
        readers.remove(second[0])
        os.dup2(idle[0], second[0])
        readers.add(second[0], lambda: read.append("the new one"))

    readers.add(first[0], replace_second)
    readers.add(second[0], lambda: read.append("second"))
    assert readers.poll_once(60)
    assert read == ["first"]
    for end in (*first, *second, *idle):
        os.close(end)
