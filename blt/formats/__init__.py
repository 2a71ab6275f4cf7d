"""The records on disk, each readable by plain TensorFlow or pyarrow as well."""
