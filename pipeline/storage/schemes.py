"""URL schemes: the kind of store that a path or URL names."""

from __future__ import annotations

import os

from pipeline.errors import UsageError
from pipeline.storage.access import Access
from pipeline.storage.local_store import LocalStore
from pipeline.storage.object_store import ObjectStore
from pipeline.storage.store import Store


def open_store(url: str, access: Access) -> Store:
    """The store for a folder's path or URL. Raises UsageError for a file, a server that cannot be
    written to, and a scheme that nothing installed knows."""
    fs, path = access.filesystem(url)
    if fs.protocol in ("file", ("file", "local")):
        if os.path.exists(path) and not os.path.isdir(path):
            raise UsageError(f"{url}: is a file; name a folder")
        return LocalStore(path, fs)
    if url.startswith(("http://", "https://")):
        raise UsageError(f"{url}: cannot be written to; name a folder on disk or an s3:// URL")
    return ObjectStore(url.rstrip("/"), fs, path.rstrip("/"), access.patience_s)
