"""Who may talk to a cluster: certificates that are made for one run, or given by the user."""

from __future__ import annotations

import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from distributed.security import Security

from mrsi_engine.errors import InputError

_WHAT_TLS_NEEDS = (
    "tls:// needs three PEM files: the authority that signed the scheduler's certificate, and a "
    "certificate with its key for this client. Give --tls-ca, --tls-cert and --tls-key, or set "
    "distributed.comm.tls.{ca-file,client.cert,client.key} in Dask's configuration"
)


@dataclass(frozen=True)
class TLSFiles:
    """PEM files with which a client proves who it is, and sees who the scheduler is."""

    ca: Path
    cert: Path
    key: Path

    @classmethod
    def of(cls, ca: Path | None, cert: Path | None, key: Path | None) -> TLSFiles | None:
        """The three files, or nothing if none is given.

        Raises
        ------
        InputError
            If only some are given, one is missing, or others of this machine may read the key.
        """
        given = {"--tls-ca": ca, "--tls-cert": cert, "--tls-key": key}
        missing = [name for name, path in given.items() if path is None]
        if ca is None or cert is None or key is None:
            if len(missing) == len(given):
                return None
            raise InputError(f"{' and '.join(missing)} missing: {_WHAT_TLS_NEEDS}")
        return cls(ca, cert, key).check()

    def check(self) -> TLSFiles:
        """These files, once they are known to be there and the key to be private.

        Raises
        ------
        InputError
            If a file is missing, or others of this machine may read the key.
        """
        for path in (self.ca, self.cert, self.key):
            if not path.is_file():
                raise InputError(f"{path}: no such file; {_WHAT_TLS_NEEDS}")
        with suppress(NotImplementedError):
            mode = self.key.stat().st_mode
            if mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise InputError(
                    f"{self.key}: others may read this key (mode {stat.filemode(mode)}), and who "
                    f"has it may run code as you; close it with: chmod 600 {self.key}"
                )
        return self

    @property
    def security(self) -> Security:
        """As Dask takes them."""
        return Security(
            tls_ca_file=str(self.ca),
            tls_client_cert=str(self.cert),
            tls_client_key=str(self.key),
            require_encryption=True,
        )


def made_for(folder: Path) -> Security:
    """Certificates made for one cluster, in files of a folder that only their owner may read.

    Workers elsewhere read them there: in the folder of a run, which all share.
    """
    made = Security.temporary().get_tls_config_for_role("scheduler")
    paths = {}
    for name in ("ca_file", "cert", "key"):
        path = folder / f"{name}.pem"
        path.touch(mode=stat.S_IRUSR | stat.S_IWUSR)
        path.write_text(made[name], encoding="utf-8")
        paths[name] = str(path)
    roles = {
        f"tls_{role}_{name}": paths[name]
        for role in ("scheduler", "worker", "client")
        for name in ("cert", "key")
    }
    return Security(tls_ca_file=paths["ca_file"], require_encryption=True, **roles)


def settings_of(security: Security) -> dict[str, object]:
    """Certificates as settings of Dask, for processes that take theirs from there."""
    keys: dict[str, object] = {
        "distributed.comm.require-encryption": True,
        "distributed.comm.tls.ca-file": security.tls_ca_file,
    }
    for role in ("scheduler", "worker", "client"):
        for name in ("cert", "key"):
            value = getattr(security, f"tls_{role}_{name}")
            keys[f"distributed.comm.tls.{role}.{name}"] = value
    return keys


def security_of(address: str, files: TLSFiles | None) -> Security | None:
    """How to talk to a scheduler at an address: with these files, or those of Dask's configuration.

    Raises
    ------
    InputError
        If the address asks for certificates and there are none, or the other way round.
    """
    secure = address.partition("://")[0] in ("tls", "wss")
    if files is not None and not secure:
        raise InputError(
            f"{address}: certificates are given, but this address does not ask for any; write "
            "tls:// if its scheduler does"
        )
    if files is not None:
        return files.check().security
    configured = Security()
    if secure and not (configured.tls_ca_file and configured.tls_client_cert):
        raise InputError(f"{address}: no certificates; {_WHAT_TLS_NEEDS}")
    return None
