"""The sliders of notebook 02: the callback by itself, and in JupyterLab in a real browser."""

import base64
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest
import websocket
from matplotlib.figure import Figure
from test_blobs import simulated_field

from hsc_utils import files
from hsc_utils.detection import DetectionSettings, detection_panel

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PATIENCE = 90  # seconds, for a busy machine

CELL = """
from hsc_utils import detection, files
detection.detection_panel(
    files.read_rgb("field.png"), detection.DetectionSettings(), r"{path}", interactive=True
)
"""


def test_sliders_redraw_and_write(tmp_path):
    image, truth = simulated_field(256, 5)
    path = tmp_path / "detection.json"
    box = detection_panel(image, DetectionSettings(), path, interactive=True)
    *controls, button, message = box.children[0].children
    by_name = {control.description: control for control in controls}
    before = bytes(box.children[1].value)
    assert message.value == f"{len(truth)} cells"
    by_name["threshold"].value = 0.9
    assert message.value != f"{len(truth)} cells"
    assert bytes(box.children[1].value) != before
    by_name["max sigma"].value = 2
    assert "min_sigma <= max_sigma" in message.value
    by_name["max sigma"].value = 12
    button.click()
    written = DetectionSettings.read(path)
    assert (written.max_sigma, round(written.threshold, 6)) == (12, 0.9)
    assert json.loads(path.read_text())["set_by"] == "hand"


def test_impossible_sliders_are_not_written(tmp_path):
    image, _ = simulated_field(256, 5)
    path = tmp_path / "detection.json"
    box = detection_panel(image, DetectionSettings(), path, interactive=True)
    *controls, button, message = box.children[0].children
    next(c for c in controls if c.description == "max sigma").value = 2
    button.click()
    assert "min_sigma <= max_sigma" in message.value
    assert not path.exists()


def test_in_batch_it_is_a_figure(tmp_path):
    image, _ = simulated_field(256, 5)
    path = tmp_path / "detection.json"
    assert isinstance(detection_panel(image, DetectionSettings(), path), Figure)
    assert not path.exists()


# --- in a browser ------------------------------------------------------------------------


class Page:
    """A browser's page, driven over the DevTools protocol."""

    def __init__(self, profile):
        port_file = profile / "DevToolsActivePort"
        until(port_file.exists, "the browser to start")
        time.sleep(0.2)
        port = port_file.read_text().split()[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json") as listing:
            page = next(p for p in json.load(listing) if p["type"] == "page")
        self.socket = websocket.create_connection(
            page["webSocketDebuggerUrl"], timeout=PATIENCE, suppress_origin=True
        )
        self.number = 0

    def send(self, method, **parameters):
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        self.socket.send(json.dumps(message))
        while True:
            answer = json.loads(self.socket.recv())
            if answer.get("id") == self.number:
                return answer["result"]

    def value(self, script):
        answer = self.send("Runtime.evaluate", expression=script, returnByValue=True)
        return answer["result"].get("value")

    def click(self, selector):
        box = self.value(
            f"(r => [r.x + r.width / 2, r.y + r.height / 2])"
            f"(document.querySelector({selector!r}).getBoundingClientRect())"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.send(
                "Input.dispatchMouseEvent",
                type=kind,
                x=box[0],
                y=box[1],
                button="left",
                clickCount=1,
            )

    def press(self, key):
        for kind in ("keyDown", "keyUp"):
            self.send(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=key,
                windowsVirtualKeyCode={"ArrowLeft": 37, "ArrowRight": 39}[key],
            )


def until(condition, what):
    """Wait for a condition, and return what it returns."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        # a page that is still loading has nothing to answer with
        with contextlib.suppress(OSError, KeyError):
            if answer := condition():
                return answer
        time.sleep(0.02)
    pytest.fail(f"waited {PATIENCE} s for {what}")


@contextlib.contextmanager
def program(*command, folder):
    """Run a program in a folder for as long as it is needed."""
    with (folder / f"{Path(command[0]).name}.log").open("wb") as log:
        # nothing is read from or left in the home directory
        own = {f"JUPYTER_{name}_DIR": str(folder / name) for name in ("CONFIG", "DATA", "RUNTIME")}
        process = subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=subprocess.STDOUT, env=os.environ | own
        )
        try:
            yield
        finally:
            process.terminate()
            process.wait(20)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: the sliders are not seen")
def test_sliders_in_a_browser(tmp_path):
    path, profile = tmp_path / "detection.json", tmp_path / "profile"
    files.write_rgb(tmp_path / "field.png", simulated_field(512, 20)[0])
    cell = nbformat.v4.new_code_cell(CELL.format(path=path))
    notebook = nbformat.v4.new_notebook(cells=[cell])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(notebook, tmp_path / "panel.ipynb")
    port = free_port()
    lab = program(
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--allow-root",
        "--expose-app-in-browser",
        "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.port={port}",
        "--IdentityProvider.token=here",
        f"--ServerApp.root_dir={tmp_path}",
        "--LabApp.news_url=",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        folder=tmp_path,
    )
    browser = program(
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--window-size=1200,800",
        "--remote-debugging-port=0",
        f"--user-data-dir={profile}",
        "about:blank",
        folder=tmp_path,
    )
    address = f"http://127.0.0.1:{port}"
    with lab, browser:
        page = Page(profile)
        until(lambda: urllib.request.urlopen(f"{address}/api?token=here"), "JupyterLab to start")
        page.send("Page.navigate", url=f"{address}/doc/tree/panel.ipynb?token=here")
        until(lambda: page.value("!!document.querySelector('.jp-CodeCell')"), "the notebook")
        kernels = f"{address}/api/kernels?token=here"
        until(lambda: b"idle" in urllib.request.urlopen(kernels).read(), "the kernel")
        page.click(".jp-CodeCell .cm-content")
        page.value("jupyterapp.commands.execute('notebook:run-all-cells'); 1")
        # JupyterLab asks for the kernel where it has not yet noticed that one is there
        accept = "document.querySelector('.jp-Dialog .jp-mod-accept')?.click()"
        picture = f"({accept}, document.querySelector('img.widget-image, .widget-image img')?.src)"
        first = until(lambda: page.value(picture), "the overlay")
        message = "document.querySelector('.widget-vbox > .widget-label').innerText"
        assert page.value(message).endswith(" cells")

        page.value("document.querySelectorAll('.noUi-handle')[1].focus()")
        seconds = []
        for _ in range(6):
            started = time.perf_counter()
            page.press("ArrowLeft")
            second = until(
                lambda last=first: page.value(f"{picture} != {last!r} && {picture}"),
                "the overlay to change",
            )
            seconds.append(time.perf_counter() - started)
            first = second
        print("redrawn in the browser within", *(f"{s:.2f}" for s in seconds), "s")
        assert min(seconds) < 1
        assert page.value(message).endswith(" cells")
        shot = base64.b64decode(page.send("Page.captureScreenshot")["data"])
        (tmp_path / "panel.png").write_bytes(shot)

        page.click(".jupyter-widgets button, button.jupyter-button")
        until(path.exists, "detection.json")
        written = DetectionSettings.read(path)
        shown = page.value("document.querySelectorAll('.widget-readout')[1].innerText")
        assert written == replace(DetectionSettings(), max_sigma=float(shown))
        assert written.max_sigma < DetectionSettings().max_sigma
        until(lambda: "written" in page.value(message), "the message")
