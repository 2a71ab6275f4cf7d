"""Training shards as `tf.data`; the one package besides the trainers that needs TensorFlow."""

from blt.data.training_dataset import training_dataset

__all__ = ["training_dataset"]
