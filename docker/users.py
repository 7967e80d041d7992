"""Makes the users of an MLflow server that asks for passwords, which they get from files.

    MLFLOW_TRACKING_URI=... python users.py FOLDER

FOLDER holds `admin_password` and of each user `<user>_password`.
It may run again, after a password was changed.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import requests
from mlflow.exceptions import MlflowException
from mlflow.server import get_app_client

EDITS = {
    "train": ("experiment", "registered_model"),
    "promote": ("experiment", "registered_model"),
    "serve": (),
}
"""What users may write to, whoever made it; all read everything. What MLflow cannot tell apart, such as
making a version and promoting it, the proxy does (nginx.conf)."""


def password_of(user: str, folder: Path) -> str:
    password = (folder / f"{user}_password").read_text().strip()
    if len(password) < 12:
        sys.exit(f"users: the password of {user} has {len(password)} characters: at least 12 are wanted")
    return password


def is_theirs(address: str, user: str, password: str) -> bool:
    """Whether the server takes it."""
    url = f"{address}/api/2.0/mlflow/users/current"
    return requests.get(url, auth=(user, password), timeout=30).ok


def there_already(make: Callable[..., object], *given: str) -> None:
    """Makes something, unless a run before has made it."""
    try:
        make(*given)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def main(folder: Path) -> None:
    address = os.environ["MLFLOW_TRACKING_URI"].rstrip("/")
    admin = password_of("admin", folder)
    if not is_theirs(address, "admin", admin):
        sys.exit("users: admin_password is not the admin's. MLflow keeps the one of its first start")
    os.environ |= {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": admin}
    client = get_app_client("basic-auth", tracking_uri=address)
    for user, kinds in EDITS.items():
        password = password_of(user, folder)
        there_already(client.create_user, user, password)
        if not is_theirs(address, user, password):
            client.update_user_password(user, password)
        for kind in kinds:
            there_already(client.grant_user_permission, user, kind, "*", "EDIT")
        print(f"users: {user} reads, and may edit {' and '.join(kinds) or 'nothing'}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
