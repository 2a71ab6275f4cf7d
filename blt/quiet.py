"""Keeps the start-up noise of TensorFlow and Beam off the terminal.

Call `silence` before either is imported, and import Keras through `import_keras`.
"""

import contextlib
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from types import ModuleType


def silence(*, verbose: bool = False) -> None:
    """Sets the log levels: warnings of our own and errors of others; with `verbose`, all of it."""
    level = logging.INFO if verbose else logging.ERROR
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "0" if verbose else "3")
    os.environ.setdefault("GRPC_VERBOSITY", "INFO" if verbose else "NONE")
    # A handler of ours must be there first: importing Beam installs one of its own.
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger().setLevel(level)
    if not verbose:  # Beam logs a traceback for what we say in one line
        logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    if not verbose:
        warnings.filterwarnings("ignore")


def import_keras(*, verbose: bool = False) -> ModuleType:
    """Imports Keras with its backend, holding back what native code writes while loading.

    What was held back is shown if the import fails.
    """
    if "keras" in sys.modules or verbose:
        import keras

        return keras
    with redirect_stderr(replay_on_error=True):
        import keras

        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            tf.get_logger().setLevel(logging.ERROR)
            tf.constant(0)  # the first operation starts the devices, and says so
    return keras


@contextlib.contextmanager
def redirect_stderr(*, replay_on_error: bool = False) -> Iterator[None]:
    """Sends file descriptor 2, as native code and child processes write to it, to a file.

    Args:
      replay_on_error: write what was held back to the real standard error if the block raises.
    """
    try:
        saved = os.dup(2)
    except OSError:  # there is no standard error
        yield
        return
    with tempfile.TemporaryFile() as held:
        sys.stderr.flush()
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            if replay_on_error:
                sys.stderr.flush()
                held.seek(0)
                os.write(saved, held.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(saved, 2)
            os.close(saved)
