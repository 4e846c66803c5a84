"""Asking by words and pictures, filters, the address, and what is said when it goes wrong."""

from __future__ import annotations

import json
import re
import time
from itertools import pairwise

import pytest

pytest.importorskip("playwright")

from playwright.sync_api import expect

CARDS = ".card:not(.blank)"


def asked_for(page, act, what=re.compile("/api/search")):
    """The request that an act makes."""
    with page.expect_request(what) as caught:
        act()
    return caught.value


def test_words_are_searched_and_kept_in_the_address(make_page):
    page = make_page()
    assert page.evaluate("document.activeElement.id") == "q"
    page.keyboard.type("a dog & a cat")
    request = asked_for(page, lambda: page.keyboard.press("Enter"))
    assert request.post_data_json == {"text": "a dog & a cat", "k": 12, "filters": {}}
    expect(page.locator(CARDS)).to_have_count(12)
    expect(page.locator("#count")).to_have_text("12 results for “a dog & a cat”")
    expect(page.get_by_role("status").first).to_have_text("12 results for “a dog & a cat”")
    assert page.url.endswith("/?q=a+dog+%26+a+cat")
    scores = [float(text.strip("<>%")) for text in page.locator(".score").all_inner_texts()]
    assert scores == sorted(scores, reverse=True)
    page.reload()
    expect(page.locator(CARDS)).to_have_count(12)
    expect(page.locator("#q")).to_have_value("a dog & a cat")


def test_back_and_forward_ask_again_what_was_asked(found):
    page = found("/?q=first")
    page.fill("#q", "second")
    page.keyboard.press("Enter")
    expect(page.locator("#count")).to_contain_text("second")
    page.go_back()
    expect(page.locator("#count")).to_contain_text("first")
    expect(page.locator("#q")).to_have_value("first")
    page.go_forward()
    expect(page.locator("#count")).to_contain_text("second")


def test_options_are_asked_with(found):
    page = found("/?q=a+dog&k=5&kind=text&verify=off")
    expect(page.locator(CARDS)).to_have_count(4)
    assert page.locator("#k").input_value() == "5"
    request = asked_for(page, lambda: page.select_option("#kind", "image"))
    wanted = {"text": "a dog", "k": 5, "kind": "image", "verify": "off", "filters": {}}
    assert request.post_data_json == wanted
    expect(page.locator(f"{CARDS} img")).to_have_count(5)
    assert "kind=image" in page.url


def test_an_address_that_makes_no_sense_is_read_as_far_as_it_does(found):
    page = found("/?q=a+dog&k=9e9&kind=film&verify=%00&filters=%7Bbroken&open=nothing")
    expect(page.locator(CARDS)).to_have_count(12)
    assert page.locator("#k").input_value() == "12"


def test_filters_are_added_removed_and_widened(found):
    page = found()
    page.click("#add-filter")
    page.fill("#filter-key", "year")
    page.fill("#filter-value", "2012")
    request = asked_for(page, lambda: page.keyboard.press("Enter"))
    # As on the command line: the number, and a text that reads the same.
    assert request.post_data_json["filters"] == {"year": [2012, "2012"]}
    expect(page.locator(CARDS)).to_have_count(1)
    assert json.loads(page.evaluate("new URLSearchParams(location.search).get('filters')"))
    expect(page.locator("#filter-list .chip")).to_have_text(["year = 2012"])
    page.reload()
    expect(page.locator(CARDS)).to_have_count(1)
    page.get_by_label("Remove the filter year = 2012").click()
    expect(page.locator(CARDS)).to_have_count(12)
    page.goto("/?q=a+dog&filters=" + json.dumps({"side": "neither"}))
    expect(page.locator("#notice")).to_contain_text("Nothing matches these filters")
    page.get_by_role("button", name="Search without filters").click()
    expect(page.locator(CARDS)).to_have_count(12)


def test_a_picture_is_searched_with_words_beside_it_and_removed(make_page, picture):
    page = make_page()
    request = asked_for(page, lambda: page.set_input_files("#file", picture))
    assert request.url.endswith("/api/search/upload")
    expect(page.locator(CARDS)).to_have_count(12)
    expect(page.locator("#count")).to_have_text("12 results for the picture")
    expect(page.locator("#picked-image")).to_be_visible()
    assert page.evaluate("document.getElementById('picked-image').naturalWidth") == 300
    page.fill("#q", "the same in red")
    with page.expect_response("**/api/search/upload") as answered:
        page.keyboard.press("Enter")
    query = answered.value.json()["query"]
    assert (query["text"], query["image"]) == ("the same in red", True)
    expect(page.locator("#count")).to_contain_text("the same in red")
    request = asked_for(page, lambda: page.get_by_label("Remove the picture").click())
    assert request.url.endswith("/api/search")
    expect(page.locator("#picked")).to_be_hidden()
    page.go_back()
    expect(page.locator("#picked-image")).to_be_visible()


@pytest.mark.parametrize("how", ["drop", "paste"])
def test_a_picture_is_dropped_or_pasted(make_page, picture, how):
    page = make_page()
    data = list(picture.read_bytes())
    event = """([bytes, how]) => {
        const carried = new DataTransfer();
        carried.items.add(new File([new Uint8Array(bytes)], "it.png", {type: "image/png"}));
        const options = {bubbles: true, cancelable: true};
        if (how === "drop") {
            options.dataTransfer = carried;
            document.body.dispatchEvent(new DragEvent("dragover", options));
            if (document.getElementById("drop").hidden) throw new Error("no sign to drop");
            document.body.dispatchEvent(new DragEvent("drop", options));
        } else {
            options.clipboardData = carried;
            document.body.dispatchEvent(new ClipboardEvent("paste", options));
        }
    }"""
    request = asked_for(page, lambda: page.evaluate(event, [data, how]))
    assert request.url.endswith("/api/search/upload")
    expect(page.locator(CARDS)).to_have_count(12)
    expect(page.locator("#drop")).to_be_hidden()


def test_what_is_no_picture_is_refused(make_page, tmp_path):
    page = make_page()
    (tmp_path / "notes.txt").write_text("words")
    page.set_input_files("#file", tmp_path / "notes.txt")
    expect(page.get_by_role("alert")).to_contain_text("notes.txt is not a picture")
    # One that only says it is: the service looks.
    (tmp_path / "broken.png").write_bytes(b"no picture")
    page.set_input_files("#file", tmp_path / "broken.png")
    expect(page.get_by_role("alert")).to_be_visible()
    expect(page.get_by_role("button", name="Try again")).to_be_visible()
    expect(page.locator(CARDS)).to_have_count(0)


def test_a_refusal_is_told_with_its_hint_and_asked_again(found):
    page = found()
    refusal = {"error": "the index is <b>gone</b>", "hint": "build it again"}
    page.route("**/api/search", lambda route: route.fulfill(status=500, json=refusal))
    page.fill("#q", "another")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("The index is <b>gone</b>")
    expect(page.get_by_role("alert")).to_contain_text("build it again")
    expect(page.locator(".card")).to_have_count(0)
    page.unroute("**/api/search")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(CARDS)).to_have_count(12)
    expect(page.get_by_role("alert")).to_have_count(0)


def test_a_busy_server_is_asked_again_when_it_says(make_page):
    page = make_page()
    times = []

    def busy(route):
        times.append(time.monotonic())
        if len(times) < 3:
            body = {"error": "busy", "hint": "later"}
            route.fulfill(status=503, json=body, headers={"Retry-After": "1"})
        else:
            route.continue_()

    page.route("**/api/search", busy)
    page.fill("#q", "a dog")
    page.keyboard.press("Enter")
    expect(page.locator("#notice")).to_contain_text("busy. Asking again in 1 second (1 of 5)")
    expect(page.locator("#notice")).to_contain_text("(2 of 5)")
    expect(page.locator(CARDS)).to_have_count(12)
    expect(page.locator("#notice")).to_be_hidden()
    assert len(times) == 3
    assert all(later - earlier >= 1 for earlier, later in pairwise(times))


def test_waiting_can_be_stopped_and_an_older_answer_never_shows(make_page):
    page = make_page()
    slow = []
    page.route(
        "**/api/search",
        lambda route: (
            slow.append(route) if "slow" in route.request.post_data else route.continue_()
        ),
    )
    page.fill("#q", "slow")
    page.keyboard.press("Enter")
    expect(page.locator("#results")).to_have_attribute("aria-busy", "true")
    expect(page.locator(".blank")).to_have_count(12)
    page.fill("#q", "fast")
    page.keyboard.press("Enter")
    expect(page.locator("#count")).to_contain_text("fast")
    assert len(slow) == 1
    busy = {"error": "busy", "hint": "later"}
    page.route("**/api/search", lambda r: r.fulfill(status=503, json=busy))
    page.fill("#q", "never")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#notice")).to_contain_text("Stopped")


def test_a_service_that_is_gone(found):
    page = found()
    page.route("**/api/search", lambda route: route.abort())
    page.fill("#q", "another")
    with page.expect_event("requestfailed"):
        page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("cannot be reached")


def test_the_head_tells_what_is_served(make_page):
    page = make_page()
    expect(page.locator("#info")).to_have_text(re.compile("12 items · tiny-builtin"))
