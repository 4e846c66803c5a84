"""A result in full: how it was written, how it was checked; and words that would be HTML."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("playwright")

from playwright.sync_api import expect

from genmm_retriever.serving.http.schemas import address

CARDS = ".card:not(.blank)"


@pytest.fixture
def opened(found):
    """A page with its best result open, and the explanation that was told."""

    def open_it(path="/?q=a+dog", **options):
        page = found(path, **options)
        with page.expect_response(re.compile("/api/explain")) as told:
            page.locator(CARDS).first.click()
        page.wait_for_selector(".tree")
        return page, told.value.json()

    return open_it


def nodes(node):
    return [node, *(below for child in node["children"] for below in nodes(child))]


def test_the_tree_shows_the_explanation(opened):
    page, told = opened()
    tree = page.get_by_role("tree")
    for node in nodes(told["tree"])[1:]:
        label = f"{node['text'].strip() or 'end'}"
        assert node["probability"] <= 1
        assert tree.get_by_role("treeitem").filter(has_text=label).count() >= 1
    firsts = page.locator('.tree > li > ul > li[aria-level="2"]')
    top = told["tree"]
    more = top["legal"] - len(top["children"]) - len(top["alternatives"])
    assert firsts.count() == len(top["children"]) + len(top["alternatives"]) + (more > 0)
    shares = page.locator(".tree > li > ul > li:not(.other) > .row > .odds .share")
    widths = shares.evaluate_all(
        "all => all.map((one) => Number(one.style.getPropertyValue('--share')))"
    )
    assert widths == pytest.approx([child["probability"] for child in top["children"]])
    best = told["hits"][0]["hit"]["id"]
    way = page.locator("li.on-way.leaf")
    assert way.count() >= 1
    assert best in way.first.get_attribute("aria-label")
    expect(page.locator(".row .figures").nth(1)).to_contain_text("log p")


def test_the_check_shows_what_each_part_adds(opened):
    page, told = opened()
    first = told["hits"][0]
    rows = page.locator(".checked tbody tr")
    expect(rows).to_have_count(len(first["contributions"]))
    for row, part in zip(rows.all(), first["contributions"], strict=True):
        shown = float(row.locator(".number").inner_text().replace("\N{MINUS SIGN}", "-"))
        assert shown == pytest.approx(part["adds"], abs=0.006)
    expect(page.locator(".checked tfoot")).to_contain_text("log-odds")


def test_one_explanation_serves_all_results(opened):
    page, told = opened()
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    for rank in (2, 3):
        page.get_by_label("Next result").click()
        expect(page.locator("#panel-title")).to_have_text(f"Result {rank} of 12")
        page.wait_for_selector(".tree")
    page.get_by_label("Close").click()
    page.locator("#explain").click()
    expect(page.locator("#panel-title")).to_have_text("How this answer was written")
    page.wait_for_selector(".tree")
    assert not [url for url in asked if "/api/explain" in url]
    assert told["beams"] == 8


def test_back_closes_and_the_address_opens(opened):
    page, _ = opened("/?q=a+dog")
    where = page.url
    assert "open=" in where
    page.go_back()
    expect(page.locator("#panel")).to_be_hidden()
    expect(page.locator(CARDS)).to_have_count(12)
    page.go_forward()
    expect(page.locator("#panel")).to_be_visible()
    page.get_by_label("Close").click()
    expect(page.locator("#panel")).to_be_hidden()
    assert "open=" not in page.url
    page.goto(where)
    expect(page.locator("#panel")).to_be_visible()
    page.get_by_label("Close").click()
    expect(page.locator("#panel")).to_be_hidden()
    assert "open=" not in page.url


def test_metadata_narrows_the_search(opened):
    page, _ = opened("/?q=a+dog&kind=image")
    chip = page.locator("dd button.chip").first
    value = chip.inner_text()
    with page.expect_request("**/api/search") as caught:
        chip.click()
    assert [str(one) for one in caught.value.post_data_json["filters"].values()] == [value]
    expect(page.locator("#panel")).to_be_hidden()
    expect(page.locator("#filter-list .chip")).to_have_count(1)


def test_an_explanation_that_fails_is_asked_again(found):
    page = found()
    refusal = {"error": "no <i>explanation</i>", "hint": "later"}
    page.route("**/api/explain", lambda route: route.fulfill(status=500, json=refusal))
    page.locator(CARDS).first.click()
    expect(page.locator(".written [role=alert]")).to_have_text("no <i>explanation</i> later")
    page.unroute("**/api/explain")
    page.locator(".written").get_by_role("button", name="Try again").click()
    expect(page.get_by_role("tree")).to_be_visible()


def test_a_picture_is_explained_too(make_page, picture):
    page = make_page()
    page.set_input_files("#file", picture)
    page.wait_for_selector(CARDS)
    with page.expect_response("**/api/explain/upload") as told:
        page.locator("#explain").click()
    assert told.value.json()["query"]["has_image"]
    expect(page.get_by_role("tree")).to_be_visible()


def test_clues_are_marked_where_they_stand(found):
    page = found()
    text = "🐕 A brown dog runs, a brown cat sleeps."
    clue = {"text": "brown dog", "logprob": -2.5, "score": 7.0, "count": 3, "documents": 2}
    clue |= {"given": False, "seen": False, "spans": [[4, 13]]}
    evidence = {"identifiers": [], "clues": [clue], "generation": 2.0, "verification": 0.5}
    evidence |= {"parts": {}, "filled": False, "caption": text, "rewritings": []}
    hit = {"rank": 1, "id": "x", "score": 0.5, "kind": "text", "title": None, "text": text}
    hit |= {"metadata": {}, "evidence": evidence}
    whole = {"hit": hit, "looked_at": False, "contributions": [], "log_odds": None}
    told = {"hits": [whole], "way": "clues", "tree": None, "beams": 0, "hypotheses": 0}
    told |= {"guided": False, "verify": "off", "seconds": {}, "query": {}}
    seconds = {"encode": 0, "decode": 0, "verify": 0, "total": 0.1}
    found_one = {"query": {}, "hits": [{**hit, "image": None, "thumbnail": None}]}
    page.route("**/api/search", lambda r: r.fulfill(json=found_one | {"seconds": seconds}))
    page.route("**/api/explain", lambda r: r.fulfill(json=told))
    page.fill("#q", "dog")
    page.keyboard.press("Enter")
    expect(page.locator(CARDS)).to_have_count(1)
    page.locator(CARDS).click()
    # Places are in characters, not in UTF-16 units: the dog's face is one.
    expect(page.locator("blockquote mark")).to_have_text(["brown dog"])
    expect(page.locator(".written tbody tr")).to_have_count(1)
    expect(page.locator(".written tbody")).to_contain_text("3 in 2")


def test_hostile_words_stay_words(opened, hostile):
    page, _ = opened("/?q=<img src=x onerror=window.pwned=1>")
    for number in range(12):
        expect(page.locator("#panel-title")).to_have_text(f"Result {number + 1} of 12")
        page.wait_for_selector(".tree")
        if number < 11:
            page.get_by_label("Next result").click()
    page.get_by_label("Close").click()
    expect(page.locator(".caption").filter(has_text=hostile).first).to_be_visible()
    assert page.evaluate("window.pwned") is None
    assert page.locator("#results script, #results [onerror], dialog script").count() == 0
    sources = page.locator("img").evaluate_all("all => all.map((one) => one.getAttribute('src'))")
    assert "x" not in sources
    assert page.evaluate("document.title").startswith("<img src=x")


def test_pictures_of_odd_names_are_addressed_as_the_service_does(found):
    page = found("/?q=a+dog&kind=image")
    sources = page.locator(f"{CARDS} img").evaluate_all(
        "all => all.map((i) => i.getAttribute('src'))"
    )
    assert sorted(sources) == [f"{address('thumbnails', f'p{n}')}?size=320" for n in range(8)]
    for image in page.locator(f"{CARDS} img").all():
        image.scroll_into_view_if_needed()
        expect(image).to_have_js_property("complete", True)
        assert image.evaluate("one => one.naturalWidth") > 0
