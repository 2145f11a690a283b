"""The page in a real browser: Chromium, headless, driven by selenium (extra `browser`)."""

import json
import re
import shutil

import numpy as np
import pytest

import fastconv as fc

webdriver = pytest.importorskip(
    "selenium.webdriver", reason="the page is tested in Chromium: pip install 'fastconv[browser]'"
)
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
if CHROMIUM is None or DRIVER is None:
    pytest.skip("the page is tested in Chromium: chromium and chromedriver", allow_module_level=True)

# Phone and desk; both schemes.
SCREENS = {"narrow": (360, 740), "wide": (1400, 1000)}


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    model = fc.models.ResNet(3, 8, 4, (4, 6))
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 8))
    found = {"comparison": fc.profile(model, x, budget=0.5, title="<i>a & b</i>")}
    with fc.record(model) as found["recording"]:
        for _ in range(3):
            model.backward(model.forward(x))
    deep = fc.models.mlp.Sequential()
    deep.layers = [fc.ReLU() if i % 2 else fc.Tanh() for i in range(200)]
    with fc.record(deep) as found["200 layers"]:
        deep.backward(deep.forward(np.ones((2, 3))))
    with fc.record() as found["nothing"]:
        pass
    for name, prof in found.items():
        prof.to_html(str(folder / f"{name}.html"))
        prof.to_json(str(folder / f"{name}.json"))
    return folder


def show(browser, pages, name, screen="wide", scheme="light"):
    """Open a page; what it holds, by its JSON."""
    width, height = SCREENS[screen]
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": screen == "narrow"},
    )
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    browser.get((pages / f"{name}.html").as_uri())
    return json.loads((pages / f"{name}.json").read_text())


def read(browser, script):
    return browser.execute_script(f"return {script}")


def texts(browser, selector):
    return read(browser, f"[...document.querySelectorAll({selector!r})].map((e) => e.textContent)")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("name", ["comparison", "recording", "200 layers", "nothing"])
def test_no_errors_and_nothing_wider_than_the_screen(browser, pages, name, screen, scheme):
    content = show(browser, pages, name, screen, scheme)
    assert browser.get_log("browser") == []
    assert texts(browser, "#lead") == [content["sentences"][0]]
    assert texts(browser, "#title") == [content["title"]]
    within = read(browser, "document.documentElement.clientWidth")
    assert read(browser, "document.documentElement.scrollWidth") == within
    assert SCREENS[screen][0] - 20 < within <= SCREENS[screen][0], "but for a scroll bar"
    ground = read(browser, "getComputedStyle(document.body).backgroundColor")
    brightness = sum(map(int, re.findall(r"\d+", ground)[:3])) / 3
    assert (brightness > 128) == (scheme == "light")
    # A picture is drawn, and it is not of one colour.
    assert len(browser.get_screenshot_as_png()) > 10_000


@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("name", ["comparison", "recording"])
def test_bars_are_in_proportion(browser, pages, name, screen):
    content = show(browser, pages, name, screen)
    layers = {}
    for row in content["rows"]:
        layer = layers.setdefault((row["path"], row["layer"]), {"share": 0, "compiled": 0, "pure": 0})
        layer["share"] += row["share"]
        layer["compiled"] += row["time"]["own"]
        layer["pure"] += row["pure"]["own"] if row["pure"] else 0
    bars = read(
        browser, "[...document.querySelectorAll('rect.bar')].map((e) => [e.closest('div[id]').id, "
        "e.dataset.layer, e.dataset.kind, e.getBBox().width, Number(e.dataset.value)])",
    )

    def matching(bar_layer):
        short = bar_layer.split(": ")[0]
        return next(value for (path, layer), value in layers.items()
                    if short in (f"{path.removeprefix('ResNet.')} {layer}", layer if path == layer else ""))

    shares = {}
    for chart, layer, _, width, _ in bars:
        if chart == "share":
            shares[layer] = shares.get(layer, 0) + width
    assert len(shares) == 12
    unit = [width / matching(layer)["share"] for layer, width in shares.items()]
    np.testing.assert_allclose(unit, unit[0], rtol=1e-3)
    times = [(matching(layer)[kind], width) for chart, layer, kind, width, _ in bars if chart == "times"]
    assert len(times) == (24 if name == "comparison" else 12)
    # On a logarithmic axis lengths are a straight line over the logarithms of what they stand for.
    seconds, widths = np.array(times).T
    slope, offset = np.polyfit(np.log10(seconds), widths, 1)
    assert slope > 20, "pixels a decade"
    np.testing.assert_allclose(widths, slope * np.log10(seconds) + offset, atol=0.1)


@pytest.mark.parametrize("screen", SCREENS)
def test_the_configuration_can_be_read(browser, pages, screen):
    show(browser, pages, "recording", screen)
    cells = "[...document.querySelectorAll('#configuration td')].map((e) => e.clientWidth)"
    assert min(read(browser, cells)) > 0.4 * SCREENS[screen][0]


def test_all_layers_can_be_shown(browser, pages):
    show(browser, pages, "200 layers")
    assert len(read(browser, "[...document.querySelectorAll('#share rect.bar')]")) == 2 * 12
    browser.execute_script("document.querySelector('#share button').click()")
    assert len(read(browser, "[...document.querySelectorAll('#share rect.bar')]")) == 2 * 201
    assert texts(browser, "#share button") == ["Show fewer"]
    assert browser.get_log("browser") == []


@pytest.mark.parametrize("column", ["compiled", "of limit", "times faster"])
def test_the_table_sorts_on_click_and_by_the_keyboard(browser, pages, column):
    content = show(browser, pages, "comparison")
    key = {
        "compiled": lambda row: row["time"]["median"], "of limit": lambda row: row["limit"],
        "times faster": lambda row: row["speedup"],
    }[column]
    values = [key(row) for row in content["rows"]]
    by_name = {f"{row['path'].removeprefix('ResNet.')} {row['pass_']}": key(row) for row in content["rows"]}
    known = sum(value is not None for value in values)

    def order():
        names = read(
            browser, "[...document.querySelectorAll('#table tbody tr')].map((r) => "
            "r.children[0].textContent + ' ' + r.children[2].textContent)",
        )
        assert sorted(names) == sorted(by_name)
        found = [by_name[name] for name in names]
        assert None not in found[:known], "what is not known comes last"
        return found[:known]

    buttons = browser.find_elements("css selector", "#table th button")
    button = next(button for button in buttons if button.text.startswith(column))
    cell = button.find_element("xpath", "..")
    browser.execute_script("arguments[0].click()", button)
    assert order() == sorted(order(), reverse=True)
    assert cell.get_attribute("aria-sort") == "descending"
    browser.execute_script("arguments[0].focus()", button)
    button.send_keys("\n")
    assert order() == sorted(order())
    assert cell.get_attribute("aria-sort") == "ascending"
    assert len(browser.find_elements("css selector", "#table [aria-sort]")) == 1


def test_every_chart_has_its_numbers_and_a_name(browser, pages):
    content = show(browser, pages, "comparison")
    labels = read(
        browser, "[...document.querySelectorAll('svg[role=img]')].map((e) => [e.getAttribute('aria-label'), "
        "document.getElementById(e.getAttribute('aria-describedby')).textContent])",
    )
    assert len(labels) == 5, "shares, times, roofline, a timeline for each backend"
    assert all(label and caption for label, caption in labels)
    points = read(browser, "[...document.querySelectorAll('#roof .point title')].map((e) => e.textContent)")
    bounded = [row for row in content["rows"] if row["bound"] and row["gflops"]]
    assert len(points) == len(bounded)
    assert len(texts(browser, "#points li")) == min(6, len(bounded))
    browser.execute_script("document.querySelector('#calls summary').click()")
    browser.implicitly_wait(5)
    browser.find_element("css selector", "#calls table")
    assert len(texts(browser, "#calls tbody tr")) == len(content["calls"])
    assert len(texts(browser, "#line rect.call")) == len(content["calls"])
    assert len(texts(browser, "#table tbody tr")) == len(content["rows"])


def test_points_are_where_their_numbers_are(browser, pages):
    """Higher is more operations a second, to the right is more of them a byte."""
    content = show(browser, pages, "comparison")
    circles = read(
        browser, "[...document.querySelectorAll('#roof circle.point')].map((e) => [e.querySelector('title')"
        ".textContent.split(' forward')[0], Number(e.getAttribute('cx')), Number(e.getAttribute('cy'))])",
    )
    rows = {r["path"].removeprefix("ResNet."): r for r in content["rows"] if r["pass_"] == "forward"}
    x, y = np.array([circle[1:] for circle in circles]).T
    intensity = np.log([rows[circle[0]]["intensity"] for circle in circles])
    speed = np.log([rows[circle[0]]["gflops"] for circle in circles])
    for position, value, sign in ((x, intensity, 1), (y, speed, -1)):
        slope, offset = np.polyfit(value, position, 1)
        assert np.sign(slope) == sign
        np.testing.assert_allclose(position, slope * value + offset, atol=0.1)


def test_a_bar_of_the_timeline_tells_of_its_call(browser, pages):
    show(browser, pages, "recording", "narrow")
    browser.execute_script(
        "document.querySelector('#line rect.call').dispatchEvent(new MouseEvent('click', {bubbles: true}))"
    )
    (detail,) = texts(browser, "#detail")
    assert detail.startswith("ResNet forward (ResNet): ")
    assert "input 2 x 3 x 8 x 8" in detail
