"""One file over HTTP to a directory: whole and with the right MD5, or not at all."""

import contextlib
import pathlib

import pooch
import requests

from mamba_jax.data import dataset

_TIMEOUT_S = 30
_CHUNK_BYTES = 1 << 18


def fetch(url: str, path: pathlib.Path, *, md5: str) -> None:
    """Downloads `url` to `path`, with a progress bar, under a temporary name until its MD5 is checked.

    Args:
      url: http or https.
      path: where it goes; must not exist. Its directory is made where it is missing.
      md5: expected hash, hexadecimal.

    Raises:
      DataError: no network, a broken or wrong download, or a directory that cannot take it. Nothing is left at `path`.
    """
    by_hand = f"download {url} elsewhere and put it there"
    try:
        _retrieve(url, path, md5)
    except requests.HTTPError as error:
        reason = f"the server answered {error.response.status_code} for {url}"
        raise dataset.DataError(f"{path} is missing and {reason}; try later, or {by_hand}") from error
    except requests.RequestException as error:
        reason = f"its download broke off or found no network ({type(error).__name__})"
        raise dataset.DataError(f"{path} is missing and {reason}; try again, or {by_hand}") from error
    except ValueError as error:
        reason = f"what was downloaded has not the MD5 {md5} that medmnist lists, so it was not kept"
        raise dataset.DataError(f"{path} is missing and {reason}; try again, or {by_hand}") from error
    except OSError as error:
        reason = f"it cannot be written ({error.strerror or type(error).__name__})"
        remedy = "free space, or name a directory that you may write to"
        raise dataset.DataError(f"{path} is missing and {reason}; {remedy}") from error


def _retrieve(url: str, path: pathlib.Path, md5: str) -> None:
    with contextlib.ExitStack() as stack:
        downloader = pooch.HTTPDownloader(
            progressbar=True,
            chunk_size=_CHUNK_BYTES,
            timeout=_TIMEOUT_S,
            # pooch leaves the connection open where a download fails.
            hooks={"response": lambda response, *_, **__: stack.push(response)},
        )
        pooch.retrieve(url, known_hash=f"md5:{md5}", fname=path.name, path=path.parent, downloader=downloader)
    path.chmod(0o644)
