"""Models from and to the checkpoints of other libraries; see docs/convert.md."""
