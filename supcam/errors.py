"""Errors that users see, each with the exit code its command ends with."""

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
    """An error of the file system as one of ours, naming the file; one that names no file is raised again."""
    if isinstance(error, SupcamError):
        return error
    if error.filename is None:
        raise error
    return SupcamError(f"{error.filename}: {error.strerror}. Check that it exists, is writable and the disk has room.")


class GateRefused(SupcamError):
    """A gate did its work: data failed validation, or a model was not good enough."""

    exit_code = 3
