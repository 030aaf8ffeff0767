"""Downloads from a server on this machine: whole, broken off, wrong, refused; and what is left on disk after each."""

import errno
import hashlib
import http.server
import io
import pathlib
import threading

import numpy as np
import pooch
import pytest

from mamba_jax import data
from mamba_jax.data import medmnist


class Server(http.server.ThreadingHTTPServer):
    """Serves one body, or less of it than it announces, or an error."""

    daemon_threads = True
    body = b""
    cut = 0
    announce = True
    status = 200
    requests = 0


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests += 1
        self.send_response(self.server.status)
        if self.server.announce:
            self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body[: len(self.server.body) - self.server.cut])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(arrays, monkeypatch):
    """A running server that offers a small file as BreastMNIST, listed with its address and MD5."""
    buffer = io.BytesIO()
    labels = {key: value % 2 for key, value in arrays.items() if key.endswith("labels")}
    np.savez(buffer, **{**arrays, **labels})
    server = Server(("127.0.0.1", 0), Handler)
    server.body = buffer.getvalue()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    entry = medmnist.info()["breastmnist"]
    monkeypatch.setitem(entry, "url", f"http://127.0.0.1:{server.server_port}/breastmnist.npz?download=1")
    monkeypatch.setitem(entry, "MD5", hashlib.md5(server.body).hexdigest())
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_missing_file_is_downloaded_once(server, tmp_path, capfd):
    root = tmp_path / "made" / "for it"
    loaded = data.load("breastmnist", root=root)
    assert (loaded.name, loaded.task, len(loaded.splits["train"])) == ("breastmnist", "binary", 12)
    assert [path.name for path in root.iterdir()] == ["breastmnist.npz"]
    assert (root / "breastmnist.npz").read_bytes() == server.body
    assert "100%" in capfd.readouterr().err
    data.load("breastmnist", root=root)
    assert server.requests == 1


def test_a_wrong_md5_leaves_nothing(server, tmp_path):
    server.body = server.body[:-1] + b"x"
    _fails(tmp_path, "has not the MD5", "not kept")


def test_a_download_that_breaks_off_leaves_nothing(server, tmp_path):
    server.cut = 100
    _fails(tmp_path, "broke off")


def test_a_short_download_of_unknown_length_leaves_nothing(server, tmp_path):
    server.cut, server.announce = 100, False
    _fails(tmp_path, "has not the MD5")


def test_an_error_of_the_server(server, tmp_path):
    server.status = 503
    _fails(tmp_path, "answered 503", "try later")


def test_no_network(server, tmp_path, monkeypatch):
    monkeypatch.setitem(medmnist.info()["breastmnist"], "url", "http://127.0.0.1:1/breastmnist.npz")
    _fails(tmp_path, "no network", "http://127.0.0.1:1/breastmnist.npz")


def test_a_root_that_cannot_be_made(server, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(data.DataError, match=r"cannot be written .* directory that you may write to") as error:
        data.load("breastmnist", root=tmp_path / "file" / "root")
    assert "\n" not in str(error.value)


def test_a_full_disk(server, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pooch, "retrieve", full)
    _fails(tmp_path, "No space left on device", "free space")


def test_an_existing_file_is_never_replaced(server, tmp_path):
    path = tmp_path / "breastmnist.npz"
    path.write_bytes(b"of another version")
    with pytest.raises(data.DataError, match="move it away"):
        data.load("breastmnist", root=tmp_path)
    assert path.read_bytes() == b"of another version"
    assert server.requests == 0


def _fails(root: pathlib.Path, *parts: str) -> None:
    with pytest.raises(data.DataError) as error:
        data.load("breastmnist", root=root)
    message = str(error.value)
    assert "\n" not in message
    for part in ("breastmnist.npz is missing", *parts):
        assert part in message
    assert not list(root.iterdir())
