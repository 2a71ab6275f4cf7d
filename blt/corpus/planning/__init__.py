"""Planning: which unit reads which file, looked at before any work, and again when files change."""
