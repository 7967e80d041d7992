"""The routes that MLflow's scoring server has no place for: /metrics, /health and /version of a router, on their own port."""

import json
import logging
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version as installed_version
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

import adaptf
from adaptf.serving.live import Follower
from adaptf.serving.log_lines import log
from adaptf.serving.monitoring import Monitor


class StatusServer:
    """Answers on daemon threads until it is stopped."""

    def __init__(self, monitor: Monitor, *, host: str, port: int) -> None:
        """Port 0 is any free one; see `address`. Raises OSError where the port cannot be had."""
        self._server = ThreadingHTTPServer((host, port), _handler_of(monitor))
        self._server.daemon_threads = True
        self.address = "http://{}:{}".format(*self._server.server_address[:2])
        threading.Thread(target=self._server.serve_forever, name="adaptf-status", daemon=True).start()

    def stop(self) -> None:
        """Returns at once: it may be called on one of the server's own threads."""
        threading.Thread(target=self._close, daemon=True).start()

    def _close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def start_status_server(monitor: Monitor, *, host: str, port: int) -> StatusServer | None:
    """None, and a line in the log, where the port cannot be had: the router serves without these routes then."""
    try:
        server = StatusServer(monitor, host=host, port=port)
    except OSError as error:
        log(
            "status",
            logging.WARNING,
            message=f"no metrics: port {port} of {host} cannot be used ({error}); serving on",
        )
        return None
    log("status", address=server.address, message="/metrics, /health and /version are open")
    return server


def _handler_of(monitor: Monitor) -> type[BaseHTTPRequestHandler]:
    """The routes, for a server of the standard library."""

    class Routes(BaseHTTPRequestHandler):
        timeout = 10

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/metrics":
                self.respond(200, CONTENT_TYPE_LATEST, generate_latest(monitor.metrics))
            elif path == "/health":
                state = health(monitor.follower)
                self.respond(200 if state["ok"] else 503, "application/json", _as_json(state))
            elif path == "/version":
                self.respond(200, "application/json", _as_json(versions(monitor.follower)))
            else:
                self.respond(
                    404, "application/json", _as_json({"routes": ["/metrics", "/health", "/version"]})
                )

        def respond(self, status: int, content_type: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: Any) -> None:
            """Whoever collects metrics asks every few seconds: not a line for each."""

    return Routes


def health(follower: Follower) -> dict[str, Any]:
    """Not ok: it no longer follows the registry though it should. A registry that does not answer harms no request."""
    return {
        "ok": follower.is_alive() or not follower.live,
        "live": follower.live,
        "last_check": follower.last_check and follower.last_check.isoformat(timespec="seconds"),
        "registry": follower.problem or ("answers" if follower.last_check else "not asked"),
    }


def versions(follower: Follower) -> dict[str, Any]:
    """What answers for each device, and in what way that is not what the registry has in production."""
    return {
        "adaptf": adaptf.__version__,
        "mlflow": installed_version("mlflow"),
        "devices": {
            device: {"version": model.version, "form": model.network.form, "why": model.network.why}
            for device, model in sorted(follower.bundle.models.items())
        },
        "notes": dict(sorted(follower.notes.copy().items())),
    }


def _as_json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()
