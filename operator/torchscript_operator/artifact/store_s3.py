"""Files below an S3 prefix, at any endpoint that speaks S3."""

import hashlib
import uuid
from http import HTTPStatus
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import urlsplit

from botocore import exceptions as boto
from botocore.config import Config

from torchscript_operator.artifact import digest
from torchscript_operator.artifact.failures import FailureReason, WorkerError
from torchscript_operator.artifact.request import StoreLocation
from torchscript_operator.artifact.store_credentials import Credentials
from torchscript_operator.artifact.store_errors import ARTIFACT_REASONS, StoreReasons, without_userinfo
from torchscript_operator.artifact.store_s3_errors import mapped

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import GetObjectOutputTypeDef

CONNECT_TIMEOUT_SECONDS = 5
READ_TIMEOUT_SECONDS = 30
MAXIMUM_ATTEMPTS = 4
"""Attempts for one request, and for what is left of one download."""
PART_BYTES = 16 * 1024 * 1024
"""Part size of a multipart upload; smaller files go in one request."""
DEFAULT_REGION = "us-east-1"
"""Signatures need a region even where the endpoint has none."""


class S3Store:
    """A prefix of a bucket. Every method raises WorkerError with a class of `reasons`.

    The credentials need s3:ListBucket beside reading and writing: without it, S3 answers 403 for what is not there.
    """

    def __init__(
        self, location: StoreLocation, credentials: Credentials | None, reasons: StoreReasons = ARTIFACT_REASONS
    ) -> None:
        """Prepare a client; nothing is sent before the first call of a method."""
        parts = urlsplit(location.uri)
        self._bucket = parts.netloc
        self._prefix = parts.path.strip("/")
        self._reasons = reasons
        self.uri = f"s3://{self._bucket}/{self._prefix}".rstrip("/")
        self._at = f" at {without_userinfo(location.endpoint)}" if location.endpoint else ""
        with mapped("use", self._where(""), reasons):
            try:
                self._client = _client(location, credentials)
            except ValueError as error:
                message = f"Cannot use {self._where('')}: the endpoint is not a valid address."
                raise WorkerError(reasons.container_missing, message) from error

    def read_bytes(self, path: str) -> bytes:
        """A small object's content."""
        with mapped("read", self._where(path), self._reasons):
            return self._client.get_object(Bucket=self._bucket, Key=self._key(path))["Body"].read()

    def write_bytes(self, path: str, data: bytes) -> None:
        """Write a small object; readers see the old one or the new one."""
        with mapped("write", self._where(path), self._reasons):
            self._client.put_object(Bucket=self._bucket, Key=self._key(path), Body=data)

    def upload(self, path: str, file: Path) -> None:
        """Upload a file to a path that holds its SHA-256; does nothing where one of the same size lies already."""
        if self.size(path) == file.stat().st_size:
            return
        transfer = import_module("boto3.s3.transfer").TransferConfig(
            multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES, max_concurrency=4
        )
        with mapped("write", self._where(path), self._reasons), file.open("rb") as stream:
            self._client.upload_fileobj(stream, self._bucket, self._key(path), Config=transfer)

    def download(self, path: str, to: Path, sha256: str | None = None) -> str:
        """Stream an object into a file, which appears whole or not at all; the hexadecimal SHA-256 of its bytes.

        WorkerError DIGEST_MISMATCH when that differs from the `sha256` asked for. A broken connection is taken up
        again where it broke.
        """
        partial = to.with_name(f".{to.name}.{uuid.uuid4().hex}.partial")
        try:
            with mapped("read", self._where(path), self._reasons):
                to.parent.mkdir(parents=True, exist_ok=True)
                with partial.open("wb") as stream:
                    found = self._stream(path, stream)
            if sha256 is not None and found != sha256:
                message = f"{self._where(path)} has SHA-256 {found} instead of {sha256}."
                raise WorkerError(FailureReason.DIGEST_MISMATCH, message)
            partial.replace(to)
        finally:
            partial.unlink(missing_ok=True)
        return found

    def size(self, path: str) -> int | None:
        """Size in bytes, None where there is nothing."""
        try:
            with mapped("look up", self._where(path), self._reasons):
                return self._client.head_object(Bucket=self._bucket, Key=self._key(path))["ContentLength"]
        except WorkerError as error:
            if error.reason is self._reasons.object_missing:
                return None
            raise

    def exists(self, path: str) -> bool:
        """Whether an object lies there."""
        return self.size(path) is not None

    def list_files(self) -> dict[str, str]:
        """Path below the prefix to size and ETag, of all objects."""
        below = f"{self._prefix}/" if self._prefix else ""
        with mapped("list", self._where(""), self._reasons):
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=below)
            entries = [entry for page in pages for entry in page.get("Contents", ())]
        found = {entry["Key"]: f"{entry['Size']}-{entry.get('ETag', '')}" for entry in entries}
        return {key[len(below) :]: version for key, version in found.items() if not key.endswith("/")}

    def delete(self, path: str) -> None:
        """Delete an object; one that is not there is fine. One request each: older servers know no other way."""
        with mapped("delete", self._where(path), self._reasons):
            self._client.delete_object(Bucket=self._bucket, Key=self._key(path))

    def _stream(self, path: str, stream: BinaryIO) -> str:
        state = hashlib.sha256()
        attempt, tag = 1, ""
        while True:
            answer = self._continue(path, stream.tell(), tag)
            if answer is None:
                stream.seek(0)
                stream.truncate()
                state = hashlib.sha256()
                answer = self._client.get_object(Bucket=self._bucket, Key=self._key(path))
            body, tag = answer["Body"], answer.get("ETag", "")
            try:
                while chunk := body.read(digest.CHUNK_BYTES):
                    stream.write(chunk)
                    state.update(chunk)
            except (boto.HTTPClientError, boto.IncompleteReadError):
                attempt += 1
                if attempt > MAXIMUM_ATTEMPTS:
                    raise
            else:
                return state.hexdigest()

    def _continue(self, path: str, start: int, tag: str) -> "GetObjectOutputTypeDef | None":
        """The rest of the object that was begun; None where it has to be begun anew.

        Another one may lie there by now, whose rest would make a file that never was; and some servers know no ranges.
        """
        if not (start and tag):
            return None
        try:
            answer = self._client.get_object(
                Bucket=self._bucket, Key=self._key(path), Range=f"bytes={start}-", IfMatch=tag
            )
        except boto.ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == HTTPStatus.PRECONDITION_FAILED:
                return None
            raise
        return answer if answer["ResponseMetadata"]["HTTPStatusCode"] == HTTPStatus.PARTIAL_CONTENT else None

    def _key(self, path: str) -> str:
        return f"{self._prefix}/{path}" if self._prefix else path

    def _where(self, path: str) -> str:
        return f"{self.uri}/{path}".rstrip("/") + self._at


def _client(location: StoreLocation, credentials: Credentials | None) -> "S3Client":
    # Only here: a pod with its artifacts on a volume starts without.
    session = import_module("boto3").session.Session(
        aws_access_key_id=credentials.access_key_id if credentials else None,
        aws_secret_access_key=credentials.secret_access_key if credentials else None,
        aws_session_token=credentials.session_token if credentials else None,
        region_name=location.region,
    )
    config = Config(
        connect_timeout=CONNECT_TIMEOUT_SECONDS,
        read_timeout=READ_TIMEOUT_SECONDS,
        retries={"mode": "standard", "total_max_attempts": MAXIMUM_ATTEMPTS},
        # Custom endpoints rarely resolve a host name for each bucket.
        s3={"addressing_style": "path" if location.endpoint else "auto"},
        # Newer checksums are refused by older servers, and every read is verified by SHA-256 anyway.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    region = session.region_name or DEFAULT_REGION
    client: S3Client = session.client("s3", endpoint_url=location.endpoint, region_name=region, config=config)
    return client
