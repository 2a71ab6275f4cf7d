"""The commands that need no Beam; one module each, see `blt.cli.command`."""
