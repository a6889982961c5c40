"""What every page that Tandem writes is rendered with."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

_TEMPLATES = Path(__file__).parent / "templates"


def page_environment() -> Environment:
    """What all pages are rendered with."""
    return Environment(
        loader=FileSystemLoader(_TEMPLATES),
        # Titles, ids and categories come from outside.
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
