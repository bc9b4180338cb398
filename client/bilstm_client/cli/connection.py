"""How `bilstm` reaches a server: what may be typed with all its commands, and the client of it."""

from __future__ import annotations

import argparse
from pathlib import Path

from .._calls.session import DEFAULT_TIMEOUT_SECONDS, finite_seconds
from .._calls.target import Target
from ..client import Client


class NoConnection(Exception):
    """What was typed, or is in the environment, makes no connection."""


def add_connection(parser: argparse.ArgumentParser, time: str) -> None:
    """`time`: what --timeout-seconds bounds."""
    add = parser.add_argument_group(
        "connection",
        "BILSTM_CA in the environment stands for --ca, and BILSTM_TOKEN is the token itself.",
    ).add_argument
    add(
        "--server",
        type=_server,
        default="localhost:50051",
        metavar="HOST:PORT",
        help="default: %(default)s",
    )
    add("--tls", action="store_true", help="use TLS, and trust the CAs that this machine trusts")
    add("--ca", type=Path, metavar="FILE", help="use TLS, and trust the CA of this PEM file")
    add(
        "--client-certificate",
        type=Path,
        metavar="FILE",
        help="with --client-key: the certificate to show to a server that asks for one",
    )
    add("--client-key", type=Path, metavar="FILE", help="the certificate's private key")
    add(
        "--server-name",
        metavar="NAME",
        help="the name that the server's certificate must be for; default: the host of --server",
    )
    add("--token-file", type=Path, metavar="FILE", help="a file that holds the token")
    add(
        "--token-without-tls",
        action="store_true",
        help="send the token without TLS, as the way to the server is safe",
    )
    add(
        "--timeout-seconds",
        type=_seconds,
        default=DEFAULT_TIMEOUT_SECONDS,
        metavar="SECONDS",
        help=f"{time}; default: %(default)s",
    )


def check_connection(parsed: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """`SystemExit` where one argument lacks another."""
    if (parsed.client_certificate is None) != (parsed.client_key is None):
        given, other = "--client-certificate", "--client-key"
        if parsed.client_key is not None:
            given, other = other, given
        parser.error(f"argument {given}: needs {other}")


def connect(parsed: argparse.Namespace) -> Client:
    """The client of what was typed; `NoConnection` where it makes none."""
    certificate = parsed.client_certificate
    try:
        return Client(
            parsed.server,
            tls=parsed.ca or parsed.tls or None,
            client_certificate=certificate and (certificate, parsed.client_key),
            server_name=parsed.server_name,
            token=parsed.token_file,
            token_without_tls=parsed.token_without_tls,
            timeout_seconds=parsed.timeout_seconds,
        )
    except OSError as error:
        raise NoConnection(f"{error.filename}: {error.strerror}") from error
    except ValueError as error:
        raise NoConnection(str(error)) from error


def _server(text: str) -> str:
    """HOST:PORT, or another target."""
    try:
        Target.of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def _seconds(text: str) -> float:
    """A finite number of seconds."""
    try:
        return finite_seconds(float(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
