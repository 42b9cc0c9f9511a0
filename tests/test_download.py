"""Downloads from a server on loopback that breaks, stalls, lies and changes its mind; archives that mean harm."""

import hashlib
import io
import re
import socket
import stat
import threading
import time
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lama_minimal import download
from lama_minimal.config import UserError
from lama_minimal.download import PUBLISHED, cache_folder, fetch_file, fetch_weights, unzip, verify_file

BODY = hashlib.shake_256(b"weights").digest(600_000)  # several blocks, no period in it
OTHER = hashlib.shake_256(b"others").digest(600_000)


class Handler(BaseHTTPRequestHandler):
    """Serves ``server.body`` with ranges; each entry of ``server.plan`` spoils one answer."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        server = self.server
        server.requests.append(self.headers.get("Range"))
        fault, value = server.plan.pop(0) if server.plan else (None, None)
        if fault == "status":
            return self.send_error(value)
        if fault == "stall":
            time.sleep(value)
        body, etag = server.body, f'"{hashlib.md5(server.body).hexdigest()}"'
        start = int(self.headers.get("Range", "bytes=0-")[6:-1])
        if not server.ranges or self.headers.get("If-Range", etag) != etag:
            start = 0
        if start and start >= len(body):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(body)}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        if server.etag:
            self.send_header("ETag", etag)
        self.send_header("Content-Type", server.content_type)
        self.send_header("Connection", "close")
        self.close_connection = True
        rest = body[start : start + value] if fault == "cut" else body[start:]
        server.sent += len(rest)
        if server.framing == "length":
            self.send_header("Content-Length", str(len(body) - start))
            self.end_headers()
            self.wfile.write(rest)
        elif server.framing == "chunked":
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(rest), rest) if fault is None else b"%x\r\n%s" % (len(body), rest))
            self.wfile.write(b"0\r\n\r\n" if fault is None else b"")
        else:
            self.end_headers()
            self.wfile.write(rest)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download, "PAUSE", 0.0)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # clients that hang up are part of the tests
    server.body, server.plan, server.requests, server.sent = BODY, [], [], 0
    server.ranges, server.etag, server.framing, server.content_type = True, True, "length", "application/zip"
    server.url = f"http://127.0.0.1:{server.server_port}/weights.bin"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def fetch(server, target, **options):
    return fetch_file(server.url, target, progress=False, **options)


def refused(pattern, function, *arguments, **options):
    with pytest.raises(UserError, match=pattern) as caught:
        function(*arguments, **options)
    assert "\n" not in str(caught.value)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# --- fetch_file ---------------------------------------------------------------------------------------------


def test_a_file_arrives_whole_with_its_digest_recorded(server, tmp_path):
    target = tmp_path / "new" / "folder" / "weights.bin"
    assert fetch(server, str(target)) == target
    assert target.read_bytes() == BODY
    assert names(target.parent) == ["weights.bin", "weights.bin.sha256"]
    recorded = (target.parent / "weights.bin.sha256").read_text()
    assert recorded == f"{hashlib.sha256(BODY).hexdigest()}  weights.bin\n"  # what `sha256sum -c` reads
    fetch(server, target)
    assert len(server.requests) == 1  # what is there is not fetched again


def test_broken_connections_are_resumed_where_they_stopped(server, tmp_path):
    server.plan = [("cut", 200_000), ("cut", 100_000)]
    assert fetch(server, tmp_path / "w").read_bytes() == BODY
    starts = [int(asked[6:-1]) for asked in server.requests[1:]]
    assert starts == [200_000, 300_000] and server.sent == len(BODY)


def test_interrupted_today_resumed_tomorrow(server, tmp_path, monkeypatch):
    target = tmp_path / "w"
    monkeypatch.setattr(download, "RETRIES", 0)
    server.plan = [("cut", 400_000)]
    refused("cannot download.*broke after 400000 of 600000 bytes", fetch, server, target)
    assert not target.exists() and (tmp_path / "w.part").stat().st_size == 400_000
    assert fetch(server, target).read_bytes() == BODY
    assert server.requests[-1] == "bytes=400000-" and server.sent == len(BODY)
    assert names(tmp_path) == ["w", "w.sha256"]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_file_that_changed_meanwhile_is_not_glued_to_the_old_half(server, tmp_path, monkeypatch, ranges):
    monkeypatch.setattr(download, "RETRIES", 0)
    server.plan = [("cut", 400_000)]
    server.ranges = ranges
    refused("broke", fetch, server, tmp_path / "w")
    server.body = OTHER  # of the same length
    assert fetch(server, tmp_path / "w").read_bytes() == OTHER


def test_another_address_does_not_continue_a_foreign_part(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "RETRIES", 0)
    server.plan = [("cut", 400_000)]
    refused("broke", fetch, server, tmp_path / "w")
    fetch_file(server.url + "?mirror", tmp_path / "w", progress=False)
    assert server.requests[-1] is None


def test_part_of_unknown_origin_is_started_over(server, tmp_path):
    (tmp_path / "w.part").write_bytes(b"\0" * 1000)
    assert fetch(server, tmp_path / "w").read_bytes() == BODY
    assert server.requests == [None]


def test_without_a_version_from_the_server_nothing_is_resumed(server, tmp_path):
    server.plan = [("cut", 200_000)]
    server.etag = False
    assert fetch(server, tmp_path / "w").read_bytes() == BODY
    assert server.requests == [None, None]


def test_versions_that_come_and_go_are_not_mixed(server, tmp_path, monkeypatch):
    """Half of one version, half of another that nothing identifies, and then the first again."""
    monkeypatch.setattr(download, "RETRIES", 0)
    for server.body, server.etag in ((BODY, True), (OTHER, False), (BODY, True)):
        server.plan = [("cut", 300_000)]
        refused("broke", fetch, server, tmp_path / "w")
    assert fetch(server, tmp_path / "w").read_bytes() == BODY


def test_killed_between_the_last_byte_and_the_renaming(server, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(download, "_fault", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        fetch(server, tmp_path / "w")
    assert (tmp_path / "w.part").stat().st_size == len(BODY) and not (tmp_path / "w").exists()
    assert fetch(server, tmp_path / "w").read_bytes() == BODY
    assert server.sent == len(BODY)


def test_a_part_longer_than_the_file_is_started_over(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "RETRIES", 0)
    server.plan = [("cut", 400_000)]
    refused("broke", fetch, server, tmp_path / "w")
    monkeypatch.setattr(download, "RETRIES", 1)
    (tmp_path / "w.part").write_bytes(b"\0" * (len(BODY) + 5))
    assert fetch(server, tmp_path / "w").read_bytes() == BODY


@pytest.mark.parametrize("status", [500, 503, 429, 408])
def test_passing_failures_are_tried_again(server, tmp_path, status):
    server.plan = [("status", status)] * download.RETRIES
    assert fetch(server, tmp_path / "w").read_bytes() == BODY


def test_retries_are_bounded(server, tmp_path):
    server.plan = [("status", 503)] * 100
    refused("503", fetch, server, tmp_path / "w")
    assert len(server.requests) == download.RETRIES + 1


def test_every_connection_that_brings_something_counts_as_progress(server, tmp_path):
    server.plan = [("cut", 20_000)] * 25
    assert fetch(server, tmp_path / "w").read_bytes() == BODY


def test_a_server_that_always_breaks_at_the_same_place_is_given_up(server, tmp_path):
    server.plan = [("cut", 200_000)] * 100
    server.etag = False
    refused("broke after 200000 of 600000 bytes", fetch, server, tmp_path / "w")
    assert len(server.requests) < 10 and not (tmp_path / "w").exists()


def test_stalled_connections_time_out(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 0.3)
    server.plan = [("stall", 1.0)]
    assert fetch(server, tmp_path / "w").read_bytes() == BODY
    assert len(server.requests) == 2


@pytest.mark.parametrize("status", [404, 403, 410])
def test_final_answers_are_not_tried_again(server, tmp_path, status):
    server.plan = [("status", status)] * 5
    refused(rf"{re.escape(server.url)}.*{status}", fetch, server, tmp_path / "w")
    assert len(server.requests) == 1 and names(tmp_path) == []


def test_nobody_there(tmp_path, monkeypatch):
    """At once, whatever RETRIES says: a refused connection, and a name that no resolver knows."""
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(download.time, "sleep", lambda _: pytest.fail("waited for nobody"))
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/w"
    refused("no connection", fetch_file, url, tmp_path / "w")

    def unknown(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    refused("no connection.*not known", fetch_file, "http://weights.invalid/w", tmp_path / "w")


def test_other_kinds_of_address_are_refused(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("x")
    for url in (secret.as_uri(), "ftp://example.org/w", "weights.bin", "http://127.0.0.1/a b"):
        refused("cannot download", fetch_file, url, tmp_path / "w")


def test_chunked_answers(server, tmp_path):
    server.framing = "chunked"
    server.plan = [("cut", 200_000)]
    assert fetch(server, tmp_path / "w").read_bytes() == BODY


def test_without_a_length_a_broken_copy_would_look_complete(server, tmp_path):
    server.framing = "none"
    server.plan = [("cut", 200_000)]
    refused("does not tell its length", fetch, server, tmp_path / "w")
    server.plan = [("cut", 200_000)]
    assert fetch(server, tmp_path / "w", size=len(BODY)).read_bytes() == BODY


def test_web_page_instead_of_the_file(server, tmp_path):
    server.content_type = "text/html; charset=utf-8"
    refused("web page", fetch, server, tmp_path / "weights.zip")
    assert names(tmp_path) == []
    assert fetch(server, tmp_path / "page.html").exists()


def test_progress_bar(server, tmp_path, capfd):
    fetch_file(server.url, tmp_path / "a")
    assert "100%" in capfd.readouterr().err
    fetch_file(server.url, tmp_path / "b", progress=False)
    assert capfd.readouterr().err == ""


# --- digests ------------------------------------------------------------------------------------------------


def test_published_digests_and_size(server, tmp_path):
    sha256, md5 = hashlib.sha256(BODY).hexdigest(), hashlib.md5(BODY).hexdigest()
    for n, right in enumerate([{"sha256": sha256}, {"md5": md5.upper()}, {"size": len(BODY), "sha256": sha256}]):
        fetch(server, tmp_path / f"right{n}", **right)
    assert names(tmp_path) == ["right0", "right1", "right2"]  # nothing to record
    fetch(server, tmp_path / "beginning", sha256=sha256[:8])
    assert sha256 in (tmp_path / "beginning.sha256").read_text()  # eight digits are few: the rest is held as well
    wrong = [{"sha256": "0" * 64}, {"sha256": "0" * 8}, {"md5": "0" * 32}, {"size": 5}, {"size": len(BODY) + 1}]
    for n, options in enumerate(wrong):
        refused(
            r"cannot (use|download) http.* instead of [^;]*$", fetch, server, tmp_path / "wrong" / str(n), **options
        )
    assert names(tmp_path / "wrong") == []


def test_the_digest_first_seen_is_held(server, tmp_path):
    target = fetch(server, tmp_path / "w")
    target.unlink()
    server.body = OTHER
    refused(f"cannot use {re.escape(server.url)}.*not the file seen first.*w.sha256", fetch, server, target)
    assert names(tmp_path) == ["w.sha256"]
    (tmp_path / "w.sha256").unlink()
    assert fetch(server, target).read_bytes() == OTHER
    target.write_bytes(BODY)
    refused("not the file seen first", fetch, server, target)
    assert target.read_bytes() == BODY  # a file of the user's is never deleted
    refused("instead of the published", fetch, server, target, md5="0" * 32)
    assert target.exists()


def test_files_put_there_by_hand_are_held_too(tmp_path):
    path = tmp_path / "w"
    path.write_bytes(BODY)
    verify_file(path)
    verify_file(path)
    path.write_bytes(OTHER)
    refused("not the file seen first", verify_file, path)


# --- disk and company ---------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_full_disk_while_writing(server, tmp_path):
    (tmp_path / "w.part").symlink_to("/dev/full")
    refused("cannot store.*No space left", fetch, server, tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_full_disk_foreseen(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    refused("make room", fetch, server, tmp_path / "w")
    assert server.sent <= len(BODY) and names(tmp_path) == []


def test_destination_that_cannot_be(server, tmp_path):
    (tmp_path / "file").write_text("x")
    refused("cannot store", fetch, server, tmp_path / "file" / "w")


@pytest.mark.skipif(download.fcntl is None, reason="needs file locks")
def test_several_at_once_download_once(server, tmp_path):
    server.plan = [("stall", 0.3)]
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(fetch(server, tmp_path / "w").read_bytes())) for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [BODY] * 5 and server.requests == [None]
    assert names(tmp_path) == ["w", "w.sha256"]


# --- archives -----------------------------------------------------------------------------------------------


def archive_of(path, *members, **options):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, content in members:
            archive.writestr(member, content, **options)
    return path


def linked(name):
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


def test_unzip(tmp_path):
    members = [("top/a.txt", b"a"), ("top/deep/b.bin", BODY), ("top/", b""), ("__MACOSX/x", b"x")]
    source = archive_of(tmp_path / "a.zip", *members)
    unzip(source, tmp_path / "all", limit=1 << 20)
    assert (tmp_path / "all/__MACOSX/x").read_bytes() == b"x"
    folder = unzip(source, tmp_path / "some", limit=1 << 20, top="top")
    assert names(folder) == ["a.txt", "deep"] and (folder / "deep/b.bin").read_bytes() == BODY
    source.unlink()
    assert unzip(source, folder, limit=0) == folder  # done before
    assert names(tmp_path) == ["all", "some"]


@pytest.mark.parametrize(
    ("members", "pattern"),
    [
        ([("ok", b"x"), ("../evil", b"x")], "not safe"),
        ([("ok", b"x"), ("a/../../evil", b"x")], "not safe"),
        ([("ok", b"x"), ("/tmp/evil", b"x")], "not safe"),
        ([("ok", b"x"), ("..\\evil", b"x")], "not safe"),
        ([("ok", b"x"), ("C:/evil", b"x")], "not safe"),
        ([("ok", b"x"), (linked("link"), b"/etc/passwd")], "link"),
        ([("ok", b"x"), (linked("link"), b".."), ("link/evil", b"x")], "link"),
        ([("ok", b"x"), ("bomb", b"\0" * 2_000_000)], "more than"),
        ([("ok", b"x"), ("./ok", b"y")], "twice"),
        ([("a", b"x"), ("a/b", b"y")], "cannot store"),
        ([], "empty"),
    ],
)
def test_harmful_archives_leave_nothing(tmp_path, members, pattern):
    inner = tmp_path / "inner"
    inner.mkdir()
    source = archive_of(inner / "a.zip", *members)
    refused(pattern, unzip, source, inner / "out", limit=1_000_000)
    assert names(inner) == ["a.zip"] and names(tmp_path) == ["inner"]


def test_a_header_that_understates_the_size_of_a_bomb(tmp_path):
    source = archive_of(tmp_path / "a.zip", ("bomb", b"\0" * 5_000_000))
    data = source.read_bytes()
    assert data.count((5_000_000).to_bytes(4, "little")) == 2
    source.write_bytes(data.replace((5_000_000).to_bytes(4, "little"), (10).to_bytes(4, "little")))
    refused("damaged", unzip, source, tmp_path / "out", limit=1_000_000)
    assert names(tmp_path) == ["a.zip"]


def test_damaged_and_encrypted_archives(tmp_path):
    source = archive_of(tmp_path / "a.zip", ("a", BODY))
    good = source.read_bytes()
    for bad in (good[:1000], good[:-1000], b"<html>", good.replace(BODY[1000:1004], b"????")):
        source.write_bytes(bad)
        refused("damaged", unzip, source, tmp_path / "out", limit=1 << 20)
    central = good.index(b"PK\x01\x02")
    source.write_bytes(good[: central + 8] + b"\x01" + good[central + 9 :])
    refused("encrypted", unzip, source, tmp_path / "out", limit=1 << 20)
    assert names(tmp_path) == ["a.zip"]


def test_no_room_to_unpack(tmp_path, monkeypatch):
    source = archive_of(tmp_path / "a.zip", ("a", BODY))
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    refused("make room", unzip, source, tmp_path / "out", limit=1 << 20)


# --- published weights --------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LAMA_MINIMAL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def big_lama_zip(checkpoint=BODY):
    buffer = io.BytesIO()
    archive_of(buffer, ("big-lama/config.yaml", b"generator: {}"), ("big-lama/models/best.ckpt", checkpoint))
    return buffer.getvalue()


def served(server, monkeypatch, name, file):
    monkeypatch.setitem(PUBLISHED, name, replace(PUBLISHED[name], url=server.url.replace("weights.bin", file)))


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("LAMA_MINIMAL_CACHE", "~/own")
    assert cache_folder() == Path.home() / "own"
    monkeypatch.delenv("LAMA_MINIMAL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "lama-minimal"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "lama-minimal"


def test_big_lama_is_fetched_unpacked_and_held(server, cache, monkeypatch):
    served(server, monkeypatch, "big-lama", "big-lama.zip")
    server.body = big_lama_zip()
    folder = fetch_weights("big-lama")
    assert folder == cache / "big-lama"
    assert (folder / "models/best.ckpt").read_bytes() == BODY and (folder / "config.yaml").exists()
    assert names(cache) == ["big-lama", "big-lama.zip.sha256"]
    assert fetch_weights("big-lama") == folder and len(server.requests) == 1
    (folder / "models/best.ckpt").write_bytes(OTHER)
    refused("best.ckpt is not the file seen first", fetch_weights, "big-lama")


def test_another_archive_later_is_refused(server, cache, monkeypatch):
    served(server, monkeypatch, "big-lama", "big-lama.zip")
    server.body = big_lama_zip()
    folder = fetch_weights("big-lama")
    download.shutil.rmtree(folder)
    server.body = big_lama_zip(OTHER)
    refused("not the file seen first", fetch_weights, "big-lama")
    assert not folder.exists()


def test_a_file_is_used_as_it_is(server, cache, monkeypatch):
    served(server, monkeypatch, "ade20k", "encoder_epoch_20.pth")
    assert fetch_weights("ade20k") == cache / "encoder_epoch_20.pth"
    assert fetch_weights("ade20k").read_bytes() == BODY and len(server.requests) == 1


def test_published_digests_are_asked_for(server, cache, monkeypatch):
    for name, file in (("vgg19", "vgg19.pth"), ("big-lama-torchscript", "big-lama.pt")):
        served(server, monkeypatch, name, file)
        refused("instead of the published", fetch_weights, name)
    assert names(cache) == []


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_without_a_network_one_line_says_what_to_fetch_and_where_to_put_it(server, cache, monkeypatch, name):
    server.shutdown()
    server.server_close()
    file = PUBLISHED[name].url.rpartition("/")[2]
    served(server, monkeypatch, name, file)
    weights = PUBLISHED[name]
    what, where, target = (re.escape(text) for text in (weights.url, weights.page, str(cache / file)))
    refused(f"^{name}: .*no connection.*{what}.*{where}.*{target}$", fetch_weights, name)


def test_what_was_put_there_by_hand_is_used(cache):
    """As the message says: here no network is asked, the addresses being the real ones."""
    cache.mkdir()
    (cache / "big-lama.zip").write_bytes(big_lama_zip())
    (cache / "encoder_epoch_20.pth").write_bytes(BODY)
    assert (fetch_weights("big-lama") / "models/best.ckpt").read_bytes() == BODY
    assert fetch_weights("ade20k").read_bytes() == BODY


def test_a_folder_put_there_by_hand(cache):
    (cache / "big-lama" / "models").mkdir(parents=True)
    refused("lacks models/best.ckpt", fetch_weights, "big-lama")
    (cache / "big-lama" / "models" / "best.ckpt").write_bytes(BODY)
    assert fetch_weights("big-lama") == cache / "big-lama"


def test_a_wrong_archive_put_there_by_hand(cache):
    cache.mkdir()
    (cache / "big-lama.zip").write_bytes(b"PK\x03\x04 half of it")
    refused("damaged or incomplete", fetch_weights, "big-lama")
    archive_of(cache / "big-lama.zip", ("lama-celeba/config.yaml", b"x"))
    refused("no folder 'big-lama'", fetch_weights, "big-lama")


def test_unknown_name():
    refused("did you mean big-lama", fetch_weights, "bib-lama")


def test_names_and_digests_of_the_table_agree():
    """torch.hub's convention, checked on the address, not on our copy of the digits."""
    assert re.search(r"-([0-9a-f]{8,})\.pth$", PUBLISHED["vgg19"].url)[1] == PUBLISHED["vgg19"].sha256
    for weights in PUBLISHED.values():
        assert (
            weights.url.startswith(("https://", "http://")) and weights.page.startswith("https://") and weights.licence
        )
