"""The printable page of `breakglass init`, with the steps at night and this installation's names. Pure."""

from html import escape
from string import Template
from urllib.parse import urlsplit

from ..agents.pve.words import VERSION
from ..config.addresses import parse_address
from ..config.model import Address
from ..config.new_file import POWER, NewConfig
from ..config.server import is_loopback

PAGE = "night.html"
_MANY_VMS = 8  # with more VMs, they are listed in three columns of small print, so that the page fits on one sheet

_TEXT = Template("""\
<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<title>A VM does not answer</title>
<style>
@page { size: A4; margin: 10mm 14mm }
body { font: $base/1.2 sans-serif; color: #000; background: #fff; max-width: 182mm; margin: 0 auto }
h1 { font-size: 17pt; margin: 0 } h2 { font-size: 12pt; margin: 2.5mm 0 .5mm } p, ol { margin: 1mm 0 }
ol { padding-left: 6mm } li { margin: .7mm 0 }
code { font-family: monospace; font-size: .95em; overflow-wrap: anywhere }
code.line { display: block; margin: .5mm 0 .5mm 4mm }
table { border-collapse: collapse; width: 100%; margin: 1mm 0 }
td { border-top: .2mm solid #999; padding: .4mm 2mm .4mm 0; vertical-align: top; overflow-wrap: anywhere }
td:first-child { width: 42% } .words td:first-child { width: 25% }
.vms { columns: $columns; font-size: $size; margin: 1mm 0; padding: 0; list-style: none } .vms li { margin: 0 }
.blank { display: inline-block; border-bottom: .2mm solid #000; width: 65mm; height: 5mm }
footer { margin-top: 3mm; font-size: 8pt }
</style>
<h1>A VM does not answer</h1>
<h2>1. Open the page</h2>
<p><b><code>$url</code></b>, or the link in the alert. The page looks at the VM by itself. Press the filled button.</p>
<p>In a terminal instead:</p>
<code class="line">export BREAKGLASS_URL=$url</code>
<code class="line">export BREAKGLASS_SECRET_FILE=$operator.signing-key</code>
<code class="line">breakglass call forensics --vm $vm</code>
<p>It takes 20 s and changes nothing. The line below <code>$vm: …</code> says what is wrong.</p>
<h2>2. Act once</h2>
<table>
<tr><td><b>storage hung, I/O error, no quorum, /etc/pve away, locked, QEMU stopped by a signal</b>
<td><b>No power-cycle.</b> First fix that: <code>breakglass docs CODE</code>
<tr><td>the guest hangs or panicked; it is silent, and the picture shows an error
<td><code>breakglass call reset --vm $vm</code>
<tr><td>QEMU is wedged; a disk is frozen; a reset changed nothing<td><code>breakglass call cycle --vm $vm</code>
<tr><td>the VM is paused or stopped<td><code>breakglass call start --vm $vm</code>
<tr><td>healthy: nothing is wrong<td>Not the VM: look at ssh, the network, the service.
</table>
<h2>3. Read the outcome, the word after the verb: <code>cycle done</code></h2>
<table class="words">
<tr><td><b>done</b><td>The VM runs (after <code>stop</code>, it is off). After 90 s, look again.
<tr><td><b>running</b><td>The job is at work. Send the <b>same id</b> again: add <code>--id msg_…</code>
<tr><td><b>busy</b><td>Another job has the VM. Wait for it.
<tr><td><b>refused</b>, <b>unreached</b><td>The VM is unchanged. The answer says why.
<tr><td><b>failed</b><td>Read its state. With <code>stranded</code>, <b>the VM is off</b>.
<tr><td><b>unknown</b><td><b>The VM may have changed.</b> Send the <b>same id</b> again. Never a new id.
</table>
<h2>Without the page</h2>
<ol>
<li>The address fails, its machine is up: <code>ssh -L 8080:localhost:8080 $machine</code>, then
<code>http://localhost:8080/</code>
<li>The handler is down, the host is up. Use the key <code>$key</code>; a copy is at <span class="blank"></span>
<code class="line">ssh -i $power_name $login cycle vm=$vmid id=night-MMDD-HHMM</code>
For MMDD-HHMM, write the date and the time of your first try. The same line again is safe, because an id acts once.
<li>As root on the host:
<code class="line">$root</code>
<code class="line">qm status $vmid --verbose</code>
Then <code>qm reset $vmid</code>. If that changes nothing, <code>qm stop $vmid</code> (72 s if QEMU is silent) and
<code>qm start $vmid</code>.
<li>The host does not answer: use its IPMI or console, at <span class="blank"></span>
<li>Call: <span class="blank"></span>
</ol>
<h2>Names</h2>
<ul class="vms">$hosts</ul>
<ul class="vms">$vms</ul>
<footer>Made by breakglass init $version. The commands above are for $vm. After a change of an address or a VM,
correct this page. It has no key and no password.</footer>
</html>
""")


def page_text(new: NewConfig, directory: str, machine: str) -> str:
    """Return the page as HTML. `machine` is the name of the handler's machine, for a URL with a loopback address."""
    vm, first = next(iter(new.vms.items()))
    address = _address(new, first.hosts[0])
    port = "" if address.port == 22 else f"-p {address.port} "
    values = {
        "url": new.url,
        "operator": f"{directory}/{new.operator}",
        "vm": vm,
        "vmid": str(first.vmid),
        "machine": machine if is_loopback(new.url) else urlsplit(new.url).hostname or machine,
        "key": f"{directory}/{POWER}",
        "power_name": POWER,
        "login": f"{port}{address.user}@{address.host}",
        "root": f"ssh {port}root@{address.host}",
        "version": VERSION,
    }
    values["columns"], values["size"], values["base"] = (
        ("3", "7pt", "9.5pt") if len(new.vms) > _MANY_VMS else ("2", "9.5pt", "10.5pt")
    )
    lists = {
        "hosts": [f"{name}: host {_address(new, name)}" for name in new.hosts],
        "vms": [f"{name}: VM {each.vmid} on {', '.join(each.hosts)}" for name, each in new.vms.items()],
    }
    items = {name: "".join(f"<li>{escape(line)}</li>" for line in lines) for name, lines in lists.items()}
    return _TEXT.substitute({name: escape(value) for name, value in values.items()} | items)


def _address(new: NewConfig, name: str) -> Address:
    return parse_address(new.hosts[name].ssh) or Address("root", name)
