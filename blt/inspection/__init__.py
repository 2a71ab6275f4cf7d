"""What is in this folder or file? Answers for whatever a stage made, and for raw corpora."""

from blt.cli.command import Summary
from blt.dataset.manifest import MANIFEST_NAME
from blt.dataset.plan_file import PLAN_NAME
from blt.dataset.storage import Place
from blt.errors import UserError
from blt.inspection.check import check_folder
from blt.inspection.datasets import Look
from blt.inspection.files import describe_file
from blt.inspection.folders import describe_folder

__all__ = ["Look", "check_folder", "inspect_path"]


def inspect_path(path: Place, look: Look) -> Summary:
    """Describes a folder or file, as data and in words that are safe to print.

    Raises:
      UserError: it does not exist, or is nothing that is known.
      WorkError: it is, but what was looked at is damaged.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or folder.")
    if path.name in (MANIFEST_NAME, PLAN_NAME):
        path = path.parent
    return describe_folder(path, look) if path.is_dir() else describe_file(path, look)
