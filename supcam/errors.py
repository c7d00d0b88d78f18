"""Errors that users see, each with the exit code its command ends with."""

import errno
from typing import ClassVar


class SupcamError(Exception):
    """Something failed. The message names the thing, its value, what is allowed and the remedy."""

    exit_code: ClassVar[int] = 1


class UsageError(SupcamError):
    """The command, a setting or an input was wrong."""

    exit_code = 2


class SettingError(UsageError):
    """A setting is unknown or out of range."""

    def __init__(self, name: str, value: object, allowed: str, remedy: str = "Correct it in params.yaml.") -> None:
        super().__init__(f"setting {name} = {value!r} is not allowed; allowed: {allowed}. {remedy}")


class MissingExtra(UsageError):
    """The command needs packages that the light install leaves out."""

    def __init__(self, what: str, extra: str = "train") -> None:
        super().__init__(
            f"{what} needs the extra {extra!r}, which is not installed. "
            f"Run in the checkout of supcam: pip install '.[{extra}]'"
        )


def explained(error: SupcamError | OSError) -> SupcamError:
    """An error of the file system as one of ours, naming the file; one that names none, for another cause than a full
    disk, is raised again.
    """
    if isinstance(error, SupcamError):
        return error
    if error.filename is None:
        # Writing into an open file names none, and copying a folder lists (from, to, why) of every file.
        text = str(error.args[0][0][2]) if _is_list_of_copies(error) else str(error)
        if error.errno in _NO_ROOM or any(f"Errno {number}]" in text for number in _NO_ROOM):
            return SupcamError(f"{text.rsplit('] ')[-1]}. Nothing was changed; free some space and run again.")
        raise error
    return SupcamError(f"{error.filename}: {error.strerror}. Check that it exists, is writable and the disk has room.")


_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _is_list_of_copies(error: OSError) -> bool:
    first = error.args[0] if error.args else None
    return isinstance(first, list) and bool(first) and isinstance(first[0], tuple) and len(first[0]) == 3


class GateRefused(SupcamError):
    """A gate did its work: data failed validation, or a model was not good enough."""

    exit_code = 3
