"""`python -m study.serve [RESULTS ...]`: the live page of studies, in any browser. See `--help`.

Exit status: 0 stopped by Ctrl-C, 2 bad input.
"""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import socket
import sys
import threading
import webbrowser
from pathlib import Path

from study.command_line.exit_status import BAD_INPUT, OK
from study.command_line.live_page import PAGE_PORT
from study.command_line.program import program_name
from study.service.command_line import guarded
from study.service.connection import DEFAULT_CLUSTER, connect

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_MOST_PORTS = 20  # tried, where others are taken


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog=program_name("serve"), description="The live page of studies, in any browser: no account, no network.",
        epilog="Only this machine can reach it. With --host others can: they need the token in the address that is printed.",
    )  # fmt: skip
    parser.add_argument(
        "results", nargs="*", default=["results"], metavar="RESULTS",
        help="folders of studies, studies, or URLs of studies (s3://, gs://, ...), of which copies are read (default: results)",
    )  # fmt: skip
    parser.add_argument(
        "--cluster", metavar="URL", nargs="?", const=DEFAULT_CLUSTER,
        help=f"list the studies of the cluster with this dashboard, too (without URL: {DEFAULT_CLUSTER})",
    )  # fmt: skip
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="the cluster's token, as for `study status`")
    parser.add_argument("--port", type=int, metavar="N", help=f"default: the first free one from {PAGE_PORT}")
    parser.add_argument(
        "--host", metavar="ADDRESS", default=_LOOPBACK[0], help="address to listen on (default: 127.0.0.1)"
    )
    parser.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME", help="a further name that browsers may call it by"
    )
    parser.add_argument(
        "--control", action="store_true", help="buttons that stop a study and let it go on; asks for the token, too"
    )
    parser.add_argument("--open", action="store_true", help="open it in the browser")
    parser.add_argument("--end-with-stdin", action="store_true", help=argparse.SUPPRESS)  # of `study run --serve`
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = build_parser().parse_args(arguments)
    urls = [source for source in options.results if "://" in source]
    folders = [Path(source) for source in options.results if source not in urls]
    for path in folders:
        if not path.is_dir():
            print(f"error: {path}: no such folder; name a study, or the folder that holds studies", file=sys.stderr)
            return BAD_INPUT
    try:
        listener = _listen(options.host, options.port)
    except OSError as error:
        print(
            f"error: {options.host} port {options.port or PAGE_PORT}: {error.strerror}; name another --port",
            file=sys.stderr,
        )
        return BAD_INPUT
    listener.listen()  # whoever opens the address at once waits for the server
    token = None if options.host in _LOOPBACK and not options.control else secrets.token_urlsafe(24)
    address = _address(options.host, listener.getsockname()[1], token)
    print(f"studies: {address}\nCtrl-C ends the page; studies go on", flush=True)
    if options.open:
        webbrowser.open(address)
    if options.end_with_stdin:
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    hosts = [*_LOOPBACK[:2], "[::1]", options.host, socket.gethostname(), socket.getfqdn(), *options.allow_host]
    return guarded(lambda: _serve(listener, folders, urls, hosts, token, options))


def _serve(
    listener: socket.socket, folders: list[Path], urls: list[str], hosts: list[str], token: str | None,
    options: argparse.Namespace,
) -> int:  # fmt: skip
    import uvicorn  # not before --help has answered

    from study.page.elsewhere import ClusterStudies, FetchedStudy
    from study.page.server import build_app
    from study.page.watched import Watch

    cluster = ClusterStudies(connect(options.cluster, options.token_file)) if options.cluster else None
    app = build_app(Watch(folders, [FetchedStudy(url) for url in urls]), hosts, token, cluster)
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, timeout_graceful_shutdown=3, server_header=False, ws="none"
    )
    server = uvicorn.Server(config)
    app.state.is_ending = lambda: server.should_exit
    try:
        server.run(sockets=[listener])
    except KeyboardInterrupt:
        pass
    finally:
        listener.close()
    return OK


def _end_with_stdin() -> None:
    """Ends this process when whoever started it does, however it ends."""
    while os.read(0, 1 << 16):
        pass
    os.kill(os.getpid(), signal.SIGINT)


def _listen(host: str, port: int | None) -> socket.socket:
    """A socket on the port, or on the first free one from the default. Errors: OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for tried in [port] if port is not None else range(PAGE_PORT, PAGE_PORT + _MOST_PORTS):
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, tried))
            return listener
        except OSError as found:
            listener.close()
            error = found
    raise error


def _address(host: str, port: int, token: str | None) -> str:
    shown = socket.gethostname() if host in ("0.0.0.0", "::") else host
    shown = f"[{shown}]" if ":" in shown else shown
    return f"http://{shown}:{port}/" + (f"?token={token}" if token else "")


if __name__ == "__main__":
    sys.exit(main())
