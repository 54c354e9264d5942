"""A Hub on loopback: the routes that huggingface_hub asks for when it pushes and downloads models, with state and tokens."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlparse


TOKEN = "hf_OnlyForTheTestsOfTrlTar0000000000"
USER = "someone"


@dataclass
class Repository:
    """Branches as commits, commits as files."""

    private: bool = False
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def __post_init__(self):
        self.commit("main", {}, "initial commit")

    def commit(self, branch: str, files: dict[str, bytes], message: str) -> str:
        self.messages.append(message)
        sha = hashlib.sha1(f"{branch} {len(self.messages)}".encode()).hexdigest()
        self.branches[branch] = sha
        self.commits[sha] = files
        return sha

    def resolve(self, revision: str) -> str | None:
        sha = self.branches.get(revision, revision)
        return sha if sha in self.commits else None

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[self.branches["main"]]


@dataclass
class Failure:
    """What the server does instead of answering: a status, or with 0 it hangs up."""

    path: str  # regular expression
    status: int
    times: int = 1
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Hub:
    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)  # of a client that is told not to sleep

    def fail(self, path: str, status: int, times: int = 1, **headers: str) -> None:
        """The next requests whose method and path match end in that status."""
        self.failures.append(Failure(path, status, times, headers))


@contextmanager
def running_hub() -> Iterator[Hub]:
    """Serves until the block ends."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


ROUTES = [  # method, path → name of the method that answers
    ("GET", r"/api/whoami-v2", "who"),
    ("POST", r"/api/repos/create", "create"),
    ("POST", r"/api/validate-yaml", "validate"),
    ("POST", r"/api/models/(?P<id>[^/]+/[^/]+)/branch/(?P<revision>[^/]+)", "branch"),
    ("POST", r"/api/models/(?P<id>[^/]+/[^/]+)/preupload/(?P<revision>[^/]+)", "preupload"),
    ("POST", r"/api/models/(?P<id>[^/]+/[^/]+)/commit/(?P<revision>[^/]+)", "commit"),
    ("GET", r"/api/models/(?P<id>[^/]+/[^/]+)/tree/(?P<revision>[^/]+)", "tree"),
    ("GET", r"/api/models/(?P<id>[^/]+/[^/]+)/revision/(?P<revision>[^/]+)", "info"),
    ("GET", r"/api/models/(?P<id>[^/]+/[^/]+)", "info"),
    ("GET|HEAD", r"/(?P<id>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)", "file"),
]
READS = {"tree", "info", "file"}


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self._answer()

    do_HEAD = do_POST = do_GET

    def log_message(self, *arguments):
        pass

    def _answer(self):
        path = urlparse(self.path).path
        self.hub.requests.append(f"{self.command} {path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        failure = next((f for f in self.hub.failures if re.search(f.path, f"{self.command} {path}")), None)
        if failure is not None:
            failure.times -= 1
            if failure.times == 0:
                self.hub.failures.remove(failure)
            if failure.status == 0:
                self.close_connection = True
                return None
            return self._json({"error": f"refused with {failure.status}"}, failure.status, **failure.headers)
        for method, pattern, name in ROUTES:
            found = re.fullmatch(pattern, path)
            if self.command in method.split("|") and found is not None:
                return self._routed(name, body, {key: unquote(value) for key, value in found.groupdict().items()})
        return self._json({"error": f"no route for {self.command} {path}"}, 404)

    def _routed(self, name: str, body: bytes, found: dict[str, str]):
        authorised = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        repository = self.hub.repositories.get(found.get("id", ""))
        hidden = repository is None or (repository.private and not authorised)
        if "id" in found and hidden:
            return self._json(
                {"error": "Repository not found"}, 404 if authorised else 401, **{"X-Error-Code": "RepoNotFound"}
            )
        if not authorised and name not in READS and name != "validate":
            return self._json({"error": "Invalid credentials"}, 401)
        sha = None if repository is None else repository.resolve(found.get("revision", "main"))
        if name in READS and sha is None:
            return self._json({"error": "Invalid rev id"}, 404, **{"X-Error-Code": "RevisionNotFound"})
        return getattr(self, f"_{name}")(body, found, repository, sha)

    def _who(self, body, found, repository, sha):
        self._json({"type": "user", "name": USER, "auth": {"accessToken": {"role": "write"}}})

    def _create(self, body, found, repository, sha):
        asked = json.loads(body)
        name = f"{asked.get('organization') or USER}/{asked['name']}"
        known = name in self.hub.repositories
        if not known:
            self.hub.repositories[name] = Repository(asked.get("visibility") == "private")
        self._json({"url": f"{self.hub.url}/{name}", "name": name}, 409 if known else 200)

    def _validate(self, body, found, repository, sha):
        content = json.loads(body)["content"]
        errors = [] if content.startswith("---\n") else [{"message": "no metadata"}]
        self._json({"errors": errors, "warnings": []}, 400 if errors else 200)

    def _branch(self, body, found, repository, sha):
        if found["revision"] in repository.branches:
            return self._json({"error": "Reference already exists"}, 409)
        repository.branches[found["revision"]] = repository.branches["main"]
        return self._json({})

    def _preupload(self, body, found, repository, sha):
        files = [
            {"path": each["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
            for each in json.loads(body)["files"]
        ]
        self._json({"files": files})

    def _commit(self, body, found, repository, sha):
        lines = [json.loads(line) for line in body.splitlines()]
        files = dict(repository.commits[sha])
        for line in lines:
            if line["key"] == "file":
                files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "deletedFile":
                del files[line["value"]["path"]]
        made = repository.commit(found["revision"], files, lines[0]["value"]["summary"])
        self._json({"success": True, "commitOid": made, "commitUrl": f"{self.hub.url}/{found['id']}/commit/{made}"})

    def _tree(self, body, found, repository, sha):
        self._json(
            [
                {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for path, content in sorted(repository.commits[sha].items())
            ]
        )

    def _info(self, body, found, repository, sha):
        siblings = [{"rfilename": path} for path in sorted(repository.commits[sha])]
        card = {"id": found["id"], "modelId": found["id"], "sha": sha, "private": repository.private, "tags": []}
        self._json({**card, "siblings": siblings, "downloads": 0, "likes": 0})

    def _file(self, body, found, repository, sha):
        content = repository.commits[sha].get(found["file"])
        commit = {"X-Repo-Commit": sha}
        if content is None:
            return self._json({"error": "Entry not found"}, 404, **{"X-Error-Code": "EntryNotFound"}, **commit)
        etag = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
        return self._send(content, "application/octet-stream", 200, **etag, **commit)

    def _json(self, content, status: int = 200, **headers: str):
        self._send(json.dumps(content).encode(), "application/json", status, **headers)

    def _send(self, content: bytes, kind: str, status: int, **headers: str):
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
