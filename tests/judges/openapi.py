"""Judges an OpenAPI document and answers that were given under it.

argv[1]: where openapi-spec-validator lies. stdin: {"document": {...}, "answers": [{"method", "path", "status", "body"}]},
with the path as the document writes it. stdout: one line per problem.
"""
import json
import sys

sys.path.insert(0, sys.argv[1])
from jsonschema import Draft202012Validator  # noqa: E402
from openapi_spec_validator import OpenAPIV31SpecValidator  # noqa: E402

asked = json.load(sys.stdin)
document = asked["document"]
for error in OpenAPIV31SpecValidator(document).iter_errors():
    print("document:", error.message.replace("\n", " "))


def followed(node):
    while "$ref" in node:
        place, node = node["$ref"], document
        for piece in place.lstrip("#/").split("/"):
            node = node[piece]
    return node


for answer in asked["answers"]:
    name = f"{answer['method']} {answer['path']} {answer['status']}"
    response = document["paths"][answer["path"]][answer["method"]]["responses"].get(str(answer["status"]))
    if response is None:
        print(f"{name}: not described")
        continue
    schema = followed(response)["content"]["application/json"]["schema"]
    whole = {**schema, "components": document["components"]}
    for error in Draft202012Validator(whole).iter_errors(answer["body"]):
        print(f"{name}: {error.json_path}: {error.message[:300]}")
    known = set()

    def names(part):
        part = followed(part)
        known.update(part.get("properties", {}))
        for piece in part.get("allOf", []):
            names(piece)

    names(schema)
    for field in answer["body"]:
        if known and field not in known:
            print(f"{name}: the field {field} is not described")
