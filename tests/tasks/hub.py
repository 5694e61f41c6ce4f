"""A hub on this machine: what the clients of ``datasets`` and ``huggingface_hub`` ask of the real one, over HTTP.

Started as a program, it serves a folder ``<owner>/<set>/<files>`` and runs the rest of its command line against it:
``python -m tests.tasks.hub FOLDER COMMAND ...``. The clients read HF_ENDPOINT when they are imported, so a test runs
them in a process of their own.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlparse

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Serves the data sets of a folder; every revision of them is the same."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        super().__init__(("127.0.0.1", 0), _Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        """Quiet."""

    def do_HEAD(self) -> None:
        self._answer(b"")

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def _answer(self, body: bytes) -> None:
        parts = [unquote(part) for part in urlparse(self.path).path.strip("/").split("/")]
        if parts[:2] == ["api", "datasets"] and len(parts) >= 4:
            root, rest = self.server.folder / parts[2] / parts[3], parts[4:]
            if not root.is_dir():
                return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            files = sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())
            if rest[:1] == ["paths-info"]:
                wanted = parse_qs(body.decode()).get("paths") or json.loads(body or b"{}").get("paths", [])
                return self._json(_entries(root, files, wanted))
            if rest[:1] == ["tree"]:
                inside = "".join(f"{part}/" for part in rest[2:])
                return self._json(_entries(root, files, _below(inside, files, "recursive=true" in self.path.lower())))
            siblings = [{"rfilename": file} for file in files]
            return self._json({"id": "/".join(parts[2:4]), "sha": COMMIT, "siblings": siblings, "tags": []})
        if parts[:1] == ["datasets"] and len(parts) > 5 and parts[3] == "resolve":
            path = self.server.folder.joinpath(*parts[1:3], *parts[5:])
            if path.is_file():
                data = path.read_bytes()
                etag = hashlib.sha1(data).hexdigest()
                commit = parts[4] if len(parts[4]) == len(COMMIT) else COMMIT
                return self._send(200, data, {"ETag": f'"{etag}"', "X-Repo-Commit": commit})
        return self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"})

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _below(inside: str, files: list[str], recursive: bool) -> list[str]:
    """Files and folders within a folder, ``inside``, which ends with a slash unless it is the root."""
    found = [file[len(inside) :] for file in files if file.startswith(inside)]
    return sorted({inside + (name if recursive else name.split("/")[0]) for name in found})


def _entries(root: Path, files: list[str], wanted: list[str]) -> list[dict[str, object]]:
    return [
        {
            "type": "file" if path in files else "directory",
            "path": path,
            "size": (root / path).stat().st_size if path in files else 0,
            "oid": hashlib.sha1(path.encode()).hexdigest(),
        }
        for path in wanted
        if (root / path).exists()
    ]


if __name__ == "__main__":
    folder, *command = sys.argv[1:]
    hub = Hub(Path(folder))
    environment = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HUB_DISABLE_TELEMETRY": "1"}
    sys.exit(subprocess.run(command, env=environment, check=False).returncode)
