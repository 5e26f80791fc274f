"""TensorBoard as its user has it: the real server, and its page in headless Chromium.

Chromium is driven through two pipes by its DevTools protocol: JSON messages that end in a zero.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
# The text of a page, with what stands in shadow roots, where TensorBoard keeps most of it.
TEXT = """(() => { const found = []; (function walk(node) {
  if (node.nodeType === 3) found.push(node.data);
  if (node.shadowRoot) walk(node.shadowRoot);
  for (const child of node.childNodes)
    if (!['STYLE', 'SCRIPT'].includes(child.nodeName)) walk(child);
})(document.body); return found.join('\\n'); })()"""


class Server:
    """A TensorBoard that runs."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def get(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """JSON under /data; with a body it is a POST."""
        with urllib.request.urlopen(self._request(path, body), timeout=10) as answer:
            return json.load(answer)

    def raw(self, path: str) -> bytes:
        with urllib.request.urlopen(self._request(path, None), timeout=10) as answer:
            return bytes(answer.read())

    def _request(self, path: str, body: dict[str, Any] | None) -> urllib.request.Request:
        data = None if body is None else json.dumps(body).encode()
        kind = {"Content-Type": "application/json"}
        return urllib.request.Request(f"{self.url}/data/{path}", data=data, headers=kind)


@contextlib.contextmanager
def serving(log_dir: Path, run: str | None) -> Iterator[Server]:
    """TensorBoard on a free port, once it knows of the run, or of none where that is None."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(log_dir)]
    process = subprocess.Popen(
        [*command, "--port", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    server, deadline = Server(port), time.monotonic() + 60
    try:
        runs: list[str] | None = None
        while (runs is None or (run and run not in runs)) and time.monotonic() < deadline:
            time.sleep(0.3)
            with contextlib.suppress(OSError):  # not up yet
                runs = server.get("runs")
        assert runs == [] if run is None else run in (runs or [])
        yield server
    finally:
        process.kill()
        process.wait()


def sessions(server: Server) -> dict[str, tuple[dict[str, Any], dict[str, float]]]:
    """The table of hyperparameters as the page asks for it: settings and results by run."""
    known = server.get("plugin/hparams/experiment", {"experimentName": ""})
    columns = [{"hparam": info["name"]} for info in known["hparamInfos"]]
    columns += [{"metric": info["name"]} for info in known["metricInfos"]]
    asked = {
        "experimentName": "", "allowedStatuses": ["STATUS_SUCCESS"], "colParams": columns,
        "startIndex": 0, "sliceSize": 100,
    }  # fmt: skip
    groups = server.get("plugin/hparams/session_groups", asked)["sessionGroups"]
    return {
        group["sessions"][0]["name"]: (
            group["hparams"], {m["name"]["tag"]: m["value"] for m in group["metricValues"]}
        )
        for group in groups
    }  # fmt: skip


def texts(urls: list[str], wanted: list[str], profile: Path, seconds: float = 30.0) -> list[str]:
    """The text of each page as soon as it has what is wanted of it, or as it is at the end."""
    with browsing(profile) as page:
        return [page.text(*pair, seconds) for pair in zip(urls, wanted, strict=True)]


@contextlib.contextmanager
def browsing(profile: Path) -> Iterator[Page]:
    """A tab of a Chromium of its own."""
    assert CHROMIUM is not None
    to_read, to_write = os.pipe()
    from_read, from_write = os.pipe()
    command = [
        CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank",
    ]  # fmt: skip
    # It reads from 3 and writes to 4; bash puts the pipes there, whatever numbers they have here.
    redirected = f'exec "$@" 3<&{to_read} 4>&{from_write}'
    process = subprocess.Popen(
        ["bash", "-c", redirected, "bash", *command], pass_fds=(to_read, from_write),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(to_read)
    os.close(from_write)
    try:
        with os.fdopen(to_write, "wb", 0) as out, os.fdopen(from_read, "rb", 0) as back:
            yield Page(out, back)
    finally:
        process.kill()
        process.wait()


class Page:
    """One tab."""

    def __init__(self, out: Any, back: Any) -> None:
        self.out, self.back, self.number, self.buffer = out, back, 0, b""
        self.session: dict[str, str] = {}
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        attached = self.ask("Target.attachToTarget", targetId=target, flatten=True)
        self.session = {"sessionId": attached["sessionId"]}

    def ask(self, method: str, **parameters: Any) -> Any:
        """The answer; events in between are passed over."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters, **self.session}
        self.out.write(json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self.buffer:
                ready, _, _ = select.select([self.back], [], [], 60)
                read = self.back.read(1 << 16) if ready else b""
                if not read:
                    raise RuntimeError(f"Chromium closed its pipe or hangs in {method}")
                self.buffer += read
            answer, _, self.buffer = self.buffer.partition(b"\0")
            found = json.loads(answer)
            if found.get("id") == self.number:
                assert "error" not in found, found
                return found["result"]

    def value(self, expression: str) -> Any:
        """What JavaScript gives in the page, as JSON; its errors are ours."""
        found = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def text(self, url: str, wanted: str, seconds: float) -> str:
        self.ask("Page.navigate", url="about:blank")
        self.ask("Page.navigate", url=url)
        deadline, found = time.monotonic() + seconds, ""
        while wanted not in found and time.monotonic() < deadline:
            time.sleep(0.3)
            found = self.ask("Runtime.evaluate", expression=TEXT)["result"].get("value", "")
        return str(found)
