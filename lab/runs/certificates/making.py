"""Making keys, requests, certificates and lists of revoked ones (X.509, RFC 5280); pure but for the draws of randomness.

ECDSA over P-256 with SHA-256, which every TLS 1.3 client has to know (RFC 8446, 9.1).  Private keys and serial numbers are
drawn through the one door of randomness; what a signature draws, OpenSSL draws.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from orchestrator.delivery.certificates import (
    CertificateError,
    Holder,
    PrivateKey,
    PublicKey,
    common_name,
    extensions_of,
    fingerprint,
    holders,
    public_key,
)
from orchestrator.randomness import random_below

AUTHORITY_LASTS = timedelta(days=3652)
CERTIFICATE_LASTS = timedelta(days=365)
CLOCKS_DIFFER = timedelta(hours=1)
"""A certificate is valid from so long ago, as the clock of its user's machine may be behind."""
CURVE_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""Of P-256 (FIPS 186-5; SEC 2, 2.4.2): private keys are 1 to one less."""
SERIAL_BITS = 126
"""Twenty bytes are allowed, and 64 bits of randomness expected (RFC 5280, 4.1.2.2)."""
SMALLEST_RSA_BITS = 2048


def make_key() -> ec.EllipticCurvePrivateKey:
    """A fresh private key."""
    return ec.derive_private_key(1 + random_below(CURVE_ORDER - 1), ec.SECP256R1())


def key_pem(key: PrivateKey) -> bytes:
    """The key as PKCS#8 in PEM form, open: its file's mode keeps it."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def pem(made: x509.Certificate | x509.CertificateSigningRequest | x509.CertificateRevocationList) -> bytes:
    """In PEM form."""
    return made.public_bytes(serialization.Encoding.PEM)


def make_authority(key: ec.EllipticCurvePrivateKey, testbed: str, at: datetime) -> x509.Certificate:
    """The authority's own certificate; its name has part of its fingerprint, so that two of a testbed differ."""
    name = _name(f"qunetlab {testbed} {fingerprint(key.public_key())[:11]}")
    builder = _builder(name, name, key.public_key(), at, at + AUTHORITY_LASTS)
    return (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )


def make_request(
    key: ec.EllipticCurvePrivateKey, name: str, holder: Holder, hosts: Sequence[str] = ()
) -> x509.CertificateSigningRequest:
    """What is carried to the authority (PKCS#10): name, public key, use, the ``hosts`` at which a node is reached."""
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(_name(name))
        .add_extension(x509.ExtendedKeyUsage([holder.value]), critical=False)
        .add_extension(_alternatives([name, *hosts]), critical=False)
        .sign(key, hashes.SHA256())
    )


def make_certificate(
    authority: x509.Certificate,
    signer: ec.EllipticCurvePrivateKey,
    key: PublicKey,
    name: str,
    holder: Holder,
    hosts: Iterable[str],
    at: datetime,
) -> x509.Certificate:
    """A certificate for a holder; it never lasts longer than its authority."""
    until = min(at + CERTIFICATE_LASTS, authority.not_valid_after_utc)
    return (
        _builder(_name(name), authority.subject, key, at, until)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([holder.value]), critical=False)
        .add_extension(_alternatives([name, *hosts]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
        .sign(signer, hashes.SHA256())
    )


def make_list(
    authority: x509.Certificate,
    signer: ec.EllipticCurvePrivateKey,
    revoked: Iterable[x509.RevokedCertificate],
    number: int,
    at: datetime,
) -> x509.CertificateRevocationList:
    """The list of revoked certificates; carried by hand, it is due anew only when its authority ends."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.subject)
        .last_update(at)
        .next_update(authority.not_valid_after_utc)
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
    )
    for each in revoked:
        builder = builder.add_revoked_certificate(each)
    return builder.sign(signer, hashes.SHA256())


def revoked_entry(serial: int, at: datetime) -> x509.RevokedCertificate:
    """An entry of the list."""
    return x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(at).build()


def check_request(request: x509.CertificateSigningRequest) -> tuple[str, Holder, list[str]]:
    """Name, holder and hosts of a request whose signature is right and whose key is strong; CertificateError.

    One that names no use is for an application: those who keep keys elsewhere make theirs with other tools.
    """
    key = public_key(request)
    if not request.is_signature_valid:
        raise CertificateError(
            "the request is not signed by the key that it names: it was changed, or cut short"
        )
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < SMALLEST_RSA_BITS:
        raise CertificateError(
            f"an RSA key of {key.key_size} bits is too short; P-256 (ECDSA) is what is made here"
        )
    extensions = extensions_of(request)
    asked = holders(extensions) or {Holder.SAE}
    if len(asked) != 1:
        raise CertificateError("the request is for an application and a node at once; make one for each")
    name = common_name(request.subject)
    return name, asked.pop(), [host for host in hosts_of(extensions) if host != name]


def hosts_of(extensions: x509.Extensions) -> list[str]:
    """The names and addresses of a certificate or a request, as text."""
    try:
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [
        *names.get_values_for_type(x509.DNSName),
        *(str(each) for each in names.get_values_for_type(x509.IPAddress)),
    ]


def _alternatives(hosts: Iterable[str]) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([_alternative(host) for host in dict.fromkeys(hosts)])


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        return x509.DNSName(host)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: PublicKey, at: datetime, until: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(1 + random_below(1 << SERIAL_BITS))
        .not_valid_before(at - CLOCKS_DIFFER)
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
