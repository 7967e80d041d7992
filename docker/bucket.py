"""The bucket of the artifacts: makes it, writes it to stdout as a tar file, or fills it from one.

python bucket.py make
python bucket.py save > bucket.tar
python bucket.py load < bucket.tar
"""

import os
import sys
import tarfile
from typing import IO, Any

import boto3

BUCKET = "mlflow"


class Forward:
    """A member of a tar file that comes in order: boto3 would seek in everything that says it can."""

    def __init__(self, member: IO[bytes]) -> None:
        self.read = member.read


def make(s3: Any) -> None:
    if BUCKET not in [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]]:
        s3.create_bucket(Bucket=BUCKET)


def save(s3: Any) -> None:
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as archive:
        for found in (found for page in pages for found in page.get("Contents", [])):
            object_ = s3.get_object(Bucket=BUCKET, Key=found["Key"])
            info = tarfile.TarInfo(found["Key"])
            info.size, info.mtime = object_["ContentLength"], object_["LastModified"].timestamp()
            archive.addfile(info, object_["Body"])


def load(s3: Any) -> None:
    make(s3)
    with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as archive:
        for info in archive:
            member = archive.extractfile(info)
            if member:
                s3.upload_fileobj(Forward(member), BUCKET, info.name)


if __name__ == "__main__":
    client = boto3.client("s3", endpoint_url=os.environ["MLFLOW_S3_ENDPOINT_URL"])
    {"make": make, "save": save, "load": load}[sys.argv[1]](client)
