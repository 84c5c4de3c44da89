"""One switch for TLS between client, scheduler and workers: certificates of the moment, or a folder of given ones."""

from __future__ import annotations

from pathlib import Path

from distributed.security import Security

from dpm.execute.base import ClusterError
from dpm.models.options import ClusterOptions

__all__ = ["given_security", "own_security"]

# Names of the files in ``[cluster] certificates``: the authority, and this user's certificate and key.
FILES = {"tls_ca_file": "ca.pem", "cert": "cert.pem", "key": "key.pem"}


def own_security(options: ClusterOptions) -> Security | None:
    """For a cluster that dpm starts: made for it and gone with it, unless certificates are given; None without TLS.

    Raises
    ------
    ClusterError
        If certificates cannot be made or are not there.
    """
    if not options.tls:
        return None
    if options.certificates:
        return _from_folder(Path(options.certificates))
    try:
        return Security.temporary()
    except ImportError as error:
        raise ClusterError("[cluster] tls = true needs the package cryptography: pip install 'dpm-photometry[cluster]'") from error


def given_security(options: ClusterOptions) -> Security | None:
    """For somebody's scheduler: the given certificates, else those of Dask's own configuration; None without TLS.

    Raises
    ------
    ClusterError
        If certificates are not there.
    """
    if not options.tls:
        return None
    return _from_folder(Path(options.certificates)) if options.certificates else Security(require_encryption=True)


def _from_folder(folder: Path) -> Security:
    missing = [name for name in FILES.values() if not (folder / name).is_file()]
    if missing:
        raise ClusterError(f"[cluster] certificates = {str(folder)!r}: no {', '.join(missing)} there")
    ca, certificate, key = (str(folder / name) for name in FILES.values())
    roles = {f"tls_{role}_cert": certificate for role in ("client", "scheduler", "worker")}
    roles |= {f"tls_{role}_key": key for role in ("client", "scheduler", "worker")}
    return Security(tls_ca_file=ca, require_encryption=True, **roles)
