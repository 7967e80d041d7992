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
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import filelock
import numpy as np
import pytest

from adaptf.data.errors import DataError
from adaptf.data.sets.download import download_record

RECORD = 42
PIECE_BYTES = 100_000
CUT_AFTER = 15 * PIECE_BYTES
"""Bytes of a body before its connection is cut."""
CLIP = np.random.default_rng(0).bytes(1_000_000)

CONTENT = {
    "set.meta.zip": {"set/meta.csv": b"filename\n", "set/evaluation_setup/fold1_train.csv": b"filename\n"},
    "set.audio.1.zip": {f"set/audio/{name}.wav": CLIP + name.encode() for name in "abcd"},
    "set.doc.zip": {"README.md": b"what it is"},
}
UNPACKED = {
    name.removeprefix("set/"): content for members in CONTENT.values() for name, content in members.items()
}
AUDIO = "set.audio.1.zip"
AUDIO_FILES = {name: content for name, content in UNPACKED.items() if name.startswith("audio/")}


def zip_of(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as zipped:
        for name, content in members.items():
            zipped.writestr(zipfile.ZipInfo(name), content)
    return file.getvalue()


class Zenodo(ThreadingHTTPServer):
    """Answers for one record; each request for an archive meets the next of `faults`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.archives = {name: zip_of(members) for name, members in CONTENT.items()}
        self.folder = ""
        """Before the names in the record."""
        self.record = ""
        """In place of the one about the archives."""
        self.record_faults: list[int] = []
        """Statuses that the next requests for the record get."""
        self.faults: list[str] = []
        self.seconds_per_piece = 0.0
        self.ranges: list[str] = []
        """Of each request for an archive, empty where it asked for all."""

    def describe(self) -> str:
        files = [
            {
                "key": self.folder + name,
                "size": len(content),
                "checksum": f"md5:{hashlib.md5(content).hexdigest()}",
                "links": {"self": f"{self.url}/files/{name}"},
            }
            for name, content in self.archives.items()
        ]
        return self.record or json.dumps({"files": [*files, {"key": "index.html"}]})

    def handle_error(self, *_: object) -> None:
        """A client that goes away is no error here."""


class Handler(BaseHTTPRequestHandler):
    server: Zenodo

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        if self.path == f"/api/records/{RECORD}" and self.server.record_faults:
            self.begin(self.server.record_faults.pop(0), 0)
        elif self.path == f"/api/records/{RECORD}":
            record = self.server.describe().encode()
            self.begin(200, len(record))
            self.wfile.write(record)
        elif name in self.server.archives:
            self.server.ranges.append(self.headers.get("Range", ""))
            self.send_archive(
                self.server.archives[name], self.server.faults.pop(0) if self.server.faults else ""
            )
        else:
            self.begin(404, 0)

    def send_archive(self, content: bytes, fault: str) -> None:
        if fault.isdigit():
            return self.begin(int(fault), 0)
        first = int(self.headers.get("Range", "bytes=0-")[len("bytes=") : -1])
        if fault == "ignores the range":
            first = 0
        if fault == "sends one wrong byte":
            content = content[:-1] + bytes([content[-1] ^ 1])
        self.begin(
            206 if first else 200, len(content) - first, f"bytes {first}-{len(content) - 1}/{len(content)}"
        )
        end = min(first + CUT_AFTER, len(content)) if fault == "cuts" else len(content)
        for place in range(first, end, PIECE_BYTES):
            self.wfile.write(content[place : min(place + PIECE_BYTES, end)])
            threading.Event().wait(self.server.seconds_per_piece)

    def begin(self, status: int, length: int, content_range: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        if status == 206:
            self.send_header("Content-Range", content_range)
        self.end_headers()


@pytest.fixture
def zenodo(monkeypatch: pytest.MonkeyPatch) -> Iterator[Zenodo]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between tries
    with Zenodo() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def tree(root: Path) -> dict[str, bytes]:
    """Every file but those of the downloads."""
    files = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
    return {path.as_posix(): (root / path).read_bytes() for path in files if path.parts[0] != "downloads"}


def downloads(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "downloads").iterdir() if path.name != "lock")


def only_audio(zenodo: Zenodo, *faults: str) -> None:
    zenodo.archives, zenodo.faults = {AUDIO: zenodo.archives[AUDIO]}, list(faults)


def test_archives_are_unpacked_without_their_top_folder_and_deleted(zenodo, tmp_path):
    download_record(RECORD, tmp_path, server=zenodo.url)
    assert tree(tmp_path) == UNPACKED
    assert downloads(tmp_path) == sorted(f"{name}.done" for name in CONTENT)


def test_a_second_call_asks_for_no_archive_and_deletes_one_that_a_killed_process_left(zenodo, tmp_path):
    download_record(RECORD, tmp_path, server=zenodo.url)
    zenodo.ranges.clear()
    (tmp_path / "downloads" / AUDIO).write_bytes(zenodo.archives[AUDIO])
    download_record(RECORD, tmp_path, server=zenodo.url)
    assert zenodo.ranges == []
    assert AUDIO not in downloads(tmp_path)


def test_an_archive_whose_members_share_a_data_folder_keeps_it(zenodo, tmp_path):
    zenodo.archives = {"a.zip": zip_of({"audio/a.wav": b"a", "audio/b.wav": b"b"})}
    download_record(RECORD, tmp_path, server=zenodo.url)
    assert tree(tmp_path) == {"audio/a.wav": b"a", "audio/b.wav": b"b"}


def test_a_connection_that_is_cut_goes_on_where_it_was(zenodo, tmp_path):
    only_audio(zenodo, "cuts", "cuts")
    download_record(RECORD, tmp_path, server=zenodo.url)
    assert tree(tmp_path) == AUDIO_FILES
    first, *rest = zenodo.ranges
    assert first == "" and len(rest) == 2 and all(rest)


@pytest.mark.parametrize("faults", [["503"], ["429"], ["cuts", "503"]])
def test_a_busy_server_is_asked_again(zenodo, tmp_path, faults):
    only_audio(zenodo, *faults)
    download_record(RECORD, tmp_path, server=zenodo.url)
    assert tree(tmp_path) == AUDIO_FILES


def test_a_server_that_is_too_busy_to_tell_the_record_is_asked_again(zenodo, tmp_path):
    zenodo.record_faults = [503, 429, 504]
    download_record(RECORD, tmp_path, server=zenodo.url)
    assert tree(tmp_path) == UNPACKED


def test_a_record_that_is_refused_is_asked_for_once(zenodo, tmp_path):
    zenodo.record_faults = [404, 404]
    with pytest.raises(DataError, match=r"no answer of Zenodo about a public record.*404"):
        download_record(RECORD, tmp_path, server=zenodo.url)
    assert zenodo.record_faults == [404]


def test_an_archive_with_a_wrong_checksum_is_fetched_anew(zenodo, tmp_path):
    only_audio(zenodo, "sends one wrong byte")
    download_record(RECORD, tmp_path, server=zenodo.url)
    assert tree(tmp_path) == AUDIO_FILES
    assert zenodo.ranges == ["", ""]


def test_a_server_that_always_sends_wrong_bytes_ends_the_download_and_nothing_is_kept(zenodo, tmp_path):
    only_audio(zenodo, *["sends one wrong byte"] * 3)
    with pytest.raises(DataError, match=rf"{AUDIO} does not bring what the record says.* 3 times in a row"):
        download_record(RECORD, tmp_path, server=zenodo.url)
    assert downloads(tmp_path) == []
    assert tree(tmp_path) == {}


@pytest.mark.parametrize("fault", ["503", "ignores the range"])
def test_a_server_that_never_goes_on_ends_the_download_and_the_same_call_continues(zenodo, tmp_path, fault):
    only_audio(zenodo, "cuts", *[fault] * 20)
    with pytest.raises(
        DataError, match=rf"{AUDIO} can't be had .* The same command goes on with what has arrived"
    ):
        download_record(RECORD, tmp_path, server=zenodo.url)
    (part,) = (tmp_path / "downloads").glob("*.part")
    kept = part.stat().st_size
    assert 0 < kept <= CUT_AFTER
    zenodo.faults = []
    download_record(RECORD, tmp_path, server=zenodo.url)
    assert tree(tmp_path) == AUDIO_FILES
    assert zenodo.ranges[-1] == f"bytes={kept}-"


def test_an_archive_that_is_refused_is_asked_for_once(zenodo, tmp_path):
    only_audio(zenodo, "403")
    with pytest.raises(DataError, match=rf"{AUDIO} can't be had \(403"):
        download_record(RECORD, tmp_path, server=zenodo.url)
    assert zenodo.ranges == [""]


@pytest.mark.parametrize("server", ["http://127.0.0.1:1", "zenodo.org", ""])
def test_a_server_or_record_that_is_not_there_is_named(zenodo, tmp_path, server):
    with pytest.raises(DataError, match=f"{server}/api/records/43 is no answer of Zenodo"):
        download_record(43, tmp_path / "tau", server=server or zenodo.url)
    assert not (tmp_path / "tau").exists()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("<html>Sign in</html>", "JSONDecodeError"),
        ("[]", "TypeError"),
        ('{"files": [{"key": "a.zip"}]}', "KeyError"),
        ('{"files": [{"key": "a.tar"}]}', "names no zip file"),
    ],
)
def test_an_answer_that_is_no_record_is_refused(zenodo, tmp_path, answer, message):
    zenodo.record = answer
    with pytest.raises(DataError, match=f"/api/records/{RECORD} .*{message}"):
        download_record(RECORD, tmp_path, server=zenodo.url)


@pytest.mark.parametrize(
    "name", ["../evil.txt", "/evil.txt", "set/../../evil.txt", "..\\evil.txt", "C:\\evil.txt"]
)
def test_no_member_leads_out_of_the_folder(zenodo, tmp_path, name):
    zenodo.archives, zenodo.folder = {"a.zip": zip_of({"set/good.txt": b"good", name: b"evil"})}, "../../"
    download_record(RECORD, tmp_path / "tau" / "set", server=zenodo.url)
    assert list(tmp_path.iterdir()) == [tmp_path / "tau"]
    assert list((tmp_path / "tau").iterdir()) == [tmp_path / "tau" / "set"]


def test_an_archive_that_is_no_zip_file_is_named(zenodo, tmp_path):
    zenodo.archives = {"a.zip": b"no zip"}
    with pytest.raises(DataError, match=r"a.zip can't be unpacked \(File is not a zip file\)"):
        download_record(RECORD, tmp_path, server=zenodo.url)


def test_a_disk_that_is_too_small_is_told_before_an_archive_is_fetched(zenodo, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=3_000_000))
    with pytest.raises(
        DataError, match=r"3 archives and what is in them need 0.0 GB in .*, 0.0 GB are free there"
    ):
        download_record(RECORD, tmp_path, server=zenodo.url)
    assert zenodo.ranges == []


def test_an_archive_that_is_there_needs_room_for_what_is_in_it(zenodo, tmp_path, monkeypatch):
    only_audio(zenodo)
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / AUDIO).write_bytes(zenodo.archives[AUDIO])
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=3_000_000))
    with pytest.raises(
        DataError, match=r"1 archives and what is in them need 0.0 GB in .*, 0.0 GB are free there"
    ):
        download_record(RECORD, tmp_path, server=zenodo.url)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=6_000_000))
    download_record(RECORD, tmp_path, server=zenodo.url)  # 4 MB of audio, and no other archive
    assert (tree(tmp_path), zenodo.ranges) == (AUDIO_FILES, [])


def test_a_folder_that_can_not_be_written_is_named(zenodo, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"can't write below .*file .*the same command goes on"):
        download_record(RECORD, tmp_path / "file", server=zenodo.url)


def test_two_processes_do_not_download_into_one_folder(zenodo, tmp_path):
    (tmp_path / "downloads").mkdir()
    with (
        filelock.FileLock(tmp_path / "downloads" / "lock"),
        pytest.raises(DataError, match="another process is"),
    ):
        download_record(RECORD, tmp_path, server=zenodo.url)


def test_a_download_that_was_killed_is_continued_where_it_was(zenodo, tmp_path):
    only_audio(zenodo)
    zenodo.seconds_per_piece = 0.05

    def arrived() -> int:
        return sum(part.stat().st_size for part in tmp_path.glob("downloads/*.part"))

    kill_child(zenodo, tmp_path, once=lambda: arrived() > 0)
    kept = arrived()
    assert kept < len(zenodo.archives[AUDIO]), "the download was over before it could be killed"
    zenodo.seconds_per_piece = 0.0
    download_record(RECORD, tmp_path, server=zenodo.url)
    assert zenodo.ranges[-1] == f"bytes={kept}-"
    assert tree(tmp_path) == AUDIO_FILES


def test_unpacking_that_was_killed_in_a_member_is_continued_without_a_request(zenodo, tmp_path):
    only_audio(zenodo)
    half_written = tmp_path / "downloads" / "unpacking" / "set" / "audio" / "b.wav"
    kill_child(zenodo, tmp_path, once=half_written.exists, copying_seconds=0.2)
    assert half_written.exists(), "the member was written before the process could be killed"
    assert tree(tmp_path) == {"audio/a.wav": UNPACKED["audio/a.wav"]}
    zenodo.ranges.clear()
    download_record(RECORD, tmp_path, server=zenodo.url)
    assert zenodo.ranges == []
    assert tree(tmp_path) == AUDIO_FILES
    assert downloads(tmp_path) == [f"{AUDIO}.done"]


@pytest.mark.parametrize("surplus", [b"", b"too much"])
def test_a_part_that_was_whole_when_its_process_was_killed_is_checked(zenodo, tmp_path, surplus):
    only_audio(zenodo)
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / f"{AUDIO}12345678.part").write_bytes(zenodo.archives[AUDIO] + surplus)
    download_record(RECORD, tmp_path, server=zenodo.url)
    assert zenodo.ranges == [""] * bool(surplus)
    assert tree(tmp_path) == AUDIO_FILES


def kill_child(zenodo: Zenodo, root: Path, *, once: Callable[[], bool], copying_seconds: float = 0.0) -> None:
    """Runs the download in a process of its own, with members that take a while,
    and kills it when `once` is true."""
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
    deadline = time.monotonic() + 60
    while not once():
        assert child.poll() is None, "the process ended before it could be killed"
        assert time.monotonic() < deadline
        threading.Event().wait(0.005)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
