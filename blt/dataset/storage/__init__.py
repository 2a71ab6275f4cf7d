"""Where datasets live, and how files are published there whole or not at all.

A *place* is a path here or a URL of a store (`gs://`, `s3://`, `az://`). `places` has what can be
done at either; `local` has what the stages use for folders on this machine.
"""

from blt.dataset.storage.local import (
    TEMPORARY_PREFIX,
    atomic_path,
    json_errors,
    prepare_output_file,
    prepare_output_folder,
    read_json,
    remove_temporaries,
    sha256_file,
    sha256_json,
    sole_use,
    write_json,
)
from blt.dataset.storage.places import (
    ChangedError,
    StoredFile,
    create,
    delete,
    find,
    is_remote,
    list_below,
    open_read,
    open_write,
    read_range,
    replace,
    stat,
)

__all__ = [
    "TEMPORARY_PREFIX",
    "ChangedError",
    "StoredFile",
    "atomic_path",
    "create",
    "delete",
    "find",
    "is_remote",
    "json_errors",
    "list_below",
    "open_read",
    "open_write",
    "prepare_output_file",
    "prepare_output_folder",
    "read_json",
    "read_range",
    "remove_temporaries",
    "replace",
    "sha256_file",
    "sha256_json",
    "sole_use",
    "stat",
    "write_json",
]
