"""Workers on machines that ssh reaches: here this one, by a server of asyncssh's own."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress

import pytest

from mrsi_engine.engine.clusters import WORKER_ENVIRONMENT, ClusterChoice, Need, open_cluster

asyncssh = pytest.importorskip("asyncssh", reason="needs the package asyncssh")


_SHELLS = []


async def _run(process):
    """Run a command as a login shell would."""
    shell = subprocess.Popen(
        process.command,
        shell=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    _SHELLS.append(shell)
    await process.redirect(stdout=shell.stdout, stderr=shell.stderr)
    while shell.poll() is None:
        await asyncio.sleep(0.02)
    with suppress(OSError):
        await process.stdout.drain()
        process.exit(shell.returncode)


@contextmanager
def ssh_server(folder):
    """Port of a server that lets ``folder / "key"`` in and that ``folder / "known"`` knows."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    key.write_private_key(str(folder / "key"))
    key.write_public_key(str(folder / "allowed"))
    host_key = asyncssh.generate_private_key("ssh-ed25519")
    loop, started = asyncio.new_event_loop(), threading.Event()
    found = {}

    async def serve():
        found["server"] = await asyncssh.listen(
            *("127.0.0.1", 0),
            server_host_keys=[host_key],
            authorized_client_keys=str(folder / "allowed"),
            process_factory=_run,
        )
        started.set()

    def run():
        loop.run_until_complete(serve())
        loop.run_forever()

    threading.Thread(target=run, daemon=True).start()
    assert started.wait(30)
    port = found["server"].get_port()
    public = host_key.export_public_key().decode().strip()
    (folder / "known").write_text(f"[127.0.0.1]:{port} {public}\n")
    try:
        yield port
    finally:
        # A real server hangs up on what it started.
        for shell in _SHELLS:
            with suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGKILL)
        loop.call_soon_threadsafe(loop.stop)


def test_workers_come_by_ssh_with_certificates_and_environment(tmp_path):
    with ssh_server(tmp_path) as port:
        profile = tmp_path / "hosts.toml"
        profile.write_text(
            f"""
class = "distributed.SSHCluster"

[cluster]
hosts = ["127.0.0.1", "127.0.0.1", "127.0.0.1"]
remote_python = "{sys.executable}"

[cluster.connect_options]
port = {port}
client_keys = ["{tmp_path / "key"}"]
known_hosts = "{tmp_path / "known"}"
username = "anybody"

[cluster.worker_options]
nthreads = 1
"""
        )
        with open_cluster(ClusterChoice(str(profile)), Need(tmp_path / "out")) as opened:
            client = opened.client
            client.wait_for_workers(2, timeout=60)
            assert client.scheduler.address.startswith("tls://")
            assert all(worker.startswith("tls://") for worker in client.nthreads())
            for environment in client.run(lambda: dict(os.environ)).values():
                assert environment.items() >= WORKER_ENVIRONMENT.items()
