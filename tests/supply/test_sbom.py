"""The bills of materials: `make sbom`."""

from __future__ import annotations

import json

import pytest

from supply.pins import NOT_SHIPPED, SERVER, read_pins, torch_file
from supply.sbom import bill


@pytest.mark.parametrize("image", ["cpu", "cuda"])
def test_a_bill_has_what_its_image_installs(image: str) -> None:
    """Every package, with version, the hashes that pip takes and a licence; and the server needs
    them. (That it is valid CycloneDX is checked where it is written.)"""
    written = json.loads(bill(image))
    pins = [
        p for p in read_pins(SERVER) + read_pins(torch_file(image)) if p.name not in NOT_SHIPPED
    ]
    components = {part["name"]: part for part in written["components"]}
    assert components.keys() == {pin.name for pin in pins}
    for pin in pins:
        part = components[pin.name]
        (files,) = part["externalReferences"]
        assert part["purl"].startswith(f"pkg:pypi/{pin.name}@")
        assert part["version"] == pin.version
        assert {each["content"] for each in files["hashes"]} == set(pin.hashes)
        assert part["licenses"]
    server = written["metadata"]["component"]
    (needed,) = (d for d in written["dependencies"] if d["ref"] == server["bom-ref"])
    assert set(needed["dependsOn"]) == {part["bom-ref"] for part in components.values()}


def test_the_bills_differ_by_torch() -> None:
    """NVIDIA's libraries are in the image for GPUs only."""
    names = [{part["name"] for part in json.loads(bill(i))["components"]} for i in ("cpu", "cuda")]
    assert "triton" not in names[0]
    assert "triton" in names[1] > names[0]
