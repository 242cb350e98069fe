"""Keys and secrets of a stage: made or asked for at the first deployment, kept in SSM, printed nowhere."""

import base64
import getpass
import json
import os
import secrets
import sys

from .environment import Refused

QUEUE_TOKEN_KEYS = "queue-token-keys"

# The documents that the functions read, field by field. TEXT is a secret, TABLE a JSON object of texts.
TEXT, TABLE = "text", "table"
DOCUMENTS = {
    "alimtalk": {"app_key": TEXT, "secret_key": TEXT, "sender_key": TEXT, "templates": TABLE},
    "cash-receipt": {"secret_key": TEXT},
    "data-platform": {"signing_secret": TEXT},
    "notion": {"token": TEXT, "database_id": TEXT},
    "partner": {"signing_secret": TEXT},
    "payment-provider": {"secret_key": TEXT},
    "user-directory": {"token": TEXT},
}


def path(system, name):
    """Its path in SSM."""
    return f"/{system}/{name}"


def variable(name):
    """The environment variable with a secret, as the JSON document."""
    return f"ENCORE_SECRET_{name.upper().replace('-', '_')}"


def needed(of_template, values):
    """The secrets of the providers that the stage has."""
    return [name for name, url in of_template.items() if values.get(url)]


def new_queue_token_keys():
    """The document of the parameter QueueTokenKeys, with one key."""
    kid = _kid()
    return _document(kid, [_key(kid)])


# The keys change in three deployments, because during each one, functions from before and after it run side by side:
# each must accept what the other signs.


def with_a_new_key(document):
    """First: every function knows another key, and none signs with it yet."""
    keys = json.loads(document)
    return _document(keys["current"], [*keys["keys"], _key(_kid())])


def with_the_newest_key_current(document):
    """Then they sign with it. Tokens signed with the others stay valid."""
    keys = json.loads(document)["keys"]
    return _document(keys[-1]["kid"], keys)


def with_the_current_key_only(document):
    """At last, when no token signed with the others is valid any more, those are removed."""
    keys = json.loads(document)
    return _document(keys["current"], [key for key in keys["keys"] if key["kid"] == keys["current"]])


ROTATION = {
    "add": with_a_new_key,
    "use": with_the_newest_key_current,
    "forget": with_the_current_key_only,
}


def _document(current, keys):
    return json.dumps({"current": current, "keys": keys}, separators=(",", ":"))


def _kid():
    return f"q-{secrets.token_urlsafe(6)}"


def _key(kid):
    secret = base64.urlsafe_b64encode(secrets.token_bytes(32)).rstrip(b"=").decode()
    return {"kid": kid, "secret": secret}


def check(name, document):
    """The document as it is stored. No refusal contains its content."""
    fields = DOCUMENTS.get(name)
    if fields is None:
        raise Refused(f"nobody has said what the secret {name} is made of; see infra/delivery/keys.py")
    if not isinstance(document, dict) or document.keys() != fields.keys():
        raise Refused(f"the secret {name} is a JSON object of {', '.join(fields)}")
    for field, kind in fields.items():
        value = document[field]
        texts = value.values() if kind == TABLE and isinstance(value, dict) and value else [value]
        if not all(isinstance(text, str) and text.strip() for text in texts):
            raise Refused(f"the secret {name} has no proper {field}")
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False)


def obtain(name, environment=os.environ, ask=getpass.getpass, interactive=None):
    """A secret's document, from its environment variable or by prompting for each field without echo."""
    given = environment.get(variable(name))
    if given is not None:
        try:
            document = json.loads(given)
        except ValueError:
            raise Refused(f"{variable(name)} is no JSON") from None
        return check(name, document)
    if not (sys.stdin.isatty() if interactive is None else interactive):
        raise Refused(f"the secret {name} is not known yet: set {variable(name)}, or run this in a terminal")
    document = {}
    for field, kind in DOCUMENTS.get(name, {}).items():
        answer = ask(f"{name}: {field}{' (a JSON object)' if kind == TABLE else ''}: ")
        try:
            document[field] = json.loads(answer) if kind == TABLE else answer
        except ValueError:
            raise Refused(f"{name}: {field} is no JSON") from None
    return check(name, document)
