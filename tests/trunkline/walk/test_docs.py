"""What the pages print of `walk` and `sink check` is what they print; run this file with `python` to renew it."""

import re
from pathlib import Path
from typing import Any

from producers.storefront import Storefront
from tests.trunkline.unit.test_walk import Anybody
from trunkline import Bus, Publish
from trunkline.flow.conditions import condition_faults
from trunkline.flow.walk import walk
from trunkline.flow.where import Where

OUTPUT = re.compile(r"<!-- output: (?P<path>\S+) -->\n```text\n(?P<body>.*?)```\n", re.DOTALL)
PAGES = (Path("docs/processing.md"), Path("docs/targets.md"))


def printed(text: str) -> str:
    """Give a page with every output as it is now."""

    def fill(match: re.Match[str]) -> str:
        path = match["path"]
        return f"<!-- output: {path} -->\n```text\n{Path(path).read_text()}```\n"

    return OUTPUT.sub(fill, text)


def test_the_pages_print_what_the_commands_print() -> None:
    for page in PAGES:
        text = page.read_text()
        assert OUTPUT.search(text)
        assert printed(text) == text


def test_the_example_of_routes_does_what_the_page_says() -> None:
    text = Path("docs/processing.md").read_text()
    [body] = re.findall(r"<!-- example: where -->\n```python\n(.*?)```\n", text, re.DOTALL)
    defined: dict[str, Any] = {}
    exec(body, defined)  # noqa: S102 - the page is ours
    till = Storefront(Anybody())
    for name, topics in (("every", {"shop.bread", "shop.other-sales"}), ("first", {"shop.bread"})):
        flow = defined[name]
        for route in flow.to.values():
            if isinstance(route, Where):
                assert list(condition_faults(route, defined["SaleRecordedV1"])) == []
        journey = walk(Bus("shop", [Publish(till, to=defined["sales"]), flow]), till, "milk_and_coupon.json")
        assert set(journey.events) - {"shop.sales"} == topics


if __name__ == "__main__":
    for each in PAGES:
        each.write_text(printed(each.read_text()))
