"""Where datasets live, and how files are published there whole or not at all.

A *place* is a path here or a URL of a store (`gs://`, `s3://`, `az://`); `as_place` makes one of
what the user gives. `places` has what can be done at either, `publishing` and `reading` what is
made of that, `cache` the copies of files that must be files here, and `local` what folders on this
machine need.
"""

from blt.dataset.storage.cache import kept_copy, local_copy
from blt.dataset.storage.local import TEMPORARY_PREFIX, remove_temporaries, shared_use
from blt.dataset.storage.places import (
    ChangedError,
    PlaceLike,
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
from blt.dataset.storage.publishing import (
    atomic_path,
    check_publication,
    fetch_all,
    fetched,
    json_bytes,
    noted_publications,
    prepare_output_file,
    prepare_output_folder,
    remove_scratch,
    scratch_file,
    write_json,
)
from blt.dataset.storage.reading import (
    delete_all,
    errors_named,
    file_version,
    json_errors,
    local_folder,
    open_source,
    place_errors,
    read_all,
    read_json,
    sha256_file,
    sha256_json,
    subfolders,
)
from blt.dataset.storage.store_place import Place, StorePlace, as_place, check_url

__all__ = [
    "TEMPORARY_PREFIX",
    "ChangedError",
    "Place",
    "PlaceLike",
    "StorePlace",
    "StoredFile",
    "as_place",
    "atomic_path",
    "check_publication",
    "check_url",
    "create",
    "delete",
    "delete_all",
    "errors_named",
    "fetch_all",
    "fetched",
    "file_version",
    "find",
    "is_remote",
    "json_bytes",
    "json_errors",
    "kept_copy",
    "list_below",
    "local_copy",
    "local_folder",
    "noted_publications",
    "open_read",
    "open_source",
    "open_write",
    "place_errors",
    "prepare_output_file",
    "prepare_output_folder",
    "read_all",
    "read_json",
    "read_range",
    "remove_scratch",
    "remove_temporaries",
    "replace",
    "scratch_file",
    "sha256_file",
    "sha256_json",
    "shared_use",
    "stat",
    "subfolders",
    "write_json",
]
