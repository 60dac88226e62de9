"""The page in a real browser: what it shows, the keys, a conflict, a ranking, a draft."""

from __future__ import annotations

import json
from typing import Any

import pytest

SECONDS = 90
"""Patience with a busy machine."""


class Page:
    """The review page in a browser, spoken to as a person would."""

    def __init__(self, driver: Any, review: Any) -> None:
        self.driver, self.review = driver, review

    def open(self, item: int = 0, reviewer: str = "ada") -> None:
        from urllib.parse import urlencode

        query = urlencode({"item": self.review.items[item]["id"], "reviewer": reviewer})
        self.driver.get(f"{self.review.address}&{query}")
        self.wait(lambda: self.find(".review-id").text == self.review.items[item]["id"])

    def find(self, selector: str) -> Any:
        from selenium.webdriver.common.by import By

        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def wait(self, condition: Any) -> Any:
        from selenium.common.exceptions import (
            NoSuchElementException,
            StaleElementReferenceException,
        )
        from selenium.webdriver.support.ui import WebDriverWait

        passing = (NoSuchElementException, StaleElementReferenceException)
        return WebDriverWait(self.driver, SECONDS, 0.1, passing).until(lambda _: condition())

    def see(self, text: str) -> None:
        self.wait(lambda: text in self.find("body").text)

    def press(self, *keys: str, ctrl: bool = False) -> None:
        """Keys go to whatever has the focus."""
        from selenium.webdriver import ActionChains, Keys

        chain = ActionChains(self.driver)
        for key in keys:
            if ctrl:
                chain.key_down(Keys.CONTROL).send_keys(key).key_up(Keys.CONTROL)
            else:
                chain.send_keys(key)
        chain.perform()

    def edit(self, text: str) -> None:
        """Press e and replace the text in the editor."""
        self.press("e")
        self.wait(lambda: self.driver.switch_to.active_element.tag_name == "textarea")
        self.press("a", ctrl=True)
        self.press(text)

    def save(self) -> None:
        from selenium.webdriver import Keys

        self.press(Keys.ENTER, ctrl=True)

    def decisions(self, count: int) -> list[dict[str, Any]]:
        """The file's lines once there are `count` of them."""

        def lines() -> list[str]:
            return self.review.decisions.read_text().splitlines()

        self.wait(lambda: len(lines()) >= count)
        rows = [json.loads(line) for line in lines()]
        assert len(rows) == count
        return [{k: v for k, v in row.items() if k not in ("time", "version")} for row in rows]


@pytest.fixture
def page(browser: Any, review: Any) -> Page:
    return Page(browser, review)


def test_an_item_is_shown_with_everything_and_from_nowhere_else(page):
    row = page.review.items[0]
    page.open(0)
    for text in (row["answer"], *row["findings"], "97%", "77%", "whole response 83%", "grade B"):
        page.see(text)
    for step in row["steps"]:
        page.see(step["text"])
    width = "return (document.querySelector('.review-media img') || {}).naturalWidth"
    page.wait(lambda: page.driver.execute_script(width) == 84)
    colours = page.driver.execute_script(
        "return [...document.querySelectorAll('.review-step')].map(e => e.style.borderColor)"
    )
    assert len(set(colours)) == len(row["steps"])  # their confidences differ
    hosts = page.driver.execute_script(
        "return performance.getEntriesByType('resource').map(e => new URL(e.name).host)"
    )
    assert set(hosts) == {page.review.url.removeprefix("http://")}
    page.press("?")
    page.see("with candidates: this one is the next best")
    page.press("d")  # reading the keys decides nothing
    page.press("\ue00c")
    page.wait(lambda: "with candidates" not in page.find("body").text)
    page.press("j")
    page.wait(lambda: page.find(".review-id").text == page.review.items[1]["id"])
    assert page.review.decisions.read_text() == ""
    if page.driver.name == "chrome":
        assert [e for e in page.driver.get_log("browser") if e["level"] == "SEVERE"] == []


def test_the_keys_decide_and_move(page):
    first, second, third, fourth = (row["id"] for row in page.review.items)
    page.open(0)
    page.press("j")
    page.wait(lambda: page.find(".review-id").text == second)
    page.press("k")
    page.wait(lambda: page.find(".review-id").text == first)
    page.press("d")
    page.wait(lambda: page.find(".review-id").text == second)
    page.press("j")
    page.wait(lambda: page.find(".review-id").text == third)
    page.press("a")
    page.wait(lambda: page.find(".review-id").text == fourth)
    page.edit("line one\nline <two>")
    page.save()
    page.wait(lambda: page.find(".review-id").text == second)  # the only one left
    page.see("3 of 4 decided")
    by = {"base_version": 0, "reviewer": "ada"}
    assert page.decisions(3) == [
        by | {"id": first, "action": "drop"},
        by | {"id": third, "action": "accept"},
        by | {"id": fourth, "action": "edit", "response": "line one\nline <two>"},
    ]


def test_a_conflict_keeps_the_text_and_overwrites_nothing(page):
    id = page.review.items[0]["id"]
    page.open(0)
    page.edit("mine")
    body = {"id": id, "base_version": 0, "action": "edit", "reviewer": "bob", "response": "his"}
    with page.review.client() as client:
        assert client.post("/api/decisions", json=body).status_code == 201
    page.save()
    page.see("bob decided on this item first (edit, version 1")
    page.see("Your decision was not written. Your text is kept in the editor.")
    assert page.find(".review-editor textarea").get_attribute("value") == "mine"
    assert len(page.decisions(1)) == 1
    page.wait(lambda: page.driver.switch_to.active_element.tag_name == "textarea")
    page.save()  # now that bob's is on the screen
    second = page.decisions(2)[1]
    assert (second["base_version"], second["reviewer"], second["response"]) == (1, "ada", "mine")


def test_a_draft_outlives_a_reload_and_a_conflict_in_between(page):
    id = page.review.items[2]["id"]
    page.open(2)
    page.edit("half a sen")
    page.wait(lambda: page.find(".review-editor textarea").get_attribute("value") == "half a sen")
    body = {"id": id, "base_version": 0, "action": "drop", "reviewer": "bob"}
    with page.review.client() as client:
        assert client.post("/api/decisions", json=body).status_code == 201
    page.driver.refresh()
    page.see("bob decided on this item first (drop, version 1")
    page.wait(lambda: page.find(".review-editor textarea").get_attribute("value") == "half a sen")
    page.press("\ue00c")  # Esc: the text is given up
    page.wait(lambda: "Your text" not in page.find("body").text)
    page.decisions(1)


def test_candidates_are_ranked_with_the_keys(page):
    page.open(1)
    page.see("three & more")
    page.see("<b>two</b>")  # text, not HTML
    page.press("2")
    page.press("3", "1")
    pressed = "return document.querySelectorAll('.review-rank [aria-pressed=true]').length"
    page.wait(lambda: page.driver.execute_script(pressed) == 3)
    page.save()
    assert page.decisions(1)[0]["ranking"] == [3, 1, 2]
    page.see("1 of 4 decided")
    page.press("k")
    page.see("ranked, version 1")


def test_older_versions_are_shown_and_can_be_taken_up_again(page):
    row = page.review.items[0]
    with page.review.client() as client:
        for base, text in enumerate(("first try", "second try")):
            body = {"id": row["id"], "base_version": base, "action": "edit", "reviewer": "bob"}
            client.post("/api/decisions", json=body | {"response": text})
    page.open(0, reviewer="eve")
    page.see("TEXT THAT STANDS: VERSION 2 BY BOB")
    page.find(".review-history .q-item").click()
    page.see("Version 1: edit by bob")
    page.see("first try")
    from selenium.webdriver.common.by import By

    buttons = page.driver.find_elements(By.CSS_SELECTOR, ".review-history button")
    page.wait(lambda: buttons[2].is_displayed())
    buttons[2].click()  # of version 0, the oldest
    page.wait(
        lambda: page.find(".review-editor textarea").get_attribute("value") == row["response"]
    )
