"""Answers `GET /_encore/engine` with the nonce it was started with, so that the driver can identify it.

Not before everything of start.d is in force.
"""

import json
import os

from localstack.http import Response
from localstack.runtime.init import Stage, State, init_script_manager
from localstack.services.edge import ROUTER

for script in init_script_manager().scripts[Stage.START]:
    if script.state != State.SUCCESSFUL:
        raise RuntimeError(f"{script.path} failed")

body = json.dumps({"nonce": os.environ["ENCORE_NONCE"], "pid": os.getpid()})
ROUTER.add("/_encore/engine", lambda request, body=body: Response(body, mimetype="application/json"))
