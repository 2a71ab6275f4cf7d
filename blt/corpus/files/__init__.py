"""Files: found, told apart, opened, decompressed."""
