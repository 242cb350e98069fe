"""HTTP/1.1 on an event loop, for the engine's front and for the functions' Runtime API.

Parsing is httptools' (llhttp, in C). This is only what ASGI leaves to a server: whole bodies in, answers out in the
order of the requests, connections kept. There are no WebSockets; nothing here uses them.
"""

import asyncio
import contextvars
import http
import socket
import sys
import urllib.parse

import httptools

# How long no connection is accepted once there are no file descriptors left, seconds.
PAUSE_SECONDS = 0.1
# Statuses whose answers have no body, and no content length.
BODILESS = (204, 304)
# The caller that waits for a task, with that task: no caller waits for what it starts beside itself.
CALLER = contextvars.ContextVar("caller", default=(None, None))
REASONS = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in http.HTTPStatus}


class Request:
    """A request with its whole body."""

    __slots__ = ("method", "target", "headers", "body", "connection", "keep_alive")

    def respond(self, status, headers, body):
        """Answers it, with a body whose length is known. `headers` are lines, ended."""
        if status in BODILESS:
            self.connection.send(b"%s%s\r\n" % (start_line(status), headers))
        else:
            self.connection.send(b"%scontent-length: %d\r\n%s\r\n%s" % (start_line(status), len(body), headers, body))
        self.connection.answered()


class Connection(asyncio.Protocol):
    """A client's connection. Hands each request to `serve` once the one before it is answered."""

    __slots__ = ("_serve", "_closed", "_transport", "_parser", "_target", "_headers", "_body", "_current", "_next")

    def __init__(self, serve, closed=None):
        self._serve, self._closed = serve, closed
        self._transport = None
        self._parser = httptools.HttpRequestParser(self)
        self._current, self._next = None, []

    def connection_made(self, transport):
        self._transport = transport

    def connection_lost(self, error):
        self._transport = None
        if self._closed is not None:
            self._closed(self)

    def data_received(self, data):
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if isinstance(error, httptools.HttpParserCallbackError):
                print(f"a request could not be taken: {error.__context__!r}", file=sys.stderr, flush=True)
            if self._current is None:  # It would be taken for the answer to that one.
                self.send(REASONS[400] + b"content-length: 0\r\nconnection: close\r\n\r\n")
            self.close()

    # Called by the parser.

    def on_message_begin(self):
        self._target, self._headers, self._body = b"", [], []

    def on_url(self, part):
        self._target += part

    def on_header(self, name, value):
        self._headers.append((name.lower(), value))

    def on_headers_complete(self):
        if any(name == b"expect" and value.lower() == b"100-continue" for name, value in self._headers):
            self.send(REASONS[100] + b"\r\n")

    def on_body(self, part):
        self._body.append(part)

    def on_message_complete(self):
        if self._parser.should_upgrade():
            return  # Its body was not read. The parser reports that next, and it is refused.
        request = Request()
        request.method, request.target, request.headers = self._parser.get_method(), self._target, self._headers
        request.body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        request.connection, request.keep_alive = self, self._parser.should_keep_alive()
        if self._current is not None:
            self._next.append(request)
        else:
            self._current = request
            self._serve(request)

    # Called by those who answer.

    def is_open(self):
        return self._transport is not None and not self._transport.is_closing()

    def send(self, data):
        if self._transport is not None:
            self._transport.write(data)

    def close(self):
        if self._transport is not None:
            self._transport.close()

    def answered(self):
        """The whole answer to the current request is sent."""
        if not self._current.keep_alive:
            self.close()
        self._current = self._next.pop(0) if self._next else None
        if self._current is not None:
            self._serve(self._current)


class Listener:
    """Accepts all waiting connections whenever there are any.

    The event loop's own server accepts one each time the loop comes round. While hundreds of functions start,
    connections arrive faster than a busy loop comes round; clients gave those behind up before they were accepted, and
    connected anew, so it accepted dead ones and never caught up.
    """

    def __init__(self, protocol, port, backlog):
        self._protocol, self._loop, self._opening = protocol, asyncio.get_running_loop(), set()
        self._socket = socket.create_server(("127.0.0.1", port), backlog=backlog)
        self._socket.setblocking(False)
        self.port = self._socket.getsockname()[1]
        self._loop.add_reader(self._socket, self._accept)

    def _accept(self):
        while True:
            try:
                accepted, _ = self._socket.accept()
            except BlockingIOError:
                return
            except ConnectionAbortedError:
                continue
            except OSError as error:  # No descriptor is left; others close some in time. Without a pause it would spin.
                print(f"no connection can be accepted: {error}", file=sys.stderr, flush=True)
                self._loop.remove_reader(self._socket)
                self._loop.call_later(PAUSE_SECONDS, self._loop.add_reader, self._socket, self._accept)
                return
            opening = self._loop.create_task(self._loop.connect_accepted_socket(self._protocol, accepted))
            self._opening.add(opening)  # The loop itself holds tasks weakly.
            opening.add_done_callback(self._opening.discard)


def start_line(status):
    return REASONS.get(status) or b"HTTP/1.1 %d \r\n" % status


class Asgi:
    """Serves an ASGI application."""

    def __init__(self, app, port):
        self._app, self._server_address = app, ("127.0.0.1", port)
        self._running = set()

    def serve(self, request):
        task = asyncio.get_running_loop().create_task(self._guarded(request))
        self._running.add(task)  # The loop itself holds tasks weakly.
        task.add_done_callback(self._running.discard)

    async def _guarded(self, request):
        CALLER.set((asyncio.current_task(), request.connection))
        try:
            await self._run(request)
        except Exception as error:  # The caller must not wait for ever.
            self.tell(request, error)
            request.connection.close()

    async def _run(self, request):
        url = httptools.parse_url(request.target)
        path = url.path or b"/"
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": request.method.decode("ascii"),
            "scheme": "http",
            "path": urllib.parse.unquote(path.decode("ascii")),
            "raw_path": path,
            "query_string": url.query or b"",
            "root_path": "",
            "headers": request.headers,
            "client": ("127.0.0.1", 0),
            "server": self._server_address,
        }
        answer = Answer(request)
        try:
            await self._app(scope, answer.receive, answer.send)
        except Exception as error:
            self.tell(request, error)
        answer.end()

    @staticmethod
    def tell(request, error):
        print(f"{request.method.decode()} {request.target.decode('latin-1')}: {error!r}", file=sys.stderr, flush=True)

    async def start(self):
        """Starts the application, and waits until it is ready."""
        told, ready = asyncio.Queue(), asyncio.get_running_loop().create_future()

        async def send(message):
            if message["type"] == "lifespan.startup.complete":
                ready.set_result(None)
            elif message["type"] == "lifespan.startup.failed":
                ready.set_exception(RuntimeError(message.get("message", "")))

        told.put_nowait({"type": "lifespan.startup"})
        lifespan = asyncio.get_running_loop().create_task(self._app({"type": "lifespan"}, told.get, send))
        self._running.add(lifespan)
        await asyncio.wait([ready, lifespan], return_when=asyncio.FIRST_COMPLETED)
        if lifespan.done():
            lifespan.result()
        ready.result()


class Answer:
    """An application's answer to a request, as it comes."""

    __slots__ = ("_request", "_received", "_head", "_bodiless", "_chunked", "_done")

    def __init__(self, request):
        self._request = request
        self._received = self._bodiless = self._chunked = self._done = False
        self._head = None

    async def receive(self):
        if self._received:
            # A second call waits until the client is gone.
            while self._request.connection.is_open() and not self._done:
                await asyncio.sleep(1)
            return {"type": "http.disconnect"}
        self._received = True
        return {"type": "http.request", "body": self._request.body, "more_body": False}

    async def send(self, message):
        if message["type"] == "http.response.start":
            lines = [start_line(message["status"])]
            lines += [b"%s: %s\r\n" % header for header in message["headers"]]
            names = {name.lower() for name, _ in message["headers"]}
            self._bodiless = self._request.method == b"HEAD" or message["status"] in BODILESS
            self._chunked = not self._bodiless and b"content-length" not in names
            if self._chunked:
                lines.append(b"transfer-encoding: chunked\r\n")
            lines.append(b"\r\n")
            self._head = b"".join(lines)
        elif message["type"] == "http.response.body" and not self._done:
            body = b"" if self._bodiless else message.get("body", b"")
            more = message.get("more_body", False)
            if self._chunked:
                body = (b"%x\r\n%s\r\n" % (len(body), body) if body else b"") + (b"" if more else b"0\r\n\r\n")
            self._request.connection.send((self._head or b"") + body)
            self._head = b""
            if not more:
                self._done = True
                self._request.connection.answered()

    def end(self):
        """Answers for an application that did not, or not to the end."""
        if self._done:
            return
        self._done = True
        if self._head is None:
            self._request.respond(500, b"", b"")
        else:  # The client must not take a part for the whole.
            self._request.connection.close()
