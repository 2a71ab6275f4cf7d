"""Training of both models: Keras `fit` on `tf.data`, bounded by steps, the same for a seed."""
