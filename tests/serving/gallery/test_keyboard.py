"""The page by the keyboard alone."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("playwright")

from playwright.sync_api import expect

CARDS = ".card:not(.blank)"


def focused(page, what="id"):
    return page.evaluate(f"document.activeElement.{what}")


def number(page):
    return page.evaluate("Number(document.activeElement.dataset.number ?? -1)")


def press(page, *keys):
    for key in keys:
        page.keyboard.press(key)


def test_a_whole_visit(make_page):
    page = make_page()
    page.keyboard.type("a dog")
    press(page, "Enter")
    expect(page.locator(CARDS)).to_have_count(12)
    press(page, "ArrowDown")
    assert number(page) == 0
    press(page, "ArrowRight", "Enter")
    expect(page.locator("#panel-title")).to_have_text("Result 2 of 12")
    assert focused(page) == "panel-title"
    expect(page.get_by_role("tree")).to_be_visible()
    press(page, "ArrowRight")
    expect(page.locator("#panel-title")).to_have_text("Result 3 of 12")
    press(page, "Escape")
    expect(page.locator("#panel")).to_be_hidden()
    # Back where the panel was left, not where it was opened.
    assert number(page) == 2
    press(page, "/")
    assert focused(page) == "q"
    assert page.evaluate("getSelection().toString()") == "a dog"
    press(page, "/")
    expect(page.locator("#q")).to_have_value("/")


def test_arrows_move_in_the_grid(found):
    page = found(width=1280)
    page.locator("#q").focus()
    press(page, "ArrowDown")
    columns = page.evaluate(
        "getComputedStyle(document.querySelector('.grid')).gridTemplateColumns.split(' ').length"
    )
    assert columns == 4
    for key, wanted in [
        ("ArrowLeft", 0),
        ("ArrowUp", 0),
        ("ArrowRight", 1),
        ("ArrowDown", 5),
        ("End", 11),
        ("ArrowRight", 11),
        ("ArrowUp", 7),
        ("Home", 0),
        ("PageDown", 11),
        ("PageUp", 0),
    ]:
        press(page, key)
        assert (key, number(page)) == (key, wanted)
    # One stop for Tab, wherever the arrows have gone.
    assert page.locator(f"{CARDS}[tabindex='0']").count() == 1
    page.goto("/?q=a+dog&k=6")
    expect(page.locator(CARDS)).to_have_count(6)
    page.locator("#q").focus()
    press(page, "ArrowDown", "ArrowRight", "ArrowRight", "ArrowRight", "ArrowDown")
    assert number(page) == 5


def test_tab_reaches_everything_in_order_with_a_visible_focus(found):
    page = found()
    page.evaluate("document.activeElement.blur()")
    reached = []
    for _ in range(14):
        press(page, "Tab")
        reached.append(
            page.evaluate(
                """() => {
                    const at = document.activeElement;
                    const style = getComputedStyle(at);
                    const box = at.id === "q" ? getComputedStyle(at.closest(".box")) : null;
                    const ring = box?.boxShadow.includes("0px 1px");
                    const seen = style.outlineStyle !== "none" || ring;
                    return [at.id || at.tagName, seen];
                }"""
            )
        )
    names = [name for name, _ in reached]
    order = ["skip", "home", "q", "pick", "kind", "verify", "k", "add-filter", "explain"]
    assert list(dict.fromkeys(name for name in names if name in order)) == order
    assert [name for name, seen in reached if not seen and name != "BODY"] == []


def test_the_tree_is_walked(found):
    page = found()
    page.locator("#explain").focus()
    press(page, "Enter")
    expect(page.get_by_role("tree")).to_be_visible()
    root = page.locator(".tree > li")
    root.focus()
    level = "document.activeElement.getAttribute('aria-level')"
    label = "document.activeElement.getAttribute('aria-label')"
    assert page.evaluate(level) == "1"
    press(page, "ArrowRight")
    assert page.evaluate(level) == "2"
    first = page.evaluate(label)
    expect(page.locator("[role=treeitem][aria-selected=true]")).to_have_count(1)
    assert page.locator("[role=treeitem][aria-selected=true] > .row > .figures").is_visible()
    press(
        page,
        "ArrowLeft" if page.evaluate("document.activeElement.ariaExpanded") == "true" else "Shift",
    )
    press(page, "ArrowLeft")
    assert page.evaluate(level) == "1"
    press(page, "ArrowLeft")
    expect(root).to_have_attribute("aria-expanded", "false")
    expect(page.locator(".tree > li > ul")).to_be_hidden()
    press(page, "ArrowDown")
    assert page.evaluate(level) == "1"
    press(page, "ArrowRight", "ArrowRight")
    assert page.evaluate(label) == first
    press(page, "End")
    last = page.evaluate(label)
    press(page, "ArrowDown")
    assert page.evaluate(label) == last
    press(page, "Home")
    assert page.evaluate(level) == "1"
    # To an item that is named, and to it by Enter.
    for _ in range(200):
        button = "document.activeElement.querySelector(':scope > .row button') !== null"
        if page.evaluate(button):
            break
        press(page, "ArrowRight")
    press(page, "Enter")
    expect(page.locator("#panel-title")).to_have_text(re.compile(r"Result \d+ of 12"))


def test_the_panel_keeps_the_focus_and_gives_it_back(found):
    page = found()
    page.locator(CARDS).nth(4).focus()
    press(page, "Enter")
    page.wait_for_selector(".tree")
    for _ in range(30):
        press(page, "Tab")
        # Between the last and the first, the browser's own controls have it.
        assert page.evaluate("!document.activeElement.closest('header.top, main')")
    press(page, "Escape")
    expect(page.locator("#panel")).to_be_hidden()
    assert number(page) == 4


def test_the_filter_form_is_left_by_escape(found):
    page = found()
    page.locator("#add-filter").focus()
    press(page, "Enter")
    assert focused(page) == "filter-key"
    expect(page.locator("#add-filter")).to_have_attribute("aria-expanded", "true")
    press(page, "Escape")
    expect(page.locator("#filter-form")).to_be_hidden()
    assert focused(page) == "add-filter"
