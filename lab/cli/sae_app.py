"""``qunetlab sae``: certificates of the applications that draw keys, and of the nodes that serve them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lab.cli.options import AuthorityKeyOption, FolderOption, Json

sae_app = typer.Typer(
    no_args_is_help=True,
    help="Certificates of applications (SAE) that draw keys by ETSI GS QKD 014, and of the nodes that serve them: private keys "
    "are made where they are used (request), signed where the authority is (approve), and put in place (install).",
)

NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="SAE id of the application; a user with --kme.")
]
Kme = Annotated[
    bool, typer.Option("--kme", help="The certificate with which this user's node serves, instead.")
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


@sae_app.command()
def request(
    name: NameArgument,
    kme: Kme = False,
    host: Annotated[
        list[str] | None,
        typer.Option(
            help="With --kme: another name or address by which applications reach the node; repeatable."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the application's key and certificate; default: sae-NAME here."),
    ] = None,
    testbed: FolderOption = Path(),
) -> None:
    """Make a private key on this machine, and the request that is carried to where certificates are approved."""
    from lab.cli.sae import request_certificate

    if (kme and out) or (host and not kme):
        raise typer.BadParameter("--out is for applications, --host for nodes (--kme)")
    raise typer.Exit(request_certificate(name, testbed, out, host or [], kme=kme))


@sae_app.command()
def approve(
    request: Annotated[
        Path, typer.Argument(metavar="REQUEST", help="What `sae request` wrote (PKCS#10, PEM).")
    ],
    yes: Yes = False,
    out: Annotated[
        Path | None, typer.Option(help="The file to carry back; default: sae-NAME.pem here.")
    ] = None,
    authority_key: AuthorityKeyOption = "file",
    testbed: FolderOption = Path(),
) -> None:
    """Where the authority is: look at a request, compare its fingerprint with whoever made it, and sign it."""
    from lab.cli.sae import approve_request

    raise typer.Exit(approve_request(request, testbed, out, authority_key, yes=yes))


@sae_app.command()
def install(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="What `sae approve`, `renew` or `revoke` wrote.")
    ],
    to: Annotated[
        Path | None, typer.Option("--to", help="Folder of the application's key; default: sae-NAME here.")
    ] = None,
    yes: Yes = False,
    testbed: FolderOption = Path(),
) -> None:
    """Put a certificate beside the private key it was made for, or a list of revoked ones where nodes here read it."""
    from lab.cli.sae import install_file

    raise typer.Exit(install_file(file, testbed, to, yes=yes))


@sae_app.command()
def renew(
    name: NameArgument,
    kme: Kme = False,
    out: Annotated[Path | None, typer.Option(help="The file to carry; default: sae-NAME.pem here.")] = None,
    authority_key: AuthorityKeyOption = "file",
    testbed: FolderOption = Path(),
) -> None:
    """Where the authority is: sign the key of a holder for another year; put in place at once if it is here."""
    from lab.cli.sae import renew_certificate

    raise typer.Exit(renew_certificate(name, testbed, out, authority_key, kme=kme))


@sae_app.command()
def revoke(
    name: NameArgument,
    kme: Kme = False,
    serial: Annotated[
        str | None,
        typer.Option(help="Only the certificate whose number begins so; all of the holder without."),
    ] = None,
    authority_key: AuthorityKeyOption = "file",
    testbed: FolderOption = Path(),
) -> None:
    """Where the authority is: refuse a holder's certificates for good; running nodes of this machine do so at once."""
    from lab.cli.sae import revoke_certificates

    raise typer.Exit(revoke_certificates(name, testbed, serial, authority_key, kme=kme))


@sae_app.command("list")
def list_command(testbed: FolderOption = Path(), as_json: Json = False) -> None:
    """Certificates with expiry, state and quota: all that were signed where the authority is, else those that are here."""
    from lab.cli.sae import list_certificates

    raise typer.Exit(list_certificates(testbed, as_json))


@sae_app.command()
def seal(authority_key: AuthorityKeyOption = "passphrase", testbed: FolderOption = Path()) -> None:
    """Where the authority is: seal its private key, which was made without a passphrase, with one."""
    from lab.cli.sae import seal_authority

    raise typer.Exit(seal_authority(testbed, authority_key))


@sae_app.command()
def authority(authority_key: AuthorityKeyOption = "file", testbed: FolderOption = Path()) -> None:
    """Make the authority of a testbed that never had one, and certificates of the nodes of this machine."""
    from lab.cli.sae import found_authority

    raise typer.Exit(found_authority(testbed, authority_key))
