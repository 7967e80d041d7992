"""Downloads from a server on this machine that fails as servers do."""

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import filelock
import numpy as np
import pytest

from adaptf.data.errors import DataError
from adaptf.data.sets.download import CHUNK_BYTES, FETCHES, Patience, download_record
from adaptf.data.sets.unpack import unpack

RECORD = 42
AT_ONCE = Patience(timeout_seconds=5, waits_seconds=(0, 0))
CUT_AFTER = 150_000
"""Bytes of a body before its connection is cut."""
SURPLUS = 30_000_000
"""Bytes after the end; more than the system buffers between server and client."""
CLIP = np.random.default_rng(0).bytes(100_000)

CONTENT = {
    "set.meta.zip": {"set/meta.csv": b"filename\n", "set/evaluation_setup/fold1_train.csv": b"filename\n"},
    "set.audio.1.zip": {f"set/audio/{name}.wav": CLIP + name.encode() for name in "abcd"},
    "set.doc.zip": {"README.md": b"what it is"},
}
UNPACKED = {name.removeprefix("set/"): content for members in CONTENT.values() for name, content in members.items()}
AUDIO = "set.audio.1.zip"


def zip_of(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as zipped:
        for name, content in members.items():
            zipped.writestr(zipfile.ZipInfo(name), content, compress_type=method)
    return file.getvalue()


@dataclass
class Request:
    """A request for an archive."""

    name: str
    range: str
    sent: int = 0
    """Bytes of its answer's body so far."""


class Zenodo(ThreadingHTTPServer):
    """Answers for one record; each request for an archive meets the next of `faults`, then `always`."""

    def __init__(self, archives: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.archives = archives
        self.other_files: list[str] = ["index.html"]
        self.record: bytes | None = None
        self.faults: list[str] = []
        self.always = ""
        self.retry_after = "0"
        self.seconds_per_piece = 0.0
        self.requests: list[Request] = []

    def describe(self) -> bytes:
        if self.record is not None:
            return self.record
        archives = [
            {
                "key": name,
                "size": len(content),
                "checksum": f"md5:{hashlib.md5(content).hexdigest()}",
                "links": {"self": f"{self.url}/api/records/{RECORD}/files/{name}/content"},
            }
            for name, content in self.archives.items()
        ]
        return json.dumps({"id": RECORD, "files": [*archives, *({"key": name} for name in self.other_files)]}).encode()

    def handle_error(self, *_: object) -> None:
        """A client that was killed is no error here."""


class Handler(BaseHTTPRequestHandler):
    server: Zenodo

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        parts = self.path.split("/")
        if self.path == f"/api/records/{RECORD}":
            self.answer(200, self.server.describe())
        elif len(parts) == 7 and parts[5] in self.server.archives:
            fault = self.server.faults.pop(0) if self.server.faults else self.server.always
            request = Request(parts[5], self.headers.get("Range", ""))
            self.server.requests.append(request)
            self.send_archive(request, self.server.archives[request.name], fault)
        else:
            self.answer(404, b'{"status": 404}')

    def send_archive(self, request: Request, content: bytes, fault: str) -> None:
        begin = int((request.range or "bytes=0-")[len("bytes=") : -1])
        if fault.isdigit():
            return self.answer(int(fault), b"busy", {"Retry-After": self.server.retry_after})
        if fault == "ignores the range":
            begin = 0
        elif fault == "sends another range":
            begin += 7
        elif fault == "sends one wrong byte":
            content = content[:-1] + bytes([content[-1] ^ 1])
        elif fault == "sends too much":
            content += bytes(SURPLUS)
        if begin >= len(content):
            return self.answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
        headers = {"Content-Range": f"bytes {begin}-{len(content) - 1}/{len(content)}"} if begin else {}
        self.begin_answer(206 if begin else 200, len(content) - begin, headers)
        end = {"cuts": begin + CUT_AFTER, "cuts at once": begin, "says nothing": begin}.get(fault, len(content))
        for place in range(begin, min(end, len(content)), 20_000):
            piece = content[place : min(place + 20_000, end)]
            self.wfile.write(piece)
            request.sent += len(piece)
            time.sleep(self.server.seconds_per_piece)
        if fault == "says nothing":
            time.sleep(1)

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.begin_answer(status, len(body), headers or {})
        self.wfile.write(body)

    def begin_answer(self, status: int, length: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(length), **headers}.items():
            self.send_header(key, value)
        self.end_headers()


@pytest.fixture
def zenodo(monkeypatch: pytest.MonkeyPatch) -> Iterator[Zenodo]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Zenodo({name: zip_of(members) for name, members in CONTENT.items()}) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def download(zenodo: Zenodo, root: Path, *, record: int = RECORD, patience: Patience = AT_ONCE) -> None:
    download_record(record, root, server=zenodo.url, patience=patience)


def tree(root: Path) -> dict[str, bytes]:
    """Every file but those of the downloads."""
    files = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files if path.parent.name != "downloads"}


def downloads(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "downloads").iterdir() if path.name != "lock")


def only_audio(zenodo: Zenodo) -> int:
    """Leaves the audio archive alone in the record; returns its size."""
    zenodo.archives = {AUDIO: zenodo.archives[AUDIO]}
    return len(zenodo.archives[AUDIO])


def audio_files() -> dict[str, bytes]:
    return {name: content for name, content in UNPACKED.items() if name.startswith("audio/")}


def test_archives_are_unpacked_without_their_top_folder_and_deleted(zenodo, tmp_path):
    download(zenodo, tmp_path)
    assert tree(tmp_path) == UNPACKED
    assert downloads(tmp_path) == sorted(f"{name}.done" for name in CONTENT)


def test_a_second_call_asks_for_no_archive(zenodo, tmp_path):
    download(zenodo, tmp_path)
    zenodo.requests.clear()
    download(zenodo, tmp_path)
    assert zenodo.requests == []


def test_an_archive_whose_members_share_a_data_folder_keeps_it(zenodo, tmp_path):
    zenodo.archives = {"a.zip": zip_of({"audio/a.wav": b"a", "audio/b.wav": b"b"})}
    download(zenodo, tmp_path)
    assert tree(tmp_path) == {"audio/a.wav": b"a", "audio/b.wav": b"b"}


@pytest.mark.parametrize("begin", ["cuts", "cuts at once", "says nothing", "503", "429"])
def test_a_server_that_fails_once_is_asked_for_the_rest_only(zenodo, tmp_path, begin):
    size = only_audio(zenodo)
    zenodo.faults = [begin]
    download(zenodo, tmp_path, patience=Patience(timeout_seconds=0.5, waits_seconds=(0,)))
    assert tree(tmp_path) == audio_files()
    first, second = zenodo.requests
    assert size <= first.sent + second.sent <= size + CHUNK_BYTES


def test_a_server_that_ignores_the_range_sends_all_anew(zenodo, tmp_path):
    size = only_audio(zenodo)
    zenodo.faults = ["cuts", "ignores the range"]
    download(zenodo, tmp_path)
    assert tree(tmp_path) == audio_files()
    assert [request.sent for request in zenodo.requests] == [CUT_AFTER, size]


@pytest.mark.parametrize("answer", ["416", "sends another range"])
def test_a_server_that_has_not_the_range_is_asked_for_all_anew(zenodo, tmp_path, answer):
    only_audio(zenodo)
    zenodo.faults = ["cuts", answer]
    download(zenodo, tmp_path)
    assert tree(tmp_path) == audio_files()
    assert [bool(request.range) for request in zenodo.requests] == [False, True, False]


def test_an_archive_with_a_wrong_checksum_is_fetched_anew(zenodo, tmp_path):
    only_audio(zenodo)
    zenodo.faults = ["sends one wrong byte"]
    download(zenodo, tmp_path)
    assert tree(tmp_path) == audio_files()
    assert [request.range for request in zenodo.requests] == ["", ""]


def test_an_archive_that_is_too_long_is_not_fetched_to_its_end_but_anew(zenodo, tmp_path):
    only_audio(zenodo)
    zenodo.faults = ["sends too much"]
    download(zenodo, tmp_path)
    assert tree(tmp_path) == audio_files()
    assert [request.range for request in zenodo.requests] == ["", ""]
    assert zenodo.requests[0].sent < SURPLUS


def test_as_long_as_each_try_brings_more_a_server_may_fail(zenodo, tmp_path):
    size = only_audio(zenodo)
    zenodo.always = "cuts"
    download(zenodo, tmp_path, patience=Patience(waits_seconds=(0,)))
    assert tree(tmp_path) == audio_files()
    assert len(zenodo.requests) > size // CUT_AFTER


def test_a_server_that_brings_nothing_more_ends_the_download_and_the_same_call_continues(zenodo, tmp_path):
    size = only_audio(zenodo)
    zenodo.faults, zenodo.always = ["cuts"], "cuts at once"
    with pytest.raises(DataError, match=rf"{AUDIO}: 127.0.0.1 brought nothing more in 3 tries.*the same command continues"):
        download(zenodo, tmp_path)
    kept = (tmp_path / "downloads" / f"{AUDIO}.part").stat().st_size
    assert 0 < kept <= CUT_AFTER
    zenodo.always = ""
    download(zenodo, tmp_path)
    assert tree(tmp_path) == audio_files()
    assert zenodo.requests[-1].sent == size - kept


def test_a_server_that_always_sends_wrong_bytes_ends_the_download_and_nothing_is_kept(zenodo, tmp_path):
    only_audio(zenodo)
    zenodo.always = "sends one wrong byte"
    with pytest.raises(DataError, match=rf"{AUDIO}: what 127.0.0.1 sends has not the record's checksum, {FETCHES} times"):
        download(zenodo, tmp_path)
    assert len(zenodo.requests) == FETCHES
    assert downloads(tmp_path) == []
    assert tree(tmp_path) == {}


@pytest.mark.parametrize("named", ["seconds", "date"])
def test_the_wait_that_a_server_names_is_kept(zenodo, tmp_path, named):
    zenodo.faults = ["503"]
    zenodo.retry_after = "1" if named == "seconds" else formatdate(time.time() + 2, usegmt=True)  # cut to whole seconds
    begun = time.monotonic()
    download(zenodo, tmp_path)
    assert time.monotonic() - begun > 0.9


def test_a_server_that_names_no_time_to_wait_is_not_asked_at_once(zenodo, tmp_path):
    zenodo.faults = ["503", "503"]
    begun = time.monotonic()
    download(zenodo, tmp_path, patience=Patience(waits_seconds=(0.2, 0.3)))
    assert time.monotonic() - begun >= 0.5


def test_a_retry_after_that_is_neither_seconds_nor_a_date_is_passed_over(zenodo, tmp_path):
    zenodo.faults = ["503"]
    zenodo.retry_after = "soon"
    download(zenodo, tmp_path)
    assert tree(tmp_path) == UNPACKED


def test_a_record_that_is_not_there_is_named(zenodo, tmp_path):
    with pytest.raises(
        DataError, match=r"record 43: 127.0.0.1 has no .*/api/records/43 \(404\): the number of a public record"
    ):
        download(zenodo, tmp_path / "tau", record=43)
    assert not (tmp_path / "tau").exists()


@pytest.mark.parametrize(
    ("status", "message"), [("404", "has no"), ("403", "refuses .* the record should be public"), ("418", "answered 418")]
)
def test_an_archive_that_is_refused_is_asked_for_once(zenodo, tmp_path, status, message):
    only_audio(zenodo)
    zenodo.always = status
    with pytest.raises(DataError, match=f"{AUDIO}: 127.0.0.1 {message}"):
        download(zenodo, tmp_path)
    assert len(zenodo.requests) == 1


FILE = {"key": "a.zip", "size": 100, "checksum": f"md5:{'0' * 32}", "links": {"self": "http://127.0.0.1/a"}}


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"<html>Sign in</html>", r"JSON .* got b'<html>Sign in"),
        (b"[]", "should answer in JSON with `files`"),
        (json.dumps({"files": [{"key": "a.zip"}]}).encode(), "KeyError"),
        (json.dumps({"files": [FILE | {"key": "../a.zip"}]}).encode(), "'../a.zip' is no file name"),
        (json.dumps({"files": [FILE | {"size": -1}]}).encode(), "a.zip has the size -1"),
        (json.dumps({"files": [FILE | {"checksum": "sha1:00"}]}).encode(), "a.zip has the checksum 'sha1:00'"),
        (json.dumps({"files": [{"key": "a.tar"}]}).encode(), "names no zip file; it names a.tar"),
        (json.dumps({"files": []}).encode(), "names no zip file; it names no file at all"),
    ],
)
def test_an_answer_that_is_no_record_is_quoted(zenodo, tmp_path, answer, message):
    zenodo.record = answer
    with pytest.raises(DataError, match=f"record {RECORD}: .*{message}"):
        download(zenodo, tmp_path)


def test_a_server_that_nobody_runs_is_named(tmp_path):
    with pytest.raises(DataError, match=r"record 42: 127.0.0.1 brought nothing more in 3 tries"):
        download_record(RECORD, tmp_path, server="http://127.0.0.1:1", patience=AT_ONCE)


def test_a_server_without_http_is_named(tmp_path):
    with pytest.raises(DataError, match=r"record 42: zenodo.org/api/records/42 can't be asked for"):
        download_record(RECORD, tmp_path, server="zenodo.org", patience=AT_ONCE)


@pytest.mark.parametrize("name", ["../evil.txt", "/evil.txt", "set/../../evil.txt", "..\\evil.txt", "C:\\evil.txt"])
def test_an_archive_with_a_member_that_leads_out_of_the_folder_is_refused_as_a_whole(zenodo, tmp_path, name):
    zenodo.archives = {"a.zip": zip_of({"set/good.txt": b"good", name: b"evil"})}
    with pytest.raises(DataError, match=r"a\.zip:\n.*evil\.txt' leads out of the folder"):
        download(zenodo, tmp_path / "tau")
    assert tree(tmp_path / "tau") == {}
    assert not list(tmp_path.glob("*.txt"))


def test_a_disk_that_is_too_small_is_told_before_an_archive_is_fetched(zenodo, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=300_000))
    with pytest.raises(DataError, match=r"3 archives and what is in them need 0.0 GB below .*, 0.0 GB are free there"):
        download(zenodo, tmp_path)
    assert zenodo.requests == []


def test_what_is_there_already_needs_no_more_space(zenodo, tmp_path, monkeypatch):
    """An archive with all but one of its members unpacked needs the space of one."""
    only_audio(zenodo)
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / AUDIO).write_bytes(zenodo.archives[AUDIO])
    unpack(tmp_path / "downloads" / AUDIO, tmp_path)
    (tmp_path / "audio" / "c.wav").unlink()
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=len(CLIP) + 1))
    download(zenodo, tmp_path)
    assert tree(tmp_path) == audio_files()
    assert zenodo.requests == []


def test_a_file_that_is_there_with_another_size_is_replaced(zenodo, tmp_path):
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio" / "a.wav").write_bytes(b"half")
    download(zenodo, tmp_path)
    assert tree(tmp_path) == UNPACKED


def test_a_damaged_member_is_named_and_not_there(zenodo, tmp_path):
    content = zip_of({"audio/a.wav": b"first", "audio/b.wav": b"second"}, zipfile.ZIP_STORED)
    zenodo.archives = {"a.zip": content.replace(b"second", b"secomd")}
    with pytest.raises(DataError, match=r"a.zip can't be unpacked \(Bad CRC-32 for file 'audio/b.wav'\): delete it"):
        download(zenodo, tmp_path)
    assert "audio/b.wav" not in tree(tmp_path)


def test_an_archive_that_is_no_zip_file_is_named(zenodo, tmp_path):
    zenodo.archives = {"a.zip": b"no zip"}
    with pytest.raises(DataError, match=r"a.zip can't be unpacked \(File is not a zip file\)"):
        download(zenodo, tmp_path)


def test_a_folder_that_can_not_be_written_is_named(zenodo, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"can't write below .*file .*the same command continues"):
        download(zenodo, tmp_path / "file")


def test_two_processes_do_not_download_into_one_folder(zenodo, tmp_path):
    (tmp_path / "downloads").mkdir()
    with (
        filelock.FileLock(tmp_path / "downloads" / "lock"),
        pytest.raises(DataError, match="another process is downloading into"),
    ):
        download(zenodo, tmp_path)


def test_a_download_that_was_killed_is_continued_where_it_was(zenodo, tmp_path):
    size = only_audio(zenodo)
    zenodo.seconds_per_piece = 0.05
    part = tmp_path / "downloads" / f"{AUDIO}.part"
    kill_child(zenodo, tmp_path, once=lambda: part.exists() and part.stat().st_size > 100_000)
    kept = part.stat().st_size
    assert kept < size, "the download was over before it could be killed"
    zenodo.seconds_per_piece = 0.0
    download(zenodo, tmp_path)
    assert zenodo.requests[1:] == [Request(AUDIO, f"bytes={kept}-", sent=size - kept)]
    assert tree(tmp_path) == audio_files()


def test_unpacking_that_was_killed_in_a_member_is_continued_without_a_request(zenodo, tmp_path):
    only_audio(zenodo)
    half_written = tmp_path / "audio" / ".b.wav.part"
    kill_child(zenodo, tmp_path, once=half_written.exists, copying_seconds=0.2)
    assert half_written.exists(), "the member was written before the process could be killed"
    assert tree(tmp_path)["audio/a.wav"] == UNPACKED["audio/a.wav"]
    assert "audio/b.wav" not in tree(tmp_path)
    zenodo.requests.clear()
    written = (tmp_path / "audio" / "a.wav").stat().st_mtime_ns
    download(zenodo, tmp_path)
    assert zenodo.requests == []
    assert tree(tmp_path) == audio_files()
    assert (tmp_path / "audio" / "a.wav").stat().st_mtime_ns == written, "a member that was there is left as it is"
    assert downloads(tmp_path) == [f"{AUDIO}.done"]


def test_an_archive_left_by_a_process_killed_before_it_could_delete_it_is_deleted(zenodo, tmp_path):
    download(zenodo, tmp_path)
    (tmp_path / "downloads" / AUDIO).write_bytes(zenodo.archives[AUDIO])
    download(zenodo, tmp_path)
    assert AUDIO not in downloads(tmp_path)


def kill_child(zenodo: Zenodo, root: Path, *, once: Callable[[], bool], copying_seconds: float = 0.0) -> None:
    """Runs the download in a process of its own, with members that take a while, and kills it when `once` is true."""
    program = f"""
import shutil, time
from pathlib import Path
from adaptf.data.sets.download import download_record
def slowly(source, target):
    target.write(source.read(1000))
    target.flush()
    time.sleep({copying_seconds})
    target.write(source.read())
shutil.copyfileobj = slowly
download_record({RECORD}, Path({str(root)!r}), server={zenodo.url!r})
"""
    child = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while not once():
        assert child.poll() is None, "the process ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
