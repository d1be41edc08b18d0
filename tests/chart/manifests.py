"""Checks rendered manifests against the schemas of Kubernetes, and takes out the files that are in them.

    manifests.py RENDERED.yaml --version 1.33 --version 1.37 --schemas DIR --into DIR

An object of a kind without a schema is a failure, and so is a key that stands twice in one mapping: Kubernetes' own
tools pass over both. So is a pod that does not change with its configuration. Kinds that are not of Kubernetes itself
have a schema in --schemas, `KIND.json`. What ConfigMaps and Secrets hold is written to --into as `OBJECT/KEY`, and the
groups of a PrometheusRule as `alerts.yaml`.
"""

import argparse
import base64
import hashlib
import json
import pathlib
import sys

import jsonschema
import kubernetes_validate
import yaml


class Loader(yaml.SafeLoader):
    """Refuses mappings with a key that stands twice."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            raise yaml.YAMLError(f"keys stand twice: {', '.join(sorted(map(str, twice)))} {node.start_mark}")
        return super().construct_mapping(node, deep)


def name(manifest):
    return f"{manifest['kind']}/{manifest['metadata']['name']}"


def mistakes(manifest, versions, schemas):
    own = schemas / f"{manifest['kind']}.json"
    if own.exists():
        validator = jsonschema.Draft202012Validator(json.loads(own.read_text()))
        for error in validator.iter_errors(manifest):
            yield f"{error.json_path}: {error.message}"
        return
    for version in versions:
        try:
            kubernetes_validate.validate(manifest, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            yield f"Kubernetes {version}: {error.json_path}: {error.message}"
        except kubernetes_validate.SchemaNotFoundError as error:
            yield error.message


def stale_pods(manifests):
    """The annotation by which another configuration makes another pod is the configuration's digest."""
    digests = {
        hashlib.sha256(text.rstrip("\n").encode()).hexdigest()
        for manifest in manifests
        if manifest["kind"] == "ConfigMap"
        for text in manifest["data"].values()
    }
    for manifest in manifests:
        if manifest["kind"] == "Deployment":
            annotations = manifest["spec"]["template"]["metadata"]["annotations"]
            if annotations["checksum/config"] not in digests:
                yield f"{name(manifest)}: checksum/config is of no ConfigMap"


def held_files(manifest):
    object_name = manifest["metadata"]["name"]
    if manifest["kind"] in ("ConfigMap", "Secret"):
        texts = {**manifest.get("data", {}), **manifest.get("stringData", {})}
        if manifest["kind"] == "Secret":
            encoded = manifest.get("data", {})
            texts.update({key: base64.b64decode(text).decode() for key, text in encoded.items()})
        for key, text in texts.items():
            yield f"{object_name}/{key}", text
    if manifest["kind"] == "PrometheusRule":
        yield "alerts.yaml", yaml.safe_dump(manifest["spec"], sort_keys=False)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("rendered", type=pathlib.Path)
    parser.add_argument("--version", action="append", required=True, dest="versions")
    parser.add_argument("--schemas", type=pathlib.Path, required=True)
    parser.add_argument("--into", type=pathlib.Path, required=True)
    arguments = parser.parse_args()

    documents = yaml.load_all(arguments.rendered.read_text(), Loader=Loader)
    manifests = [document for document in documents if document]
    failed = not manifests
    for mistake in stale_pods(manifests):
        print(f"{arguments.rendered.name}: {mistake}")
        failed = True
    for manifest in manifests:
        for mistake in mistakes(manifest, arguments.versions, arguments.schemas):
            print(f"{arguments.rendered.name}: {name(manifest)}: {mistake}")
            failed = True
        for path, text in held_files(manifest):
            path = arguments.into / path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    return failed


if __name__ == "__main__":
    sys.exit(main())
