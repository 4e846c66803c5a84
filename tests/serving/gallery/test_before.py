"""Before the search: the choice, what was asked instead, and what it cost."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("playwright")

from playwright.sync_api import expect

from .test_accessible import TOO_WIDE, check

CARDS = ".card:not(.blank)"
WORDY = "please find me a picture that I saw a while ago of a dog in the snow thanks"


def asked_for(page, act, what=re.compile("/api/search")):
    with page.expect_request(what) as caught:
        act()
    return caught.value


def test_nothing_is_done_unless_it_is_chosen(make_page):
    page = make_page()
    assert page.locator("#adapt").input_value() == ""
    page.fill("#q", "a dog")
    request = asked_for(page, lambda: page.keyboard.press("Enter"))
    assert "adapt" not in request.post_data_json
    expect(page.locator(CARDS)).to_have_count(12)
    page.locator(CARDS).first.click()
    expect(page.get_by_role("tree")).to_be_visible()
    expect(page.locator(".before")).to_have_count(0)


def test_it_is_chosen_by_keyboard_and_kept_in_the_address(found):
    page = found(f"/?q={WORDY.replace(' ', '+')}")
    page.locator("#adapt").focus()
    request = asked_for(page, lambda: page.keyboard.press("ArrowDown"))
    assert request.post_data_json["adapt"] == ["rewrite"]
    expect(page.locator(CARDS)).to_have_count(12)
    assert "adapt=rewrite" in page.url
    request = asked_for(page, page.reload)
    assert request.post_data_json["adapt"] == ["rewrite"]
    expect(page.locator("#adapt")).to_have_value("rewrite")
    expect(page.locator(CARDS)).to_have_count(12)
    page.go_back()
    expect(page.locator("#adapt")).to_have_value("")
    assert "adapt" in page.locator("#timing").get_attribute("title")
    page.goto("/?q=a+dog&adapt=answer")
    expect(page.locator("#adapt")).to_have_value("")


def test_the_panel_tells_what_was_asked_instead(found):
    page = found(f"/?q={WORDY.replace(' ', '+')}&adapt=rewrite")
    request = asked_for(page, page.locator(CARDS).first.click, re.compile("/api/explain"))
    assert request.post_data_json["adapt"] == ["rewrite"]
    expect(page.get_by_role("tree")).to_be_visible()
    region = page.get_by_role("region", name="Before the search")
    expect(region.locator("li b")).to_have_text(["rewrite"])
    expect(region.locator(".cost")).to_have_text(re.compile(r"^\d+ tokens? · \d+\.\d\d s$"))


def test_of_several_searches_the_first_is_explained_and_that_is_said(found):
    page = found("/?q=a+dog&adapt=expand")
    request = asked_for(page, page.locator(CARDS).first.click, re.compile("/api/explain"))
    assert "adapt" not in request.post_data_json
    expect(page.get_by_role("tree")).to_be_visible()
    expect(page.locator(".written .muted").first).to_contain_text("the further searches are not")
    expect(page.locator(".before b").first).to_have_text("expand")
    expect(page.locator(".facts .big")).to_contain_text("verified")
    expect(page.locator(".facts .muted").first).to_contain_text("of the best rank in every search")


def test_a_card_shows_the_probability_and_not_how_rankings_agree(found):
    page = found()
    page.route("**/api/search", fused)
    page.goto("/?q=a+dog&adapt=expand")
    expect(page.locator(CARDS).first.locator(".score")).to_have_text("2.0%")
    expect(page.locator(CARDS).first).to_have_attribute("aria-label", re.compile("verified 2.0%"))
    expect(page.locator(CARDS).nth(1).locator(".score")).to_have_text("98% fused")


def fused(route):
    """The service's answer as if its rankings had been fused, only the first hit verified."""
    response = route.fetch()
    told = response.json()
    for hit, score, sure in zip(told["hits"], (1.0, 0.98), (0.02, None), strict=False):
        hit["score"] = hit["evidence"]["parts"]["fused"] = score
        hit["evidence"]["verification"] = sure
    route.fulfill(response=response, json=told)


def test_a_picture_and_its_change_are_composed(make_page, picture):
    page = make_page("/?adapt=compose")
    page.set_input_files("#file", picture)
    page.wait_for_selector(CARDS)
    page.fill("#q", "in red")
    with page.expect_response("**/api/search/upload") as answered:
        page.keyboard.press("Enter")
    told = answered.value.json()
    assert told["query"]["adapt"] == ["compose"]
    assert told["hits"][0]["evidence"]["steps"][0]["adapter"] == "compose"


@pytest.mark.parametrize("options", [{"color_scheme": "dark"}, {"width": 360, "height": 740}])
def test_steps_are_shown_as_words_in_any_room(make_page, hostile, options):
    page = make_page(reduced_motion="reduce", **options)
    steps = [
        {"adapter": "rewrite", "text": hostile, "changed": True, "note": hostile, "tokens": 1,
         "seconds": 0.5},
        {"adapter": "reason", "text": "unbreakable" * 20, "changed": True, "note": None,
         "tokens": None, "seconds": 12.345},
        {"adapter": "compose", "text": "", "changed": False, "note": "no picture", "tokens": 0,
         "seconds": 0},
    ]  # fmt: skip

    def adapted(route):
        answer = route.fetch().json()
        for hit in answer["hits"]:
            hit["evidence"]["steps"] = steps
        route.fulfill(json=answer)

    page.route("**/api/search", adapted)
    page.fill("#q", "a dog")
    page.keyboard.press("Enter")
    page.wait_for_selector(CARDS)
    assert page.evaluate(TOO_WIDE) == []
    page.locator(CARDS).first.click()
    page.wait_for_selector(".terms")
    lines = page.locator(".before li")
    expect(lines).to_have_count(3)
    expect(lines.nth(0).locator("q")).to_have_text(hostile)
    expect(lines.nth(0).locator(".cost")).to_have_text("1 token · 0.50 s")
    expect(lines.nth(1).locator(".cost")).to_have_text("12.35 s")
    expect(lines.nth(2)).to_contain_text("left as it was")
    assert page.evaluate("window.pwned") is None
    assert page.evaluate(TOO_WIDE) == []
    check(page)
