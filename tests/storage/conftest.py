"""A real S3 server on this machine, also as it answers those who may only get and put objects."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

SECRETS = {"aws_access_key_id": "name", "aws_secret_access_key": "secret"}
DENIED = (
    b'<?xml version="1.0" encoding="UTF-8"?>'
    b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
)


@dataclass
class Gate:
    """Stands in front of the server, and refuses what a rule says."""

    application: Callable[..., Iterable[bytes]]
    refuses: Callable[[str, str, str], bool] = lambda method, key, query: False
    hides_missing: bool = False  # whether what is missing is forbidden, as without a right to list
    seen: list[tuple[str, str, str]] = field(default_factory=list)

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        method, query = environ["REQUEST_METHOD"], environ.get("QUERY_STRING", "")
        key = environ["PATH_INFO"].lstrip("/").partition("/")[2]
        self.seen.append((method, key, query))

        def deny() -> list[bytes]:
            body = b"" if method == "HEAD" else DENIED
            sizes = [("Content-Length", str(len(body))), ("Content-Type", "application/xml")]
            start("403 Forbidden", sizes)
            return [body]

        if self.refuses(method, key, query):
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            return deny()
        answer: list[Any] = []
        body = list(self.application(environ, lambda *given: answer.append(given)))
        if self.hides_missing and answer[0][0].startswith("404") and b"NoSuchBucket" not in body:
            return deny()
        start(*answer[0])
        return body


def beyond_objects(method: str, key: str, query: str) -> bool:
    """Whether a request is for more than getting, putting and deleting an object by its name."""
    return not key or method not in ("GET", "HEAD", "PUT", "POST", "DELETE")


@dataclass
class S3:
    """A bucket, the server's own client, and the arguments for FileClient."""

    bucket: str
    boto: Any
    gate: Gate
    arguments: dict[str, Any]

    def put(self, key: str, data: bytes = b"") -> None:
        self.boto.put_object(Bucket=self.bucket, Key=key, Body=data)

    def get(self, key: str) -> bytes:
        return bytes(self.boto.get_object(Bucket=self.bucket, Key=key)["Body"].read())

    def delete(self, key: str) -> None:
        self.boto.delete_object(Bucket=self.bucket, Key=key)

    def keys(self) -> list[str]:
        listed = self.boto.list_objects_v2(Bucket=self.bucket)
        return [each["Key"] for each in listed.get("Contents", [])]


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3]:
    """The server and the gate in front of it, which URIs reach without any arguments."""
    import threading

    import boto3
    import s3fs
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log(self, *arguments: Any) -> None:
            pass

    application = DomainDispatcherApplication(create_backend_app)
    gate = Gate(application)
    servers = [
        make_server("127.0.0.1", 0, each, threaded=True, request_handler=Quiet)
        for each in (application, gate)
    ]
    for each in servers:
        threading.Thread(target=each.serve_forever, daemon=True).start()
    address, behind_gate = (f"http://127.0.0.1:{each.server_port}" for each in servers)
    region = {"region_name": "us-east-1"}
    boto = boto3.client("s3", endpoint_url=address, **region, **SECRETS)
    with pytest.MonkeyPatch.context() as environment:
        for name, value in SECRETS.items():
            environment.setenv(name.upper(), value)
        environment.setenv("AWS_ENDPOINT_URL", behind_gate)
        environment.setenv("AWS_DEFAULT_REGION", region["region_name"])
        arguments = {
            "backend": "s3",
            "key": SECRETS["aws_access_key_id"],
            "secret": SECRETS["aws_secret_access_key"],
            "client_kwargs": {"endpoint_url": behind_gate, **region},
        }
        yield S3("", boto, gate, arguments)
    s3fs.S3FileSystem.clear_instance_cache()
    for each in servers:
        each.shutdown()


@pytest.fixture
def s3(s3_server: S3) -> Iterator[S3]:
    """An empty bucket."""
    made = replace(s3_server, bucket=f"bucket-{uuid.uuid4().hex}")
    made.boto.create_bucket(Bucket=made.bucket)
    made.gate.seen.clear()
    yield made
    made.gate.refuses, made.gate.hides_missing = Gate.refuses, Gate.hides_missing


@pytest.fixture
def objects_only(s3: S3) -> S3:
    """A bucket of which nothing may be listed, and beside which none may be made."""
    s3.gate.refuses, s3.gate.hides_missing = beyond_objects, True
    return s3
