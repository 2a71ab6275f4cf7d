"""Keeps the start-up noise of TensorFlow and Beam off the terminal.

Call `silence` before either is imported, and import Keras through `import_keras`.
"""

import contextlib
import importlib.util
import json
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from types import ModuleType

from blt.errors import UserError

FLOATX = "float32"
_BACKENDS = {"tensorflow": "tensorflow", "jax": "jax", "torch": "torch"}  # and their packages
_logger = logging.getLogger("blt.keras")


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

    What was held back is shown if the import fails. Numbers are float32 where nothing says
    otherwise, whatever the user's `keras.json` has as `floatx`.

    Raises:
      UserError: the backend that is asked for is none, or is not installed; names the fix.
    """
    if "keras" not in sys.modules:
        _check_backend()
    if "keras" in sys.modules or verbose:
        keras = _import_or_refuse()
        _settle(keras)
        return keras
    with redirect_stderr(replay_on_error=True):
        keras = _import_or_refuse()
        _settle(keras)
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            tf.get_logger().setLevel(logging.ERROR)
            tf.constant(0)  # the first operation starts the devices, and says so
    return keras


def _import_or_refuse() -> ModuleType:
    try:
        import keras
    except (AttributeError, TypeError, ValueError) as error:
        if not os.path.isfile(path := _config_path()):
            raise
        raise UserError(f"{path}: Keras cannot use it ({error}). Fix it, or delete it.") from error
    return keras


def _config_path() -> str:
    home = os.environ.get("KERAS_HOME") or os.path.join(os.path.expanduser("~"), ".keras")
    return os.path.join(home, "keras.json")


def _check_backend() -> None:
    name, where = os.environ.get("KERAS_BACKEND"), "KERAS_BACKEND"
    if not name:
        name, where = _configured_backend()
    if name not in _BACKENDS:
        raise UserError(
            f"{where} {name}: no backend that blt runs on; set KERAS_BACKEND to one of "
            f"{', '.join(_BACKENDS)}."
        )
    if importlib.util.find_spec(_BACKENDS[name]) is None:
        others = [n for n, package in _BACKENDS.items() if importlib.util.find_spec(package)]
        raise UserError(
            f"{where} {name}: the package {_BACKENDS[name]} is not installed. Install it, or set "
            f"KERAS_BACKEND to what is: {' or '.join(others) or 'none of the three is'}."
        )


def _configured_backend() -> tuple[str, str]:
    """Returns the backend of the user's `keras.json`, and where it is said; Keras's own else."""
    path = _config_path()
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)["backend"], f"{path}: backend"
    except (OSError, ValueError, KeyError, TypeError):
        return "tensorflow", "KERAS_BACKEND"


def _settle(keras: ModuleType) -> None:
    """Makes Keras independent of the user's `keras.json`, and of TensorFlow on other backends."""
    if keras.config.floatx() != FLOATX:
        _logger.info("floatx %s of keras.json is not used: it is %s", keras.config.floatx(), FLOATX)
        keras.config.set_floatx(FLOATX)
    if keras.backend.backend() != "tensorflow" and "tensorflow" not in sys.modules:
        # To load a model Keras asks whether a value is one of TensorFlow's, which imports it.
        with contextlib.suppress(ImportError, AttributeError):
            from keras.src.utils import module_utils

            module_utils.tensorflow._available = False


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
