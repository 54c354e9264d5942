"""A Hub on loopback: the routes that huggingface_hub asks for when it pushes and downloads models, and reads data sets, with state
and tokens."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from urllib.parse import unquote, urlparse


TOKEN = "hf_OnlyForTheTestsOfTrlTar0000000000"
USER = "someone"


@dataclass
class Repository:
    """Branches as commits, commits as files."""

    private: bool = False
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)  # by SHA-256, what came through LFS
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


HANGS_UP, CUTS, STALLS = 0, -1, -2  # after the body; in the middle of it; in the middle, until the client is gone


@dataclass
class Failure:
    """What the server does instead of answering: a status, or one of those above."""

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
    lfs: bool = False  # whether weights, pictures and archives are sent as the real Hub wants it
    stalled: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)

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
        hub.released.set()
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
    ("POST", r"/(?P<id>[^/]+/[^/]+)\.git/info/lfs/objects/batch", "batch"),
    ("POST", r"/(?P<id>[^/]+/[^/]+)\.git/info/lfs/objects/verify", "check"),
    ("PUT", r"/storage/(?P<id>[^/]+/[^/]+)/(?P<file>[0-9a-f]{64})", "store"),
    ("GET|HEAD", r"/(?P<id>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)", "file"),
    # data sets, which are kept under their id with this word before it
    ("GET", r"/api/(?P<id>datasets/[^/]+/[^/]+)/tree/(?P<revision>[^/]+)(/(?P<folder>.*))?", "tree"),
    ("POST", r"/api/(?P<id>datasets/[^/]+/[^/]+)/paths-info/(?P<revision>[^/]+)", "paths"),
    ("GET", r"/api/(?P<id>datasets/[^/]+/[^/]+)/revision/(?P<revision>[^/]+)", "info"),
    ("GET", r"/api/(?P<id>datasets/[^/]+/[^/]+)", "info"),
    ("GET|HEAD", r"/(?P<id>datasets/[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)", "file"),
]
READS = {"tree", "info", "file", "paths"}
SIGNED = {"store"}  # its address is what authorises, as that of S3
LARGE = (".safetensors", ".png", ".gz")


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def log_message(self, *arguments):
        pass

    def _answer(self):
        path = urlparse(self.path).path
        self.hub.requests.append(f"{self.command} {path}")
        length = int(self.headers.get("Content-Length") or 0)
        failure = next((f for f in self.hub.failures if re.search(f.path, f"{self.command} {path}")), None)
        if failure is not None:
            return self._fail(failure, length)
        body = self.rfile.read(length)
        for method, pattern, name in ROUTES:
            found = re.fullmatch(pattern, path)
            if self.command in method.split("|") and found is not None:
                return self._routed(name, body, {key: unquote(value or "") for key, value in found.groupdict().items()})
        return self._json({"error": f"no route for {self.command} {path}"}, 404)

    def _fail(self, failure: Failure, length: int):
        failure.times -= 1
        if failure.times == 0:
            self.hub.failures.remove(failure)
        self.rfile.read(length if failure.status >= HANGS_UP else length // 2)
        if failure.status == STALLS:
            self.hub.stalled.set()
            self.hub.released.wait()
        if failure.status <= HANGS_UP:
            self.close_connection = True
            return
        self._json({"error": f"refused with {failure.status}"}, failure.status, **failure.headers)

    def _routed(self, name: str, body: bytes, found: dict[str, str]):
        authorised = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        repository = self.hub.repositories.get(found.get("id", ""))
        hidden = repository is None or (repository.private and not authorised and name not in SIGNED)
        if "id" in found and hidden:
            return self._json(
                {"error": "Repository not found"}, 404 if authorised else 401, **{"X-Error-Code": "RepoNotFound"}
            )
        if not authorised and name not in READS | SIGNED | {"validate"}:
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
        paths = [each["path"] for each in json.loads(body)["files"]]
        modes = {path: "lfs" if self.hub.lfs and path.endswith(LARGE) else "regular" for path in paths}
        files = [{"path": path, "uploadMode": modes[path], "shouldIgnore": False, "oid": None} for path in paths]
        self._json({"files": files})

    def _batch(self, body, found, repository, sha):
        objects = [{"oid": each["oid"], "size": each["size"]} for each in json.loads(body)["objects"]]
        storage = f"{self.hub.url}/storage/{found['id']}"
        for each in objects:
            if each["oid"] not in repository.stored:
                upload = {"href": f"{storage}/{each['oid']}?X-Amz-Signature=OnlyForTheTests"}
                verify = {"href": f"{self.hub.url}/{found['id']}.git/info/lfs/objects/verify"}
                each["actions"] = {"upload": upload, "verify": verify}
        self._json({"transfer": "basic", "objects": objects})

    def _store(self, body, found, repository, sha):
        if hashlib.sha256(body).hexdigest() != found["file"]:
            return self._json({"error": "BadDigest"}, 400)
        repository.stored[found["file"]] = body
        return self._send(b"", "text/plain", 200)

    def _check(self, body, found, repository, sha):
        asked = json.loads(body)
        whole = len(repository.stored.get(asked["oid"], b"")) == asked["size"]
        self._json({} if whole else {"error": "not whole"}, 200 if whole else 422)

    def _commit(self, body, found, repository, sha):
        lines = [json.loads(line) for line in body.splitlines()]
        files = dict(repository.commits[sha])
        for line in lines:
            if line["key"] == "file":
                files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "lfsFile":
                files[line["value"]["path"]] = repository.stored[line["value"]["oid"]]
            elif line["key"] == "deletedFile":
                del files[line["value"]["path"]]
        made = repository.commit(found["revision"], files, lines[0]["value"]["summary"])
        self._json({"success": True, "commitOid": made, "commitUrl": f"{self.hub.url}/{found['id']}/commit/{made}"})

    def _tree(self, body, found, repository, sha):
        inside = {p: c for p, c in repository.commits[sha].items() if p.startswith(found.get("folder", ""))}
        folders = sorted({str(parent) for path in inside for parent in PurePosixPath(path).parents} - {"."})
        listed = [{"type": "directory", "path": folder, "oid": "0" * 40, "size": 0} for folder in folders]
        self._json([*(listed if found["id"].startswith("datasets/") else []), *self._entries(inside)])

    def _paths(self, body, found, repository, sha):
        asked = json.loads(body)["paths"]
        self._json(self._entries({p: c for p, c in repository.commits[sha].items() if p in asked}))

    @staticmethod
    def _entries(files: dict[str, bytes]) -> list[dict]:
        return [
            {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
            for path, content in sorted(files.items())
        ]

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
