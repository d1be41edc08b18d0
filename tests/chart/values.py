"""Holds the chart's values against each other: defaults, schema, README and the server's settings.

    ternion-server config | values.py helm/ternion

Every value has a default in values.yaml and a description in values.schema.json, which admits nothing else; README.md
has the table of both; what stands under `config` is what the server can be told and the chart does not decide. Metrics
that the templates name are those of service/server/METRICS.md.
"""

import json
import pathlib
import re
import sys

import yaml

# What the chart sets from other values.
DECIDED = {
    "listen", "model", "plugin_dirs", "cache_dir", "drain_timeout", "drain_delay", "operations.listen", "tenants", "anonymous",
    "tls.certificate", "tls.key", "tls.client_ca", "tls.client_auth",
}

# What Kubernetes defines, and checks by itself.
KUBERNETES = {
    "resources.requests", "resources.limits", "podSecurityContext", "securityContext", "affinity", "global",
}

BEGIN, END = "<!-- values -->\n", "<!-- end of values -->"


def leaves(schema, path=()):
    """Values by path, with their schemas; a mapping whose keys are not listed is one value."""
    for name, part in schema["properties"].items():
        here = (*path, name)
        if "properties" in part:
            yield from leaves(part, here)
        else:
            yield here, part


def schema_mistakes(schema, path=()):
    for name, part in schema["properties"].items():
        here = (*path, name)
        dotted = ".".join(here)
        if not part.get("description"):
            yield f"values.schema.json: {dotted} has no description"
        free = part.get("type") == "object" and "additionalProperties" not in part
        if free and dotted not in KUBERNETES:
            yield f"values.schema.json: {dotted} admits anything"
        if "properties" in part:
            yield from schema_mistakes(part, here)


def default(values, path):
    for name in path:
        if not isinstance(values, dict) or name not in values:
            return None
        values = values[name]
    return values


def table(schema, values):
    yield "| value | default | |"
    yield "| --- | --- | --- |"
    for path, part in leaves(schema):
        if path[0] == "global":
            continue
        value = default(values, path)
        # A list or mapping of one's own is read better in values.yaml.
        shown = "unset" if value is None else json.dumps(value, ensure_ascii=False)
        shown = "see values.yaml" if len(shown) > 40 else f"`{shown}`" if value is not None else shown
        yield f"| `{'.'.join(path)}` | {shown} | {part['description']} |"


def server_settings(text):
    """Keys that `ternion-server config` prints, unset ones included."""
    prefix = ""
    for line in text.splitlines():
        if section := re.fullmatch(r"\[(.+)\]", line):
            prefix = f"{section[1]}."
        elif key := re.match(r"(?:# )?(\w+) (?:=|is unset)", line):
            yield prefix + key[1]


def unknown_metrics(chart):
    metrics = chart.parents[1] / "service/server/METRICS.md"
    known = set(re.findall(r"ternion_\w+", metrics.read_text())) if metrics.exists() else set()
    for template in sorted((chart / "templates").iterdir()):
        for name in sorted(set(re.findall(r"\bternion_\w+", template.read_text()))):
            if re.sub("_(bucket|sum|count)$", "", name) not in known:
                yield f"{template.name}: {name} is not in {metrics.name}"


def mistakes(chart, settings):
    schema = json.loads((chart / "values.schema.json").read_text())
    values = yaml.safe_load((chart / "values.yaml").read_text())
    yield from schema_mistakes(schema)

    top = set(schema["properties"]) - {"global"}
    for name in sorted(top ^ set(values)):
        yield f"{name} is in only one of values.yaml and values.schema.json"

    readme = (chart / "README.md").read_text()
    expected = "\n".join(table(schema, values)) + "\n"
    found = readme.partition(BEGIN)[2].partition(END)[0]
    if found != expected:
        yield f"README.md: between {BEGIN.strip()} and {END} there should be\n{expected}"

    yield from unknown_metrics(chart)

    known = set(server_settings(settings))
    offered = {".".join(path) for path, _ in leaves(schema["properties"]["config"])}
    for key in sorted(known - offered - DECIDED):
        yield f"config.{key} is a setting of the server, but not in values.schema.json"
    for key in sorted((offered | DECIDED) - known):
        yield f"config.{key} is no setting of the server"


def main():
    found = list(mistakes(pathlib.Path(sys.argv[1]).resolve(), sys.stdin.read()))
    print("\n".join(found), end="\n" if found else "")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
