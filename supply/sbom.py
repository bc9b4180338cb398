"""Writes the bill of materials of each image, as CycloneDX: its Python packages, with versions,
hashes and licences. What Debian's packages in it are, the base image's own bill says.

python -m supply.sbom [FOLDER]     into build/sbom unless a folder is given
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

from cyclonedx.contrib.hash.factories import HashTypeFactory
from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import ExternalReference, ExternalReferenceType, XsUri
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

from .licences import PAGE, read_table
from .pins import NOT_SHIPPED, ROOT, SERVER, Pin, read_pins, torch_file


def main() -> None:
    folder = Path(sys.argv[1]) if sys.argv[1:] else ROOT / "build/sbom"
    folder.mkdir(parents=True, exist_ok=True)
    for image in ("cpu", "cuda"):
        path = folder / f"bilstm-server-{image}.cdx.json"
        path.write_text(bill(image), encoding="utf-8")
        print(path)


def bill(image: str) -> str:
    """The bill of the image "cpu" or "cuda", as JSON, which is valid by CycloneDX 1.6."""
    licences = {row.pin.name: row.licence for row in read_table(PAGE.read_text("utf-8"))}
    pins = [
        p for p in read_pins(SERVER) + read_pins(torch_file(image)) if p.name not in NOT_SHIPPED
    ]
    packages = [_package(pin, licences[pin.name]) for pin in pins]
    bom = Bom(components=packages)
    bom.metadata.component = _server()
    bom.register_dependency(bom.metadata.component, packages)
    text: str = JsonV1Dot6(bom).output_as_string(indent=2)
    if error := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        raise SystemExit(f"the bill of the image {image} is not valid: {error}")
    return text


def _server() -> Component:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return Component(
        name=project["name"],
        version=project["version"],
        type=ComponentType.APPLICATION,
        description=project["description"],
        licenses=[LicenseFactory().make_from_string(project["license"])],
    )


def _package(pin: Pin, licence: str) -> Component:
    url = PackageURL("pypi", name=pin.name, version=pin.version)
    files = ExternalReference(
        type=ExternalReferenceType.DISTRIBUTION,
        url=XsUri(f"https://pypi.org/project/{pin.name}/"),
        hashes=[HashTypeFactory().from_composite_str(f"sha256:{digest}") for digest in pin.hashes],
    )
    return Component(
        name=pin.name,
        version=pin.version,
        purl=url,
        bom_ref=str(url),
        licenses=[LicenseFactory().make_from_string(licence)],
        external_references=[files],
    )


if __name__ == "__main__":
    main()
