"""A hub on this machine: what the clients of ``datasets`` and ``huggingface_hub`` ask of the real one, over HTTP.

Started as a program, it serves a folder ``<owner>/<name>/<files>`` and runs the rest of its command line against it:
``python -m tests.hub FOLDER COMMAND ...``. The clients read HF_ENDPOINT when they are imported, so a test runs them in
a process of their own. Whoever has the token ``WRITER`` may write models of the owner ``OWNER``: repositories are made,
files arrive in a commit, and large ones before it: by git-lfs' protocol with HF_HUB_DISABLE_XET=1, else in the folder
that hf_xet takes for its storage server; those are then served as pointers.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlparse

COMMIT = "0123456789abcdef0123456789abcdef01234567"
WRITER = "hf_writer"
OWNER = "me"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {size}\n"


class Hub(ThreadingHTTPServer):
    """Serves the sets and models of a folder; every revision of them is the same."""

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

    def do_PUT(self) -> None:
        self._answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def _answer(self, body: bytes) -> None:
        parts = [unquote(part) for part in urlparse(self.path).path.strip("/").split("/")]
        match self.command, parts:
            case "POST", ["api", "repos", "create"]:
                self._create(json.loads(body))
            case "POST", ["api", "validate-yaml"]:
                self._json({"errors": [], "warnings": []})
            case "POST", ["api", "models", owner, name, "preupload", _]:
                self._preupload(self.server.folder / owner / name, json.loads(body))
            case "POST", ["api", "models", owner, name, "commit", _]:
                self._commit(self.server.folder / owner / name, [json.loads(line) for line in body.splitlines()])
            case "POST", [_, _, "info", "lfs", "objects", "batch"]:
                self._batch(json.loads(body))
            case "GET", ["api", "models", owner, _, "xet-write-token", _]:
                if self._writes(owner):
                    storage = f"local://{self._stored('xet').absolute()}"
                    self._json({"accessToken": "of Xet", "exp": 4_000_000_000, "casUrl": storage})
            case "PUT", ["lfs", oid]:
                self._stored(oid).write_bytes(body)
                self._json({})
            case _, ["api", "models" | "datasets", owner, name, *rest]:
                self._information(self.server.folder / owner / name, rest, body)
            case _, ["datasets", owner, name, "resolve", revision, *path] | [owner, name, "resolve", revision, *path]:
                self._file(self.server.folder.joinpath(owner, name, *path), revision)
            case _:
                self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"})

    def _information(self, root: Path, rest: list[str], body: bytes) -> None:
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
        return self._json({"id": f"{root.parent.name}/{root.name}", "sha": COMMIT, "siblings": siblings, "tags": []})

    def _file(self, path: Path, revision: str) -> None:
        if not path.is_file():
            return self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"})
        data = path.read_bytes()
        etag = hashlib.sha1(data).hexdigest()
        commit = revision if len(revision) == len(COMMIT) else COMMIT
        return self._send(200, data, {"ETag": f'"{etag}"', "X-Repo-Commit": commit})

    # -------------------------------------------------------------------------------------------- writing

    def _writes(self, owner: str) -> bool:
        """Whether the client may; it has been told where it may not."""
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token != WRITER:
            self._send(401, b'{"error": "Invalid credentials in Authorization header"}', {})
        elif owner != OWNER:
            self._send(403, b'{"error": "You don\'t have the rights to create a model under this namespace"}', {})
        return token == WRITER and owner == OWNER

    def _create(self, asked: dict[str, Any]) -> None:
        if self._writes(asked["organization"]):
            root = self.server.folder / asked["organization"] / asked["name"]
            there = root.is_dir()
            root.mkdir(parents=True, exist_ok=True)
            if not there:
                self._stored(f"visibility-{asked['name']}").write_text(asked.get("visibility") or "public")
            url = f"{self.server.endpoint}/{asked['organization']}/{asked['name']}"
            self._send(409 if there else 200, json.dumps({"url": url}).encode(), {"Content-Type": "application/json"})

    def _preupload(self, root: Path, asked: dict[str, Any]) -> None:
        """Weights go by git-lfs, as the .gitattributes of a new repository have it."""
        if self._writes(root.parent.name):
            large = (".safetensors", ".png")
            modes = {f["path"]: "lfs" if f["path"].endswith(large) else "regular" for f in asked["files"]}
            self._json({"files": [{"path": p, "uploadMode": m, "shouldIgnore": False} for p, m in modes.items()]})

    def _batch(self, asked: dict[str, Any]) -> None:
        """Where each object goes; those that are here already are not asked for."""
        for o in asked["objects"]:
            if not self._stored(o["oid"]).exists():
                o["actions"] = {"upload": {"href": f"{self.server.endpoint}/lfs/{o['oid']}"}}
        self._json({"transfer": "basic", "objects": asked["objects"]})

    def _commit(self, root: Path, lines: list[dict[str, Any]]) -> None:
        if not self._writes(root.parent.name):
            return
        for line in lines:
            value = line["value"]
            path = root / value.get("path", "")
            path.parent.mkdir(parents=True, exist_ok=True)
            if line["key"] == "file":
                path.write_bytes(base64.b64decode(value["content"]))
            elif line["key"] == "lfsFile":
                stored = self._stored(value["oid"])
                if stored.is_file():
                    data = stored.read_bytes()
                    assert (hashlib.sha256(data).hexdigest(), len(data)) == (value["oid"], value["size"])
                    path.write_bytes(data)
                else:  # it is in Xet's storage
                    path.write_text(POINTER.format(**value))
            elif line["key"] == "deletedFile":
                path.unlink()
        self._json({"commitUrl": f"{self.server.endpoint}/{root.parent.name}/{root.name}/commit/{COMMIT}",
                    "commitOid": COMMIT})  # fmt: skip

    def _stored(self, name: str) -> Path:
        """Beside the repositories."""
        place = self.server.folder / ".stored"
        place.mkdir(exist_ok=True)
        return place / name

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
