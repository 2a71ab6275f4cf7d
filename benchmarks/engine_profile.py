"""Where a step of the entropy engine spends its time, by kernel, on one core with TensorFlow.

    python benchmarks/engine_profile.py --model S --dtype float32

A step is one row of 512 random tokens; models as in benchmarks/engine.py, with random weights.
"""

import argparse
import collections
import os
import tempfile
from pathlib import Path

import numpy as np
from engine import MODELS, WINDOW

from blt.cli.quiet import import_keras, silence
from blt.engine.options import BFLOAT16, FLOAT32

STEPS = 10
ROW = 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="S")
    parser.add_argument("--dtype", choices=(FLOAT32, BFLOAT16), default=FLOAT32)
    arguments = parser.parse_args()
    silence()
    os.environ["TF_NUM_INTRAOP_THREADS"] = "1"
    import_keras().utils.set_random_seed(0)
    import tensorflow as tf
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    from blt.engine import EntropyEngine
    from blt.model.entropy_model import EntropyModel

    model = EntropyModel(**MODELS[arguments.model], window=WINDOW, normalization_type="rms_norm")
    engine = EntropyEngine(model, num_threads=1, precision=arguments.dtype)
    rng = np.random.default_rng(0)
    documents = [(i, rng.integers(4, 260, ROW)) for i in range(STEPS)]
    list(engine.run(documents))
    with tempfile.TemporaryDirectory() as folder:
        tf.profiler.experimental.start(folder)
        list(engine.run(documents))
        tf.profiler.experimental.stop()
        (path,) = Path(folder).rglob("*.xplane.pb")
        space = xplane_pb2.XSpace.FromString(path.read_bytes())
    milliseconds: collections.Counter[str] = collections.Counter()
    for plane in space.planes:
        names = {key: metadata.name for key, metadata in plane.event_metadata.items()}
        for line in plane.lines:
            for event in line.events:
                # An operation is named "its/name:Kernel", what runs it "Executor::Process".
                label, _, kernel = names[event.metadata_id].rpartition(":")
                if label and not label.endswith(":") and not kernel.startswith(" "):
                    milliseconds[kernel] += event.duration_ps / 1e9 / STEPS
    total = sum(milliseconds.values())
    print(f"| kernel | ms a step | share of {total:.1f} ms |\n|---|---|---|")
    for kernel, spent in milliseconds.most_common(12):
        print(f"| {kernel} | {spent:.2f} | {spent / total:.0%} |")


if __name__ == "__main__":
    main()
