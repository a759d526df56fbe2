"""A certificate authority that lives in a folder and issues what a test needs; by the openssl program."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


@dataclass(frozen=True)
class Pair:
    """A certificate and its key."""

    certificate: Path
    key: Path


class Authority:
    """Issues certificates; `certificate` is its own."""

    def __init__(self, openssl: str, folder: Path, name: str = "authority") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._openssl = openssl
        self._folder = folder
        self.certificate, self._key = folder / f"{name}.pem", folder / f"{name}.key"
        self._run("req", "-x509", *CURVE, "-keyout", self._key, "-out", self.certificate, "-subj", f"/CN={name}")

    def issue(self, name: str, days: int = 1, usage: str = "", key: tuple[str, ...] = CURVE) -> Pair:
        """A certificate for `name` on this machine; with days = -1 it expired yesterday."""
        stem = f"{name}-{len(list(self._folder.iterdir()))}"
        request, pair = self._folder / f"{stem}.csr", Pair(self._folder / f"{stem}.pem", self._folder / f"{stem}.key")
        san = f"subjectAltName=DNS:{name},DNS:localhost,IP:127.0.0.1"
        extended = ("-addext", f"extendedKeyUsage={usage}") if usage else ()
        self._run(
            "req", *key, "-keyout", pair.key, "-out", request, "-subj", f"/CN={name}",
            "-addext", "basicConstraints=critical,CA:FALSE", "-addext", san, *extended,
        )  # fmt: skip
        self._run(
            "x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self._key, "-CAcreateserial",
            "-days", str(days), "-copy_extensions", "copyall", "-out", pair.certificate,
        )  # fmt: skip
        pair.key.chmod(0o600)
        return pair

    def revoke(self, *pairs: Pair) -> Path:
        """A revocation list that holds these."""
        settings, listed = self._folder / "ca.conf", self._folder / "revoked.pem"
        settings.write_text(f"[ca]\ndefault_ca = d\n[d]\ndatabase = {self._folder}/index\ndefault_md = sha256\n")
        (self._folder / "index").touch()
        signed = ("ca", "-config", settings, "-cert", self.certificate, "-keyfile", self._key)
        for pair in pairs:
            self._run(*signed, "-revoke", pair.certificate)
        self._run(*signed, "-gencrl", "-crldays", "1", "-out", listed)
        return listed

    def encrypt(self, pair: Pair) -> Pair:
        """The pair with its key behind a passphrase."""
        key = pair.key.with_suffix(".enc")
        self._run("pkey", "-in", pair.key, "-aes256", "-passout", "pass:secret", "-out", key)
        key.chmod(0o600)
        return Pair(pair.certificate, key)

    def _run(self, *arguments: object) -> None:
        done = subprocess.run([self._openssl, *map(str, arguments)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
