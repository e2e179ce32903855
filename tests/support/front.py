"""nginx and Caddy in front of a handler, as deploy/ has them, with TLS by a certificate authority of the tests' own."""

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from .certificates import make_certificate
from .ports import reserve_port
from .sshd import wait_listening

DEPLOY = Path(__file__).parent.parent.parent / "deploy"
NAME = "rescue.example.org"
NGINX = """
daemon off;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
worker_processes 1;
{user}
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    {server}
}}
"""
PLAIN_NGINX = """server {{
    listen 127.0.0.1:{port} ssl;
    ssl_certificate {directory}/certificate.pem;
    ssl_certificate_key {directory}/key.pem;
    location / {{ proxy_pass http://127.0.0.1:{backend}; }}
}}"""
CADDY = "{\n\tadmin off\n\tauto_https disable_redirects\n}\n"


@dataclass(frozen=True)
class Front:
    """A running proxy and its address."""

    name: str
    port: int
    ca: Path

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}/"

    def curl(self, path: str, *options: str, version: str = "--http2") -> list[str]:
        """Return the command line of curl for a request over TLS 1.3, from another address than the proxy's."""
        of_tls = ["--cacert", str(self.ca), "--tlsv1.3", version]
        return [
            "curl",
            "-sS",
            "-N",
            "--max-time",
            "120",
            "-4",
            "--interface",
            "127.0.0.2",
            *of_tls,
            *options,
            self.url + path,
        ]


def replaced(text: str, changes: Sequence[tuple[str, str]]) -> str:
    """Return a text with these replacements. Fail if one of them does not occur in the text."""
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    return text


def nginx_server(name: str, directory: Path, port: int, backend: int) -> str:
    """Return a server block: deploy/nginx's, the same with its sub-path, or one with only proxy_pass."""
    if name == "plain nginx":
        return PLAIN_NGINX.format(port=port, directory=directory, backend=backend)
    changes = [
        ("listen 443 ssl;", f"listen 127.0.0.1:{port} ssl;"),
        ("listen [::]:443 ssl;", ""),
        (f"/etc/letsencrypt/live/{NAME}/fullchain.pem", f"{directory}/certificate.pem"),
        (f"/etc/letsencrypt/live/{NAME}/privkey.pem", f"{directory}/key.pem"),
        (NAME, "localhost"),
        ("location / {", f"{(DEPLOY / 'nginx/sub-path.conf').read_text()}\nlocation / {{"),
        ("127.0.0.1:8080", f"127.0.0.1:{backend}"),
    ]
    return replaced((DEPLOY / "nginx/breakglass.conf").read_text(), changes)


def caddy_site(directory: Path, port: int, backend: int) -> str:
    """Return deploy/caddy's site with its sub-path."""
    changes = [
        (f"{NAME} {{", f"localhost:{port} {{\n\tbind 127.0.0.1\n{(DEPLOY / 'caddy/sub-path.Caddyfile').read_text()}"),
        *caddy_changes(),
        ("\ttls {", f"\ttls {directory}/certificate.pem {directory}/key.pem {{"),
        ("127.0.0.1:8080", f"127.0.0.1:{backend}"),
    ]
    return CADDY + replaced((DEPLOY / "caddy/Caddyfile").read_text(), changes)


def caddy_changes() -> list[tuple[str, str]]:
    """Return the changes that deploy/caddy's comments ask for, for the version of this machine's Caddy."""
    version = subprocess.run(["caddy", "version"], check=True, capture_output=True, text=True).stdout
    found = tuple(map(int, version.split()[0].removeprefix("v").split(".")[:3]))
    return [] if found < (2, 7, 6) else [("buffer_requests", "request_buffers unlimited")]


@contextmanager
def front(name: str, directory: Path, backend: int) -> Iterator[Front]:
    """Run `nginx`, `plain nginx` or `caddy` in a new directory, in front of a port."""
    make_certificate(directory)
    port = reserve_port()
    if name == "caddy":
        running = run_caddy(directory, port, caddy_site(directory, port, backend))
    else:
        running = run_nginx(directory, port, nginx_server(name, directory, port, backend))
    with running:
        yield Front(name, port, directory / "ca.pem")


def run_caddy(directory: Path, port: int, site: str) -> AbstractContextManager[None]:
    """Run a Caddy with one site."""
    file = directory / "Caddyfile"
    file.write_text(site)
    return _running(directory, port, ["caddy", "run", "--adapter", "caddyfile", "--config", str(file)])


def run_nginx(directory: Path, port: int, server: str) -> AbstractContextManager[None]:
    """Run an nginx with one server block."""
    file = directory / "nginx.conf"
    user = "user root;" if os.geteuid() == 0 else ""
    file.write_text(NGINX.format(directory=directory, user=user, server=server))
    return _running(directory, port, ["nginx", "-p", str(directory), "-c", str(file), "-e", f"{directory}/error.log"])


@contextmanager
def _running(directory: Path, port: int, command: list[str]) -> Iterator[None]:
    environment = {**os.environ, "HOME": str(directory), "XDG_DATA_HOME": str(directory)}
    with (directory / "log").open("wb") as log, subprocess.Popen(command, env=environment, stderr=log) as process:
        try:
            wait_listening(port, process, directory / "log")
            yield
        finally:
            process.terminate()
