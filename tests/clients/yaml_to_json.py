"""Prints YAML files as one JSON array, with merge keys and anchors resolved."""

import json
import sys

import yaml

print(json.dumps([yaml.safe_load(open(path, encoding="utf-8")) for path in sys.argv[1:]]))
