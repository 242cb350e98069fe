"""Routes the usual requests straight to their services.

The stock engine asks two dozen services first whether a request is theirs, by its path, its host or its query, and
parses all of it for that. Two kinds of requests are nearly all of the traffic here, and can be recognised by their
first line: calls of an API, and calls of functions to services that speak JSON. Everything else is left to the stock
engine.
"""

import email.utils
import time
import urllib.parse
import uuid

from ministack import app as engine
from ministack.core import iam_evaluator
from ministack.core.responses import set_request_account_id, set_request_client_ip, set_request_region
from ministack.core.router import extract_access_key_id, extract_region
from ministack.core.sigv4 import decode_header_value
from ministack_http import Answer, Asgi

API = b"/_aws/execute-api/"
INVOKE = b"/2015-03-31/functions/"
# HEAD needs an answer without a body, which the stock way knows of.
METHODS = frozenset((b"GET", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"))
USED = ("_request_account_scope", "_reset_lock", "_handle_execute_api_request", "_with_data_plane_headers",
        "_dispatch_service_request", "_asgi_header_list", "_send_streaming_response")


class Front(Asgi):
    """The engine's front."""

    def __init__(self, app, port):
        super().__init__(app, port)
        # Under any other name a request may be for a bucket, an API or a function that the name contains.
        self._hosts = (f"127.0.0.1:{port}", f"localhost:{port}")
        self._date = (0, b"")

    async def _run(self, request):
        answer = None
        try:
            answer = await self._shortcut(request)
        except Exception as error:
            self.tell(request, error)
            answer = 500, {}, b""
        if answer is None:
            await super()._run(request)
        elif isinstance(answer[2], (bytes, str)):
            self._respond(request, *answer)
        else:
            streamed = Answer(request)
            await engine._send_streaming_response(streamed.send, streamed.receive, *answer)
            streamed.end()

    async def _shortcut(self, request):
        target, method = request.target, request.method
        api = target.startswith(API) and method in METHODS
        if not api and (method != b"POST" or target != b"/" and not target.startswith(INVOKE)):
            return None
        headers = {}
        for name, value in request.headers:
            name, value = name.decode("latin-1"), decode_header_value(value)
            if name in headers:
                value = headers[name] + ("; " if name == "cookie" else ", ") + value
            headers[name] = value
        host = headers.get("host", "")
        if host not in self._hosts or not api and target == b"/" and "x-amz-target" not in headers:
            return None
        if engine._reset_lock is not None and engine._reset_lock.locked():
            return None
        raw_path, _, raw_query = target.partition(b"?")
        query = urllib.parse.parse_qs(raw_query.decode("latin-1"), keep_blank_values=True) if raw_query else {}
        key = extract_access_key_id(headers, query)
        try:
            account = engine._request_account_scope(key) if key else None
        except iam_evaluator.AmbiguousAccessKeyError:
            return None
        if account:
            set_request_account_id(account)
        set_request_region(extract_region(headers, query))
        set_request_client_ip("127.0.0.1")
        iam_evaluator.pin_request_origin("127.0.0.1", False)
        raw = raw_path.decode("latin-1")
        method, path, body = method.decode("ascii"), urllib.parse.unquote(raw), request.body
        iam_evaluator.pin_signed_request(method, raw, query, request.headers)
        iam_evaluator.pin_signed_body(body)
        request_id = str(uuid.uuid4())
        if not api:
            return await engine._dispatch_service_request(method, path, headers, body, query, request_id)
        response = await engine._handle_execute_api_request(
            host, path, method, headers, body, query, raw_path=raw, raw_query_string=raw_query.decode("latin-1"))
        return engine._with_data_plane_headers(response, request_id, wildcard_cors=False)

    def _respond(self, request, status, headers, body):
        lines = [b"%s: %s\r\n" % line for line in engine._asgi_header_list(headers) if line[0].lower() not in OURS]
        if not any(name.lower() == "date" for name in headers):
            lines.append(self._now())
        request.respond(status, b"".join(lines), body if isinstance(body, bytes) else body.encode())

    def _now(self):
        second = int(time.time())
        if self._date[0] != second:
            self._date = second, b"date: %s\r\n" % email.utils.formatdate(second, usegmt=True).encode()
        return self._date[1]


# The answers of the connection itself.
OURS = frozenset((b"content-length", b"transfer-encoding", b"connection"))
