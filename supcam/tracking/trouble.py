"""What a store that refuses or cannot be used means, in one line with a remedy."""

import re

_LOGIN = "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (or MLFLOW_TRACKING_TOKEN)"


def shown(uri: str) -> str:
    """The address without a password."""
    scheme, separator, rest = uri.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}" if "@" in rest else uri


def store_trouble(error: BaseException, uri: str) -> str | None:
    """What an error of MLflow or its database says about the store at ``uri``; None for others."""
    text, uri = str(error), shown(uri)
    code = str(getattr(error, "error_code", ""))
    status = found.group(1) if (found := re.search(r"failed with error code (\d{3})", text)) else ""
    if "database is locked" in text:
        return f"the store {uri} is locked by another program that writes to it. Wait for it, or end it; run again."
    if "readonly database" in text or "read-only" in text.lower():
        return f"the store {uri} cannot be written. Give this user the right to write to the database and its folder."
    if "unable to open database file" in text:
        return f"the store {uri} cannot be opened. Check that its folder exists and this user may write there."
    if status == "401" or code == "UNAUTHENTICATED":
        return f"the server {uri} wants a name and a password (401). {_LOGIN}."
    if status == "403" or code == "PERMISSION_DENIED":
        return f"the server {uri} does not allow this to this user (403). {_LOGIN} of a user who may, or ask its owner."
    if status == "404" or "was not in a valid JSON format" in text or "Expecting value" in text:
        return f"the server {uri} is not an MLflow server: it does not answer as one. Check MLFLOW_TRACKING_URI."
    return None
