"""Files as this project keeps them: written whole or not at all, and read without running anything."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from crossguard.core.errors import RunError

try:
    import fcntl
except ImportError:  # a system without it: no locks
    fcntl = None

# What a process that is being killed may still need until the kernel takes its locks away, in seconds.
PATIENCE = 2.0
# Read once: the only way to read it sets it, which other threads must not see.
_UMASK = os.umask(0o022)
os.umask(_UMASK)


def write_atomic(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write beside `path`, sync, then rename over it; on any failure `path` is as it was and nothing is left.

    What a killed process left of the same file is removed. Raises RunError where the disk is full or the folder cannot
    be written.
    """
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        handle, temporary = _temporary(path)
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp is private to its owner; what is written here is meant to be shared as far as the umask allows.
        os.chmod(temporary, 0o666 & ~_UMASK)
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise RunError(
            f"could not write {path}: {error.strerror or error}; what was there before is untouched. "
            f"Free some space or choose another folder, then run the same command again"
        ) from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def _temporary(path: Path) -> tuple[int, str]:
    """An empty file beside `path`, held as long as its writer lives."""
    while True:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        _hold(handle)
        if os.path.exists(name):  # else another process took it for a dead one's before it was held
            return handle, name
        os.close(handle)


def _sweep(path: Path) -> None:
    """Remove what writers of `path` left that are no more: nobody holds it."""
    for entry in os.scandir(path.parent):
        if entry.name.startswith(f".{path.name}.") and entry.name.endswith(".part"):
            try:
                with open(entry.path, "rb") as file:
                    if _hold(file.fileno()):
                        os.unlink(entry.path)
            except OSError:  # gone by now, or not ours to remove
                continue


def _hold(handle: int) -> bool | None:
    """Lock an open file until it is closed; the kernel lets go when the process ends, however it ends. False: another
    process has it; None: there are no locks here."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # some network file systems know none
        return None
    return True


@contextmanager
def locked(folder: Path, patience: float = PATIENCE) -> Generator[None]:
    """Hold a run's folder; the kernel lets go when the process ends, however it ends.

    Raises RunError where another process still holds it after `patience` seconds, or where it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("w")
    except OSError as error:
        raise RunError(f"cannot write into {folder}: {error.strerror or error}; choose another folder") from error
    end = time.monotonic() + patience
    with file:
        while _hold(file.fileno()) is False:
            if time.monotonic() > end:
                raise RunError(
                    f"another process is at work in {folder}; wait for it, stop it, or choose another folder"
                )
            time.sleep(0.05)
        yield


def write_json(path: Path, value: Any) -> None:
    """JSON, UTF-8; NaN and Inf are refused, say None."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    write_atomic(path, lambda file: file.write(text.encode()))


def read_json(path: Path) -> Any:
    """Read JSON; raises RunError where the file is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"could not read {path}: {error}") from error


def write_npz(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Compressed npz without objects."""
    for name, array in arrays.items():
        if array.dtype.hasobject:
            raise RunError(f"{path}: array {name!r} holds Python objects, which npz could only pickle")
    write_atomic(path, lambda file: np.savez_compressed(file, **arrays))  # pyright: ignore[reportArgumentType]


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """Read an npz without pickle; raises RunError where it is missing or damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:  # zipfile, zlib and numpy each raise their own
        raise RunError(f"could not read {path}: {error}") from error


def write_safetensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Tensors by name."""
    data = save_tensors({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    write_atomic(path, lambda file: file.write(data))


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Read tensors by name; raises RunError where the file is missing or damaged."""
    try:
        return load_tensors(path.read_bytes())
    except Exception as error:  # safetensors raises its own
        raise RunError(f"could not read {path}: {error}") from error
