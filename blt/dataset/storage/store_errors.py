"""What stores and their client say when they fail, as errors of one line.

Their own words are long, name URLs (which may be signed), and seldom say what to do.
"""

import errno
import os
import re
from urllib.parse import unquote

from blt.dataset.storage.stored import changed, scheme_of

_STATUS = re.compile(r"status code: (\d{3}[A-Za-z \-]*)")
_CODE = re.compile(r"<Code>(\w+)</Code>|\"code\": *\"(\w+)\"")
_REGION = re.compile(r"<Region>([\w-]+)</Region>|expecting '([\w-]+)'")
_RETRIES = re.compile(r"after (\d+) retries")
_URL = re.compile(r"\w+://\S+")
_NAMES = re.compile(r"<(Key|Resource|Details)>.*?</\1>")
_NO_BUCKET = re.compile(r"NoSuchBucket|ContainerNotFound|bucket does not exist", re.IGNORECASE)
_GIVES_CREDENTIALS = re.compile(
    r"/latest/(?:api/token|meta-data)|computeMetadata|metadata\.google|/metadata/identity|//169\.254\."
)
_NO_CREDENTIALS = re.compile(r"missing credential|Account must be specified", re.IGNORECASE)
_EXPIRED = re.compile(
    r"Expired ?Token|TokenRefreshRequired|RequestExpired|token (?:is|has) expired"
)
_ELSEWHERE = re.compile(
    r"redirect|AuthorizationHeaderMalformed|IllegalLocationConstraint", re.IGNORECASE
)
_BAD_NAME = re.compile(r"Could not parse path|invalid path|Error parsing Path|empty path segment")
_BROKEN = re.compile(r"error sending request|timed out|connection (?:closed|reset)", re.IGNORECASE)
_TOO_FAR = re.compile(r"status code: 416|Wanted range starting at")

_CREDENTIALS = {
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, or log in by gcloud auth application-default login",
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run where an instance role gives some",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY (or another of AZURE_*)",
}


def as_os_error(error: Exception, place: str) -> OSError:
    """Returns the OSError that says what went wrong at a place.

    Args:
      error: what the client raised.
      place: a URL.
    """
    if isinstance(error, OSError) and error.errno is not None:
        return error  # it is such a one already
    if isinstance(error, ModuleNotFoundError):
        reason = f"{scheme_of(place)}:// needs the package {error.name}: pip install 'blt[stores]'"
        return OSError(errno.ENOTSUP, reason, place)
    text = str(error).partition("Debug source:")[0].strip()
    bucket, _, key = place.partition("://")[2].partition("/")
    urls = [url for url in _URL.findall(text) if bucket not in unquote(url)]
    if _GIVES_CREDENTIALS.search(" ".join(urls)):  # and does not answer
        return OSError(errno.EACCES, _no_credentials(place), place)
    # Names in it are the user's, and may be like any word that is looked for.
    text = _NAMES.sub("", _URL.sub("…", text))
    for end in " :" if key else "":
        text = text.replace(f" {key}{end}", f" …{end}")
    status = (_STATUS.search(text) or ["", ""])[1].strip()
    if refusal := _refusal(text, status, place):
        return OSError(*refusal, place)
    kind = type(error).__name__
    if kind == "PreconditionError":
        return changed(place)
    if kind == "AlreadyExistsError":
        return FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), place)
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), place)
    return OSError(*_failure(text, status), place)


def _refusal(text: str, status: str, place: str) -> tuple[int, str] | None:
    """Returns what the user can fix: a wrong place, or credentials."""
    bucket = "/".join(place.split("/")[:3])
    if _NO_BUCKET.search(text):
        return errno.ENXIO, f"there is no bucket {bucket}, check its name"
    if _EXPIRED.search(text):
        return errno.EACCES, f"the credentials have expired, renew them{_code(text)}"
    if _ELSEWHERE.search(text):
        region = _REGION.search(text)
        name = next(filter(None, region.groups())) if region else "its region"
        return errno.EREMOTE, f"{bucket} lies in another region, set AWS_REGION to {name}"
    if _NO_CREDENTIALS.search(text):
        return errno.EACCES, _no_credentials(place)
    if status[:3] in ("401", "403"):
        reason = f"no permission{_code(text, status)}: "
        return errno.EACCES, f"{reason}let the account in use at {bucket}, or use another"
    if _BAD_NAME.search(text):
        reason = f"names with empty parts, . or .. cannot be read ({_words(text)})"
        return errno.EINVAL, reason
    return None


def _no_credentials(place: str) -> str:
    variables = _CREDENTIALS.get(scheme_of(place), _CREDENTIALS["az"])
    return f"no credentials were found, set {variables}"


def _failure(text: str, status: str) -> tuple[int, str]:
    """Returns what went on failing, or may be asked again."""
    if _TOO_FAR.search(text):
        return errno.EIO, "ends before the bytes that were asked for"
    retries = _RETRIES.search(text)
    tried = f" after {retries[1]} more attempts" if retries else ""
    if status:
        return errno.EIO, f"HTTP {status}{_code(text)}{tried}"
    return errno.ECONNRESET if _BROKEN.search(text) else errno.EIO, _words(text) + tried


def _code(text: str, default: str = "") -> str:
    """Returns the store's own word for an error in brackets, or `default`."""
    code = _CODE.search(text)
    word = next(filter(None, code.groups())) if code else default
    return f" ({word})" if word else ""


def _words(text: str) -> str:
    """Returns the last cause that a message names."""
    return text.partition("\n")[0].rpartition(" - ")[2][:200]
