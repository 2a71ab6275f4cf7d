"""What a command's summary says of the datasets that it read together."""

import dataclasses

from blt.cli.command import Summary
from blt.dataset.several import Datasets


def with_read(summary: Summary, **read: Datasets | None) -> Summary:
    """Returns a summary that also names the folders of datasets that were read together.

    Args:
      summary: of the command; one dataset of each kind leaves it as it is.
      read: the datasets, by flag.
    """
    several = {
        flag: [str(member.folder) for member in datasets.members]
        for flag, datasets in read.items()
        if datasets is not None and len(datasets.members) > 1
    }
    lines = [f"  --{flag}, together: {', '.join(folders)}" for flag, folders in several.items()]
    return dataclasses.replace(
        summary, data={**summary.data, **several}, lines=[*summary.lines, *lines]
    )
