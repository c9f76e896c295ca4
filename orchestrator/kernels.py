"""The one door to numba: kernels without the GIL, their machine code kept where this process may write.

Compiling takes seconds, so numba keeps machine code beside the source or in the user's cache folder.  Where
neither can be written (a read-only container, a unit with ProtectSystem= and ProtectHome=) it refuses to
import the module at all.  :func:`kernel` looks further, at the first call: a folder that was offered (a
role's state folder), ``$CACHE_DIRECTORY`` of systemd (systemd.exec(5)), a private folder below ``$TMPDIR``.
What was compiled beside the source by whoever installed it (``qunetlab compile``) is read even where it cannot be written.
If there is none of that, and no folder can be written, or the one found is full or damaged, the kernel is compiled for this
process alone, which is said once.

What lies in a cache is code that will run: a folder is used only if it is this user's and nobody else can
write it.  Numba writes the index of a kernel before the code that it names, and two processes may choose one name for
the code of two types; so who writes holds the folder alone (flock), and nobody reads meanwhile.
"""

from __future__ import annotations

import fcntl
import logging
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

logger = logging.getLogger(__name__)

FOLDER_SETTING, TOLD_SETTING = "NUMBA_CACHE_DIR", "QUNETLAB_KERNELS_UNCACHED"
"""Environment: numba's own setting, which child processes inherit; and whether the user was told already."""

LOCK = "qunetlab-kernels.lock"

_F = TypeVar("_F", bound=Callable[..., Any])
_offered: list[Path] = []


def kernel(function: _F) -> _F:
    """Compile ``function`` at its first call with arguments of each type, without the GIL, and keep the result."""
    import numba

    compiled: Any = numba.njit(nogil=True)(function)
    compiled._cache = _KernelCache(function)  # what cache=True does, with numba's own class
    return cast(_F, compiled)


def offer_folder(folder: Path) -> None:
    """Let kernels be kept in ``folder``, which is made when needed, if numba finds no place of its own."""
    if folder not in _offered:
        _offered.append(folder)


class _KernelCache:
    """Numba's cache of one function, in the first place that takes it; a cache in trouble is none."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._found: Any = None
        self._looked = False

    def _cache(self) -> Any:
        if not self._looked:
            self._looked = True
            self._found = _cache_of(self._function)
        return self._found

    def load_overload(self, signature: Any, target: Any) -> Any:
        """The machine code for ``signature``, None if it must be compiled."""
        found = self._load(self._cache(), signature, target)
        return self._load(_installed(self._function), signature, target) if found is None else found

    def _load(self, cache: Any, signature: Any, target: Any) -> Any:
        if cache is None:
            return None
        try:
            with _held(cache, fcntl.LOCK_SH):
                return cache.load_overload(signature, target)
        except Exception as error:  # noqa: BLE001 - unpickling a damaged file fails in any way; it is written anew
            logger.info("machine code in %s cannot be read (%r) and is made anew", cache.cache_path, error)
            if cache is self._found:
                self.flush()  # numba reads a damaged index again before it adds to it
            return None

    def save_overload(self, signature: Any, compiled: Any) -> None:
        """Keep machine code, if it can be kept."""
        cache = self._cache()
        if cache is None:
            _tell_once("no folder for them can be written")
            return
        try:
            with _held(cache, fcntl.LOCK_EX):
                cache.save_overload(signature, compiled)
        except OSError as error:
            _tell_once(f"{cache.cache_path}: {error.strerror or error}")

    @property
    def cache_path(self) -> str | None:
        """Where the machine code is kept, if anywhere."""
        cache = self._cache()
        return None if cache is None else str(cache.cache_path)

    def flush(self) -> None:
        """Forget what is kept (numba's ``recompile`` asks for it)."""
        if (cache := self._cache()) is not None:
            try:
                with _held(cache, fcntl.LOCK_EX):
                    cache.flush()
            except OSError as error:
                _tell_once(f"{cache.cache_path}: {error.strerror or error}")


@contextmanager
def _held(cache: Any, how: int) -> Iterator[None]:
    """The folder of ``cache`` for this process alone, or together with others that read; one that none can write is free."""
    try:
        lock = os.open(Path(cache.cache_path) / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        yield
        return
    try:
        fcntl.flock(lock, how)
        yield
    finally:
        os.close(lock)


def _cache_of(function: Callable[..., Any]) -> Any:
    """Numba's cache for ``function``, or None if there is no place."""
    import numba.core.config

    config: Any = numba.core.config
    if (found := _numba_cache(function)) is not None:
        return found
    for folder in _folders():
        if _is_private(folder):
            config.CACHE_DIR = str(folder)
            if (found := _numba_cache(function)) is not None:
                os.environ[FOLDER_SETTING] = str(folder)
                return found
    return None


def _numba_cache(function: Callable[..., Any]) -> Any:
    import numba.core.caching

    numba_cache: Any = numba.core.caching.FunctionCache
    try:
        return numba_cache(function)
    except (RuntimeError, OSError):  # "no locator available"; a home that is no folder
        return None


def _installed(function: Callable[..., Any]) -> Any:
    """Numba's cache beside the source, to be read alone; None if there is no such folder."""
    import numba.core.caching

    numba_cache: Any = numba.core.caching.FunctionCache
    beside = next(
        each
        for each in numba_cache._impl_class._locator_classes
        if each.__name__.lstrip("_") == "InTreeCacheLocator"
    )

    def found(locator: Any) -> None:
        if not Path(locator.get_cache_path()).is_dir():
            raise FileNotFoundError(locator.get_cache_path())

    reading = type("_Reading", (beside,), {"ensure_cache_path": found})
    places = type("_Places", (numba_cache._impl_class,), {"_locator_classes": [reading]})
    try:
        return type("_Installed", (numba_cache,), {"_impl_class": places})(function)
    except (RuntimeError, OSError):
        return None


def _folders() -> Iterator[Path]:
    """Where else kernels may be kept, best first."""
    yield from _offered
    for folder in filter(None, os.environ.get("CACHE_DIRECTORY", "").split(":")):
        yield Path(folder) / "kernels"
    try:
        yield Path(tempfile.gettempdir()) / f"numba-qunetlab-{os.getuid()}"
    except OSError:
        return  # no temporary folder can be written either


def _is_private(folder: Path) -> bool:
    """Whether ``folder``, made if missing, is this user's own and can be written by nobody else."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return False
    own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
    return own and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _tell_once(reason: str) -> None:
    if os.environ.get(TOLD_SETTING):
        return
    os.environ[TOLD_SETTING] = "1"
    logger.warning(
        "numerical kernels are compiled anew by every process, which takes some seconds (%s); "
        "set %s to a folder of your own that can be written",
        reason,
        FOLDER_SETTING,
    )
