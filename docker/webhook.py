"""Has an MLflow server tell a router at once when an alias moves in the registry.

    MLFLOW_TRACKING_URI=... ADAPTF_WEBHOOK_SECRET=... python webhook.py http://router:5001/registry-changed

It may run again, also after the secret was changed.
"""

import os
import sys

import mlflow

NAME = "router"
EVENTS = ["model_version_alias.created", "model_version_alias.deleted"]


def main(url: str) -> None:
    client, secret = mlflow.MlflowClient(), os.environ["ADAPTF_WEBHOOK_SECRET"]
    there = next((hook for hook in client.list_webhooks() if hook.name == NAME), None)
    if there is None:
        client.create_webhook(NAME, url, EVENTS, secret=secret)
    else:
        client.update_webhook(there.webhook_id, url=url, events=EVENTS, secret=secret)
    print(f"webhook: {url} is told when an alias moves", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
