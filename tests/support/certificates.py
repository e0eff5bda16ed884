"""Certificates for tests, good for servers and clients."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


class Authority:
    """Signs certificates of nodes. name-ca.pem is its own."""

    def __init__(self, directory: Path, name: str):
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name} authority")])
        self.ca = directory / f"{name}-ca.pem"
        own = (
            self._builder(self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.ca.write_bytes(own.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str, address: str, is_for_clients: bool = True) -> tuple[Path, Path]:
        """A certificate for an IP address and its key: name-cert.pem and name-key.pem."""
        uses = [ExtendedKeyUsageOID.SERVER_AUTH, *([ExtendedKeyUsageOID.CLIENT_AUTH] if is_for_clients else [])]
        key = ec.generate_private_key(ec.SECP256R1())
        node = (
            self._builder(x509.Name([]), key.public_key())
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address(address))]), critical=True)
            .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        cert_path, key_path = self._directory / f"{name}-cert.pem", self._directory / f"{name}-key.pem"
        cert_path.write_bytes(node.public_bytes(serialization.Encoding.PEM))
        encoding, kind = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        key_path.write_bytes(key.private_bytes(encoding, kind, serialization.NoEncryption()))
        return cert_path, key_path

    def _builder(self, subject: x509.Name, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=1))
        )


def make_certificates(directory: Path, name: str, address: str = "127.0.0.1") -> None:
    """name-ca.pem, name-cert.pem and name-key.pem: an authority and a certificate of it for an IP address."""
    Authority(directory, name).issue(name, address)
