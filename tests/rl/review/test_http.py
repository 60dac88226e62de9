"""The review over plain HTTP: the token, lists, media, decisions, conflicts, export and import."""

from __future__ import annotations

import io
import json
import socket

import httpx
import numpy as np
import pytest
from PIL import Image

from rl.review.decisions import load_decisions


def decide(client: httpx.Client, id: str, base: int, action: str, **more) -> httpx.Response:
    body = {"id": id, "base_version": base, "action": action, "reviewer": "ada"} | more
    return client.post("/api/decisions", json=body)


@pytest.mark.parametrize("path", ["/", "/api/items", "/media?id=x&number=0", "/_nicegui/x.js"])
def test_without_the_token_everything_is_403(review, path):
    mark = "&" if "?" in path else "?"
    for address in (path, f"{path}{mark}token=wrong", f"{path}{mark}token="):
        answer = httpx.get(review.url + address, timeout=60)
        assert (answer.status_code, "token" in answer.text) == (403, True)
    headers = {"Authorization": f"Bearer {review.token}x"}
    assert httpx.get(review.url + path, headers=headers, timeout=60).status_code == 403
    refused = httpx.post(f"{review.url}/api/decisions", json={}, timeout=60)
    assert refused.status_code == 403


def test_without_the_token_no_websocket_opens(review):
    host, port = review.url.removeprefix("http://").split(":")
    lines = [
        "GET /_nicegui_ws/socket.io/?EIO=4&transport=websocket HTTP/1.1",
        f"Host: {host}:{port}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
        "Sec-WebSocket-Version: 13",
    ]

    def first_line(*more: str) -> bytes:
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            connection.sendall("\r\n".join([*lines, *more, "", ""]).encode())
            return connection.recv(200).split(b"\r\n")[0]

    cookie = f"Cookie: keye_review_{port}={review.token}"
    assert b" 403 " in first_line()
    assert b" 403 " in first_line(cookie, "Origin: http://127.0.0.1:1")
    assert b" 101 " in first_line(cookie, f"Origin: http://{host}:{port}")


def test_the_printed_address_gives_a_cookie_and_forgets_the_token(review):
    with httpx.Client(base_url=review.url, timeout=60) as browser:
        first = browser.get(f"/?token={review.token}&reviewer=bob")
        assert (first.status_code, first.headers["location"]) == (303, "/?reviewer=bob")
        assert "HttpOnly; SameSite=Strict" in first.headers["set-cookie"]
        page = browser.get(first.headers["location"])
        assert page.status_code == 200
        assert page.headers["referrer-policy"] == "no-referrer"
        assert "<title>Review</title>" in page.text
        other = {"Origin": "http://127.0.0.1:1"}  # another page in the same browser
        assert browser.post("/api/decisions", json={}, headers=other).status_code == 403


def test_the_page_asks_nobody_else_for_anything(review):
    """Offline: no script, style or font has an address on another host."""
    with review.client() as client:
        page = client.get("/").text
    assert "https://" not in page.replace("https://nicegui.io", "")
    assert "//cdn" not in page


def test_items_are_listed_with_what_was_decided(review):
    with review.client() as client:
        ids = [row["id"] for row in review.items]
        listed = client.get("/api/items").json()
        assert [entry["id"] for entry in listed] == ids
        assert {entry["status"] for entry in listed} == {"open"}
        assert decide(client, ids[0], 0, "drop").status_code == 201
        assert decide(client, ids[1], 0, "rank", ranking=[2, 1, 2]).status_code == 201
        listed = client.get("/api/items").json()
    assert [entry["status"] for entry in listed] == ["dropped", "open", "open", "open"]
    assert [entry["ranked"] for entry in listed] == [False, True, False, False]
    assert [entry["version"] for entry in listed] == [1, 1, 0, 0]


def test_an_item_has_its_steps_findings_and_media(review):
    row = review.items[0]
    with review.client() as client:
        item = client.get("/api/item", params={"id": row["id"]}).json()
        shown = client.get("/media", params={"id": row["id"], "number": 0})
        assert client.get("/media", params={"id": row["id"], "number": 1}).status_code == 404
    for key in ("steps", "findings", "answer", "grade", "response", "confidence"):
        assert item[key] == row[key], key
    assert item["media"] == [{"kind": "image", "caption": "image 1"}]
    assert shown.headers["content-type"] == "image/png"
    assert shown.headers["x-content-type-options"] == "nosniff"
    uri = next(p["image"] for p in row["messages"][-1]["content"] if p["type"] == "image")
    with Image.open(io.BytesIO(shown.content)) as image:
        pixels = np.asarray(image)
    from pretrain.data.media import MediaConfig, load_image

    assert np.array_equal(pixels, load_image(uri, review.decisions.parent, MediaConfig()))


def test_a_video_is_shown_by_its_frames(review):
    id = review.items[3]["id"]
    with review.client() as client:
        media = client.get("/api/item", params={"id": id}).json()["media"]
        sizes = set()
        for number in range(len(media)):
            answer = client.get("/media", params={"id": id, "number": number})
            with Image.open(io.BytesIO(answer.content)) as image:
                sizes.add(image.size)
    # Six frames at 2 fps; browsers don't play MPEG-4 part 2, so the file itself isn't offered.
    assert [m["caption"] for m in media] == [f"video 1, {k / 2:.1f} s" for k in range(6)]
    assert sizes == {(56, 56)}


def test_decisions_are_versions_and_the_older_ones_stay(review):
    row = review.items[0]
    with review.client() as client:
        assert decide(client, row["id"], 0, "edit", response="new\ntext").json()["version"] == 1
        accepted = decide(client, row["id"], 1, "accept", reviewer="bob").json()
        assert (accepted["version"], accepted["response"]) == (2, "new\ntext")
        item = client.get("/api/item", params={"id": row["id"]}).json()
    assert [entry["action"] for entry in item["history"]] == ["edit", "accept"]
    assert (item["status"], item["response"]) == ("accepted", "new\ntext")
    assert item["original"] == row["response"]
    assert load_decisions(review.decisions)[row["id"]].response == "new\ntext"


def test_the_second_of_two_reviewers_gets_the_first_ones_decision_not_his_own(review):
    id = review.items[0]["id"]
    with review.client() as client:
        assert decide(client, id, 0, "edit", response="hers").status_code == 201
        stale = decide(client, id, 0, "edit", response="his", reviewer="bob")
        assert stale.status_code == 409
        assert stale.json()["current"]["response"] == "hers"
        assert "based on version 0. Nothing was written" in stale.json()["error"]
        assert decide(client, id, 1, "edit", response="his", reviewer="bob").status_code == 201
    history = [json.loads(line) for line in review.decisions.read_text().splitlines()]
    assert [(d["reviewer"], d["response"]) for d in history] == [("ada", "hers"), ("bob", "his")]


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        ({"id": "nothing"}, 404, "no item has the id 'nothing'"),
        ({"id": ["a"]}, 404, "no item has the id"),
        ({"action": "approve"}, 400, "`action` must be one of"),
        ({"action": "edit"}, 400, "`response` must be the edited text"),
        ({"action": "edit", "response": 3}, 400, "`response` must be a string"),
        ({"action": "rank", "ranking": [1, 2]}, 400, "has 2 ranks and item"),
        ({"action": "rank", "ranking": 5}, 400, "`ranking` must be the rank of each"),
        ({"action": "rank", "ranking": ["1", "2"]}, 400, "`ranking` must be the rank of each"),
        ({"base_version": 4}, 400, "base_version must be 0"),
        ({"base_version": "0"}, 400, "`base_version` must be a number"),
        ({"reviewer": " "}, 400, "`reviewer` must be a non-empty string"),
        ({"version": 1}, 400, "a decision is an object with"),
    ],
)
def test_what_is_no_decision_is_refused_with_its_reason(review, change, status, message):
    body = {"id": review.items[0]["id"], "base_version": 0, "action": "drop", "reviewer": "ada"}
    with review.client() as client:
        answer = client.post("/api/decisions", json=body | change)
    assert (answer.status_code, message in answer.json()["error"]) == (status, True), answer.text
    assert review.decisions.read_text() == ""


def test_a_body_that_is_no_json_is_refused(review):
    with review.client() as client:
        answer = client.post("/api/decisions", content=b"{")
    assert (answer.status_code, "not valid JSON" in answer.text) == (400, True)


def test_a_decisions_file_spoilt_while_serving_is_named_and_kept(review):
    review.decisions.write_text('{"id": 3}\n')
    with review.client() as client:
        answer = decide(client, review.items[0]["id"], 0, "drop")
    assert answer.status_code == 400
    assert "decisions.jsonl:1: `action` is missing" in answer.json()["error"]
    assert review.decisions.read_text() == '{"id": 3}\n'


def test_export_and_import_over_http(review):
    ids = [row["id"] for row in review.items]
    with review.client() as client:
        decide(client, ids[0], 0, "edit", response="better")
        decide(client, ids[1], 0, "rank", ranking=[3, 1, 2])
        exported = client.get("/api/export")
        before = review.decisions.read_bytes()
        review.fresh()
        first = client.post("/api/import", content=exported.content).json()
        again = client.post("/api/import", content=exported.content).json()
    assert first == {"added": 2, "known": 0, "refused": []}
    assert again == {"added": 0, "known": 2, "refused": []}
    assert review.decisions.read_bytes() == before
