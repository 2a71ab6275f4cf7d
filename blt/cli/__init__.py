"""The command line: the console, quiet start-up, what every command has in common."""
