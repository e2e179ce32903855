"""The page that `breakglass init` writes to be printed: one sheet, with the names of an installation."""

import re

import pytest

from breakglass.cli.init_page import page_text
from breakglass.config.new_file import NewConfig, NewHost, NewVm

from ..support.browser import Stage

pytestmark = pytest.mark.real("chromium")

HOSTS = {
    "pve1": NewHost("breakglass@192.0.2.10:22", "any"),
    "pve2": NewHost("root@[2001:db8::12]:2222", "any"),
    "<b>&": NewHost("breakglass@192.0.2.12:22", "any"),
}


def new_config(vms: int, url: str = "https://rescue.example.org/bg/") -> NewConfig:
    return NewConfig(url, "anna", HOSTS, {f"vm{n}": NewVm(102 + n, tuple(HOSTS)) for n in range(vms)})


@pytest.mark.parametrize("vms", [8, 45])
def test_it_is_one_sheet_of_a4(stage: Stage, vms: int) -> None:
    """Chromium prints one page, on which no name becomes markup; nothing is loaded and nothing runs."""
    text = page_text(new_config(vms), "/etc/breakglass", "rescue")
    page = stage.browser.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    try:
        page.set_content(text)
        pdf = page.pdf(prefer_css_page_size=True)
        shown = page.inner_text("body")
        marked = page.locator("script, img, link, iframe, ul b").count()
    finally:
        page.close()
    assert (len(re.findall(rb"/Type */Page\b", pdf)), asked, marked) == (1, [], 0)
    assert re.search(rb"/MediaBox \[0 0 59[45][.\d]* 84[12][.\d]*\]", pdf)
    assert "<b>&: host 192.0.2.12:22" in shown
    assert f"vm{vms - 1}: VM {101 + vms} on pve1, pve2, <b>&" in shown
    for line in (
        "export BREAKGLASS_URL=https://rescue.example.org/bg/",
        "export BREAKGLASS_SECRET_FILE=/etc/breakglass/anna.signing-key",
        "breakglass call cycle --vm vm0",
        "ssh -L 8080:localhost:8080 rescue.example.org",
        "ssh -i pve_power breakglass@192.0.2.10 cycle vm=102 id=night-MMDD-HHMM",
        "ssh root@192.0.2.10",
    ):
        assert line in shown


def test_the_commands_follow_the_address() -> None:
    """A port is in each command of ssh, and a URL on loopback is replaced by the machine's name."""
    new = NewConfig("http://localhost:8080/", "anna", HOSTS, {"mail": NewVm(7, ("pve2",))})
    text = page_text(new, "/etc/breakglass", "rescue")
    assert "ssh -i pve_power -p 2222 root@2001:db8::12 cycle vm=7 id=" in text
    assert "ssh -p 2222 root@2001:db8::12</code>" in text
    assert "ssh -L 8080:localhost:8080 rescue<" in text
