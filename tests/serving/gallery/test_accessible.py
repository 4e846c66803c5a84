"""What a checker of accessibility looks at, narrow screens, dark rooms, and many results."""

from __future__ import annotations

import copy

import pytest

pytest.importorskip("playwright")

from playwright.sync_api import expect

CARDS = ".card:not(.blank)"
FOCUSABLE = {"button", "link", "textbox", "searchbox", "combobox", "treeitem", "dialog", "img"}

CONTRASTS = """() => {
    const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
    const rgba = (colour) => {
        canvas.clearRect(0, 0, 1, 1);
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data];
    };
    const luminance = (colour) => {
        const [r, g, b] = colour.map((c) => {
            c /= 255;
            return c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
        });
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = (element) => {
        for (let at = element; at; at = at.parentElement) {
            const colour = rgba(getComputedStyle(at).backgroundColor);
            if (colour[3] === 255) return colour;
            if (colour[3] > 0) throw new Error("half transparent: " + at.className);
        }
        return rgba(getComputedStyle(document.documentElement).backgroundColor);
    };
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    const found = [];
    const top = document.querySelector("dialog[open]");
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
        const element = node.parentElement;
        if (!node.data.trim() || (top && !top.contains(element))) continue;
        const seen = {visibilityProperty: true, contentVisibilityAuto: true};
        if (!element.checkVisibility(seen)) continue;
        if (element.closest(".visually-hidden, :disabled, script, noscript, .sprite")) continue;
        const style = getComputedStyle(element);
        const [one, other] = [rgba(style.color), behind(element)].map(luminance);
        const ratio = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
        const size = parseFloat(style.fontSize);
        const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
        found.push([ratio, large ? 3 : 4.5, node.data.trim().slice(0, 40), element.className]);
    }
    return found;
}"""

STRUCTURE = """() => {
    const problems = [];
    const ids = [...document.querySelectorAll("[id]")].map((one) => one.id);
    problems.push(...ids.filter((id, i) => ids.indexOf(id) !== i).map((id) => `id twice: ${id}`));
    for (const one of document.querySelectorAll("img:not([alt])")) problems.push(one.outerHTML);
    for (const name of ["aria-labelledby", "aria-describedby", "aria-controls", "for"]) {
        for (const one of document.querySelectorAll(`[${name}]`)) {
            for (const id of one.getAttribute(name).split(" ")) {
                if (!document.getElementById(id)) problems.push(`${name} names nothing: ${id}`);
            }
        }
    }
    for (const one of document.querySelectorAll("[tabindex]")) {
        if (one.tabIndex > 0) problems.push(`tabindex ${one.tabIndex}`);
    }
    for (const one of document.querySelectorAll("button button, a button, button a")) {
        problems.push(`control in control: ${one.outerHTML.slice(0, 80)}`);
    }
    for (const one of document.querySelectorAll("[style]")) {
        const style = one.getAttribute("style");
        if (!/^(--[a-z]+: [^;]+; ?)*$/.test(style)) problems.push(`inline: ${style}`);
    }
    const levels = [...document.querySelectorAll("h1, h2, h3, h4")]
        .filter((one) => one.checkVisibility()).map((one) => Number(one.tagName[1]));
    levels.reduce((before, level) => {
        if (level > before + 1) problems.push(`heading ${level} after ${before}`);
        return level;
    }, 0);
    const top = document.querySelector("dialog[open]") ?? document;
    for (const one of top.querySelectorAll("button, a, select, input:not([type=file])")) {
        const box = one.getBoundingClientRect();
        if (!one.checkVisibility() || one.closest(".skip") || !box.width) continue;
        if (Math.min(box.width, box.height) < 24) problems.push(`small: ${one.outerHTML}`);
    }
    if (!document.documentElement.lang) problems.push("no language");
    return problems;
}"""

TOO_WIDE = """() => {
    const root = document.documentElement;
    const found = [];
    if (root.scrollWidth > root.clientWidth) found.push(`page: ${root.scrollWidth}`);
    const body = document.getElementById("panel-body");
    if (body.scrollWidth > body.clientWidth) found.push(`panel: ${body.scrollWidth}`);
    const apart = ".scroll, .visually-hidden, .skip, .hero, svg, .written > b";
    for (const one of document.querySelectorAll("body *")) {
        if (!one.checkVisibility() || one.closest(apart)) continue;
        const box = one.getBoundingClientRect();
        if (box.width && (box.right > root.clientWidth + 0.5 || box.left < -0.5)) {
            found.push(one.outerHTML.slice(0, 90));
        }
    }
    return found;
}"""


def check(page):
    assert page.evaluate(STRUCTURE) == []
    low = [one for one in page.evaluate(CONTRASTS) if one[0] < one[1]]
    assert low == []
    session = page.context.new_cdp_session(page)
    nodes = session.send("Accessibility.getFullAXTree")["nodes"]
    nameless = [
        node["role"]["value"]
        for node in nodes
        if not node.get("ignored")
        and node["role"]["value"] in FOCUSABLE
        and not node.get("name", {}).get("value", "").strip()
    ]
    assert nameless == []
    return {node["role"]["value"] for node in nodes if not node.get("ignored")}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_state_is_accessible(make_page, picture, scheme):
    page = make_page(color_scheme=scheme, reduced_motion="reduce")
    roles = check(page)
    assert {"search", "searchbox", "main", "banner"} <= roles or {"search", "main"} <= roles
    page.click("#add-filter")
    check(page)
    page.set_input_files("#file", picture)
    page.wait_for_selector(CARDS)
    assert "region" in check(page)
    page.goto("/?q=a+dog&filters=%7B%22side%22%3A%22left%22%7D")
    page.wait_for_selector(CARDS)
    check(page)
    page.locator(CARDS).first.click()
    page.wait_for_selector(".tree")
    page.wait_for_selector(".terms")
    assert {"dialog", "tree", "treeitem", "group", "table"} <= check(page)
    page.get_by_label("Close").click()
    page.route("**/api/search", lambda r: r.fulfill(status=500, json={"error": "x", "hint": "y"}))
    page.fill("#q", "z")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_be_visible()
    assert "alert" in check(page)


def test_dark_is_dark_and_motion_can_be_reduced(found):
    shade = "getComputedStyle(document.documentElement).backgroundColor"
    sums = {}
    for scheme in ("light", "dark"):
        page = found(color_scheme=scheme, reduced_motion="reduce")
        sums[scheme] = sum(map(int, page.evaluate(shade)[4:-1].split(",")))
        page.locator(CARDS).first.click()
        names = "[...document.querySelectorAll('*')].map((e) => getComputedStyle(e).animationName)"
        assert set(page.evaluate(names)) == {"none"}
    assert sums["dark"] < 120 < 600 < sums["light"]


def test_nothing_scrolls_sideways_at_360_pixels(make_page, picture):
    page = make_page(width=360, height=740, has_touch=True, is_mobile=True)
    assert page.evaluate(TOO_WIDE) == []
    page.click("#add-filter")
    page.fill("#filter-key", "side")
    page.fill("#filter-value", "left")
    assert page.evaluate(TOO_WIDE) == []
    page.set_input_files("#file", picture)
    page.wait_for_selector(CARDS)
    page.goto("/?q=" + "unbreakable" * 20)
    page.wait_for_selector(CARDS)
    assert page.evaluate(TOO_WIDE) == []
    assert page.evaluate(STRUCTURE) == []
    page.locator(CARDS).nth(3).click()
    page.wait_for_selector(".tree")
    page.wait_for_selector(".terms")
    page.wait_for_timeout(300)
    for item in page.locator("[role=treeitem][aria-expanded=false] > .row > .twist").all()[:3]:
        item.click()
    assert page.evaluate(TOO_WIDE) == []


MANY = 1000
SCROLL = """async () => {
    let shift = 0;
    new PerformanceObserver((list) => {
        for (const entry of list.getEntries()) shift += entry.value;
    }).observe({type: "layout-shift", buffered: false});
    const gaps = [];
    let before = performance.now();
    const end = document.documentElement;
    for (let at = 0; at + innerHeight < end.scrollHeight && gaps.length < 2000; at += 400) {
        scrollTo(0, at);
        await new Promise(requestAnimationFrame);
        gaps.push(performance.now() - before);
        before = performance.now();
    }
    scrollTo(0, end.scrollHeight);
    await new Promise((done) => setTimeout(done, 300));
    gaps.sort((a, b) => a - b);
    return {shift, frames: gaps.length, middle: gaps[gaps.length >> 1],
            late: gaps[Math.floor(gaps.length * 0.95)], most: gaps.at(-1)};
}"""


def ask_many(page, *, apart):
    """Show a thousand results: those of the service over and over, each picture `apart` or not."""

    def many(route):
        answer = route.fetch().json()
        hits = answer["hits"]
        answer["hits"] = [copy.deepcopy(hits[n % len(hits)]) for n in range(MANY)]
        for n, hit in enumerate(answer["hits"]):
            hit["rank"], hit["id"] = n + 1, f"{n}"
            hit["thumbnail"] += f"?n={n}&" if apart else ""
        route.fulfill(json=answer)

    page.route("**/api/search", many)
    page.fill("#q", "many")
    page.keyboard.press("Enter")
    expect(page.locator("#count")).to_contain_text("1,000 results")
    expect(page.locator(CARDS)).to_have_count(MANY)
    page.wait_for_load_state("networkidle")


def test_of_a_thousand_results_those_in_sight_are_loaded(found):
    page = found("/?q=a+dog&kind=image")
    pictures = []

    def plain(route):
        pictures.append(route.request.url)
        route.continue_(url=route.request.url.partition("?")[0] + "?size=320")

    page.route("**/api/thumbnails/**", plain)
    ask_many(page, apart=True)
    assert 8 <= len(pictures) < 100
    page.locator("#q").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("End")
    assert page.evaluate("Number(document.activeElement.dataset.number)") == MANY - 1
    expect(page.locator(CARDS).last).to_be_in_viewport()
    expect(page.locator(f"{CARDS} img").last).to_have_js_property("complete", True)
    assert page.locator(f"{CARDS} img").last.evaluate("one => one.naturalWidth") > 0
    assert any(f"?n={MANY - 1}&" in url for url in pictures)
    assert len(pictures) < 200


def test_a_thousand_results_scroll_smoothly(found, record_property):
    page = found("/?q=a+dog&kind=image")
    ask_many(page, apart=False)
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")
    before = _layouts(session)
    told = page.evaluate(SCROLL)
    layouts = _layouts(session) - before
    record_property("scrolling", {**told, "layouts": layouts})
    assert told["frames"] > 50
    assert told["shift"] < 0.01
    # Of a machine that may be busy with other things, and paints without a GPU.
    assert told["middle"] < 250
    # Reading sizes between writes would lay the page out several times a frame.
    assert layouts <= 2 * told["frames"]


def _layouts(session):
    metrics = session.send("Performance.getMetrics")["metrics"]
    return next(one["value"] for one in metrics if one["name"] == "LayoutCount")
