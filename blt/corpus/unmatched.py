"""A name or pattern that the user gave and that matches nothing."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Unmatched:
    """A name that matches nothing.

    Attributes:
      flag: that it was given by.
      name: as given.
      message: a line for the user.
    """

    flag: str
    name: str
    message: str
