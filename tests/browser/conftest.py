"""The guide as it was built, on an address of this machine, and a browser to read it with."""

import functools
import http.server
import re
import threading
from pathlib import Path

import pytest
from webdriver import Browser, installed

SITE = Path(__file__).parents[2] / "site"


FOLDER = re.search(r"^site_url: https?://[^/]+(/.*?)/?$", (SITE.parent / "mkdocs.yml").read_text(), re.MULTILINE)[1]
"""The folder of its host that the guide is made for: a page that is not found has absolute addresses."""


class Quiet(http.server.SimpleHTTPRequestHandler):
    def translate_path(self, path):
        return super().translate_path(path.removeprefix(FOLDER))

    def log_message(self, format, *args):
        pass


@pytest.fixture(scope="session")
def host():
    """The address of the guide; `make docs` builds it."""
    assert (SITE / "index.html").exists(), "build the guide first: make docs"
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=SITE))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}{FOLDER}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="session")
def session():
    found = installed()
    assert found, "needs Chromium and chromedriver, on Debian: apt-get install chromium chromium-driver"
    browser = Browser(*found)
    yield browser
    browser.close()


@pytest.fixture
def browser(session):
    """The browser, wide and light, its logs empty."""
    session.width(1400)
    session.prefer(color_scheme="light")
    session.messages()
    session.requests()
    return session
