"""``python -m microforge.bundle`` prints the JSON Schema of a bundle's manifest."""

from microforge.bundle.manifest import schema_text

print(schema_text(), end="")
