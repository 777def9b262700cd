"""The page in headless Chromium: whole, silent, without requests, in light and dark, at 390 pixels.

Chromium is driven over its DevTools protocol. What it shows is measured in the page itself.
"""

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import NOON, read_experiment, write_fold, write_half

from safe.report.gather import Sources
from safe.report.page import render_page

CHROMIUM = Path("/usr/bin/chromium")
VIEWS = [(width, scheme) for width in (1280, 390) for scheme in ("light", "dark")]

MEASURE = """(() => {
  const box = e => e.getBoundingClientRect();
  const ground = getComputedStyle(document.body).backgroundColor;
  const seen = e => e.checkVisibility() && !e.closest("details:not([open])");
  const charts = [...document.querySelectorAll("svg")].filter(seen);
  const marks = s => [...s.querySelectorAll("rect, path, line, circle, use, text")].filter(
    e => !e.closest("defs") && (box(e).width > 0 || box(e).height > 0));
  const painted = s => marks(s).some(e => {
    const look = getComputedStyle(e);
    return [look.fill, look.stroke].some(c => c !== "none" && c !== ground);
  });
  const out = s => [...s.querySelectorAll("text")].filter(
    e => box(e).left < box(s).left - 1 || box(e).right > box(s).right + 1).map(e => e.textContent);
  return {
    inner: innerWidth,
    wide: document.documentElement.scrollWidth,
    ground,
    ink: getComputedStyle(document.body).color,
    charts: charts.length,
    empty: charts.filter(s => box(s).width < 10 || box(s).height < 10 || !painted(s)).length,
    cut: charts.flatMap(out),
    small: charts.filter(s => s.classList.contains("chart") && box(s).width < 230).length,
    images: [...document.images].length,
    broken: [...document.images].filter(i => !i.complete || !i.naturalWidth).length,
    over: [...document.querySelectorAll("main *")].filter(
      e => box(e).right > innerWidth + 1 && !e.closest(".scroll")
    ).map(e => e.outerHTML.slice(0, 80)),
    boxes: [...document.querySelectorAll(".scroll")].filter(
      e => e.scrollWidth > e.clientWidth + 1 && e.tabIndex !== 0).length,
    empties: [...document.querySelectorAll("section")].filter(e => box(e).height < 40).length,
  };
})()"""


class Browser:
    """A tab of Chromium: commands go to it, events come back."""

    def __init__(self, socket: Any) -> None:
        self.socket = socket
        self.events: list[dict[str, Any]] = []
        self.number = 0

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        self.number += 1
        await self.socket.send_json({"id": self.number, "method": method, "params": params})
        while True:
            message = await self.socket.receive_json()
            if message.get("id") == self.number:
                assert "result" in message, message
                return message["result"]
            self.events.append(message)

    async def event(self, method: str) -> None:
        """Wait for an event that has not come yet."""
        while True:
            self.events.append(await self.socket.receive_json())
            if self.events[-1].get("method") == method:
                return

    async def value(self, script: str) -> Any:
        found = await self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"]["value"]


async def drive(port: int, url: str) -> tuple[dict[tuple[int, str], Any], list[dict[str, Any]]]:
    """Open the page in every view: what is measured there, and all events."""
    import aiohttp

    async with aiohttp.ClientSession() as session:
        async with session.put(f"http://127.0.0.1:{port}/json/new?about:blank") as answer:
            place = (await answer.json())["webSocketDebuggerUrl"]
        async with session.ws_connect(place, max_msg_size=2**26) as socket:
            tab = Browser(socket)
            for domain in ("Page", "Network", "Log", "Runtime"):
                await tab.call(f"{domain}.enable")
            found = {}
            for width, scheme in VIEWS:
                await tab.call(
                    "Emulation.setDeviceMetricsOverride",
                    width=width,
                    height=844,
                    deviceScaleFactor=1,
                    mobile=width < 500,
                )
                media = [{"name": "prefers-color-scheme", "value": scheme}]
                await tab.call("Emulation.setEmulatedMedia", features=media)
                await tab.call("Page.navigate", url=url)
                await tab.event("Page.loadEventFired")
                found[width, scheme] = await tab.value(MEASURE)
            found[0, "keys"] = await keyboard(tab)
            return found, tab.events


async def keyboard(tab: Browser) -> list[str]:
    """Press Tab three times: what has the focus then, and how its outline looks."""
    told = []
    for _ in range(3):
        for kind in ("keyDown", "keyUp"):
            await tab.call("Input.dispatchKeyEvent", type=kind, key="Tab", windowsVirtualKeyCode=9)
        told.append(
            await tab.value(
                "document.activeElement.getAttribute('href') + ' ' + "
                "getComputedStyle(document.activeElement).outlineStyle"
            )
        )
    return told


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Start Chromium; give the port of its DevTools."""
    pytest.importorskip("aiohttp", reason="aiohttp comes with DVC, which is not installed")
    if not CHROMIUM.exists():
        pytest.skip(f"no {CHROMIUM}: apt install chromium")
    profile = tmp_path_factory.mktemp("chromium")
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"]
    command += ["--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        for line in iter(process.stderr.readline, b""):
            if b"DevTools listening on" in line:
                yield int(line.decode().rsplit(":", 1)[1].split("/")[0])
                break
        else:
            pytest.fail("Chromium ended before it listened")
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


@pytest.fixture(scope="module")
def views(
    browser: int, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[tuple[int, str], Any], list[dict[str, Any]], str]:
    """Open a page with all its parts: two folds, calibration, faces, a comparison."""
    folder = tmp_path_factory.mktemp("page")
    write_fold(folder, 1)
    write_fold(folder, 2, n=50)
    write_fold(folder / "other", 1, skill=1.0, calibration=None)
    ours = read_experiment(folder)
    given = Sources(
        shards=write_half(folder, ours),
        reasons={"a reason of many words that goes on and on: " * 4: 3},
        defaults={"train": {"lr": 1, "epochs": 2}},
        outs=[("runs/" + "long/" * 20, "0f" * 16, 1)],
    )
    others = [read_experiment(folder / "other", "an-experiment-with-a-long-name-7f3a2b", (1,))]
    page = folder / "report.html"
    page.write_text(render_page(ours, others, given, now=NOON), encoding="utf-8")
    found, events = asyncio.run(asyncio.wait_for(drive(browser, page.as_uri()), 60))
    return found, events, page.as_uri()


def test_the_console_is_silent_and_nothing_is_asked_of_the_network(views):
    _, events, url = views
    said = [
        event
        for event in events
        if event.get("method")
        in ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
    ]
    assert not said
    asked = {
        event["params"]["request"]["url"]
        for event in events
        if event.get("method") == "Network.requestWillBeSent"
    }
    assert {one for one in asked if not one.startswith("data:")} == {url}
    assert not [event for event in events if event.get("method") == "Network.loadingFailed"]


@pytest.mark.parametrize("view", VIEWS, ids=str)
def test_all_is_drawn_and_fits(views, view):
    seen = views[0][view]
    assert seen["inner"] == view[0]
    assert seen["wide"] <= seen["inner"]
    assert seen["over"] == []
    assert seen["boxes"] == 0  # what scrolls can be reached by keyboard
    assert seen["charts"] > 30
    assert seen["empty"] == 0
    assert seen["cut"] == []
    assert seen["small"] == 0
    assert seen["images"] > 3
    assert seen["broken"] == 0
    assert seen["empties"] == 0


def test_light_and_dark_differ(views):
    found = views[0]
    for width in (1280, 390):
        light, dark = found[width, "light"], found[width, "dark"]
        assert light["ground"] == dark["ink"] or light["ground"] == "rgb(255, 255, 255)"
        assert sum(map(int, dark["ground"][4:-1].split(","))) < 120
        assert sum(map(int, dark["ink"][4:-1].split(","))) > 600
        assert light["charts"] == dark["charts"]


def test_the_focus_goes_to_the_skip_link_first_and_shows(views):
    assert views[0][0, "keys"] == ["#results solid", "#results solid", "#compare solid"]
