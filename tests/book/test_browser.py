"""The book in a real browser: what a reader on a desktop, on a phone or with a keyboard meets.

Every page is visited once (`visits`), and each test asks one question of what was found there.
"""

import re
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

SERIOUS = ("serious", "critical")
LEGIBLE = 600  # pixels: narrower, the labels of a wide figure cannot be read
HASH_OR_FILE = re.compile(r"^[0-9a-f]{16,}$|\.(png|jpe?g|svg|gif)$", re.IGNORECASE)


def findings(visits: dict[str, dict], key: str) -> list[str]:
    """Return what was noted under a key, each with its page."""
    return [f"{page}: {found}" for page, noted in visits.items() for found in noted[key]]


def report(found: list[str]) -> str:
    """Say each finding once, on a line of its own."""
    return "\n".join(dict.fromkeys(found))


def test_the_repository_holds_a_whole_book(book):
    """Where no browser is at hand, too."""
    assert {"index.html", "claims.html", "explore.html", "reforms.html"} <= {
        path.name for path in book.iterdir()
    }
    assert len([*(book / "notebooks").glob("*.html")]) == 8


def test_pages_load_without_errors(visits):
    assert visits["index.html"]["requests"]
    errors = findings(visits, "errors")
    assert not errors, report(errors)


def test_nothing_is_loaded_from_elsewhere(visits):
    outside = [
        f"{page}: {address}"
        for page, noted in visits.items()
        for address in noted["requests"]
        if urlsplit(address).hostname != "127.0.0.1" and not address.startswith(("data:", "blob:"))
    ]
    assert not outside, report(outside)


def test_no_link_or_anchor_is_broken(visits, book: Path):
    broken, followed = [], 0
    for page, noted in visits.items():
        for link in noted["links"]:
            address, anchor = urldefrag(link)
            if urlsplit(address).hostname != "127.0.0.1":
                continue
            followed += 1
            target = unquote(urlsplit(address).path).lstrip("/") or "index.html"
            if not (book / target).is_file():
                broken.append(f"{page}: {target} is not there")
            elif anchor and unquote(anchor) not in visits[target]["anchors"]:
                broken.append(f"{page}: {target} has no #{anchor}")
    assert followed > 100
    assert not broken, report(broken)


def test_no_page_scrolls_sideways(visits):
    wide = [
        f"{page} at {width} px is {measured['wide']} px too wide: {measured['out']}"
        for page, noted in visits.items()
        for width, measured in noted["measured"].items()
        if measured["wide"] > 0
    ]
    assert not wide, report(wide)


def test_pictures_say_what_is_seen(visits):
    mute = [
        f"{page}: {source} has the alt text {text!r}"
        for page, noted in visits.items()
        for source, text in noted["pictures"]
        if not text.strip() or HASH_OR_FILE.search(text.strip())
    ]
    assert not mute, report(mute)
    assert sum(len(noted["pictures"]) for noted in visits.values()) > 40


def test_figures_stay_legible_on_a_phone(visits):
    shrunk, drawn = [], 0
    for page, noted in visits.items():
        desktop, phone = (noted["measured"][width]["pictures"] for width in ("1400", "400"))
        for large, small in zip(desktop, phone, strict=True):
            drawn += small["width"] > 0
            if small["width"] < min(large["width"], LEGIBLE):
                shrunk.append(f"{page}: {small['src']} is drawn {small['width']} px wide")
    assert drawn
    assert not shrunk, report(shrunk)


def test_axe_finds_nothing_serious(visits):
    found = [
        f"{page} ({how}): {finding['rule']} at {finding['at'][:3]}: {finding['why']}"
        for page, noted in visits.items()
        for how, findings in noted["axe"].items()
        for finding in findings
        if finding["impact"] in SERIOUS
    ]
    assert not found, report(found)


def test_search_finds_granules(visits):
    assert any("06_grad_cam.html" in link for link in visits["search.html"]["found"])


def test_dark_mode_leaves_figures_alone(visits):
    altered = [
        f"{page}: {picture['src']} has filter {picture['filter']} on {picture['background']}"
        for page, noted in visits.items()
        for picture in noted["dark"]
        if picture["filter"] != "none" or picture["background"] != "rgb(255, 255, 255)"
    ]
    assert any(noted["dark"] for noted in visits.values())
    assert not altered, report(altered)
