"""YAML as a person means it."""

import re
from typing import ClassVar

import yaml

from sdd_utils.errors import ConfigError


class PlainYaml(yaml.SafeLoader):
    """YAML without its surprises: of two equal keys the last wins, 010 is 8, 1:30 is 90, and yes is true."""

    MEANT: ClassVar = {"int": r"[-+]?(0|[1-9]\d{,17})", "float": r"[^_:]+", "bool": "(?i:true|false)"}
    path: tuple[str, ...] = ()  # the fields that lead to where the reader is

    def compose_node(self, parent: yaml.Node | None, index: object) -> yaml.Node:
        """A node as ever. Raises ConfigError, which names the field, where a person would read another value."""
        before, self.path = self.path, (*self.path, str(getattr(index, "value", "")))
        node, field = super().compose_node(parent, index), ".".join(filter(None, self.path))
        self.path = before
        if (meant := self.MEANT.get(node.tag.rpartition(":")[2])) and not re.fullmatch(meant, node.value):
            plain = "true, false, a decimal number of at most 18 digits, or in quotes"
            raise ConfigError(f"{field}: should be {plain} (got {node.value:.40})")
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        """A mapping as ever. Raises YAMLError where a key is there twice."""
        keys = [key.value for key, _ in node.value]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise yaml.YAMLError(f"{twice[0]} is there twice, in line {node.start_mark.line + 1} and after")
        return super().construct_mapping(node, deep)


# Without it 1e-3, which has no point, and 1.5e3, whose exponent has no sign, are text
_EXPONENT = re.compile(r"[-+]?((0|[1-9]\d*)(\.\d*)?|\.\d+)[eE][-+]?\d+$", re.ASCII)
PlainYaml.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, [*"-+.0123456789"])
