"""`/docs`: the interface as a page, written from the OpenAPI schema; nothing is loaded for it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from html import escape
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, Response

router = APIRouter(include_in_schema=False)
_STYLE = """
:root { color-scheme: light dark; font: 1rem/1.5 system-ui, sans-serif }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
pre { overflow-x: auto; padding: .75rem; border: 1px solid; border-radius: .5rem }
th, td { text-align: left; padding: .25rem 1rem .25rem 0; vertical-align: top }
"""


@router.get("/docs")
async def docs(request: Request) -> Response:
    """The page."""
    return HTMLResponse(page(request.app.openapi()))


@router.get("/docs/style.css")
async def style() -> Response:
    """How it looks."""
    return Response(_STYLE, media_type="text/css")


def page(schema: dict[str, Any]) -> str:
    """Every operation with its fields and answers, as HTML."""
    info = schema["info"]
    operations = [
        "".join(_operation(schema, method, path, operation))
        for path, methods in schema["paths"].items()
        for method, operation in methods.items()
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(info['title'])}</title>"
        '<link rel="stylesheet" href="/docs/style.css"></head><body>'
        f"<h1>{escape(info['title'])} {escape(info['version'])}</h1>"
        f"<p>{escape(info.get('description', ''))}</p>"
        '<p>For machines: <a href="/openapi.json">openapi.json</a></p>'
        + "".join(operations)
        + "</body></html>"
    )


def _operation(
    schema: dict[str, Any], method: str, path: str, operation: dict[str, Any]
) -> Iterator[str]:
    yield f"<h2><code>{method.upper()} {escape(path)}</code></h2>"
    yield f"<p>{escape(operation.get('description', ''))}</p>"
    fields = [(one["name"], one) for one in operation.get("parameters", ())]
    for kind, body in operation.get("requestBody", {}).get("content", {}).items():
        yield f"<p>Body: <code>{escape(kind)}</code></p>"
        fields += _resolved(schema, body["schema"]).get("properties", {}).items()
    if fields:
        rows = "".join(
            f"<tr><td><code>{escape(name)}</code></td><td>{escape(_told(field))}</td></tr>"
            for name, field in fields
        )
        yield f"<table><tr><th>Field</th><th>What it is</th></tr>{rows}</table>"
    for status, answer in operation["responses"].items():
        if status.startswith("2"):
            for content in answer.get("content", {}).values():
                yield from _example(schema, status, content.get("schema", {}))
    refused = [status for status in operation["responses"] if status[0] in "45"]
    if refused:
        yield f'<p>Refusals ({", ".join(refused)}): <code>{{"error", "hint"}}</code></p>'


def _example(schema: dict[str, Any], status: str, answer: dict[str, Any]) -> Iterator[str]:
    shape = _resolved(schema, answer)
    if shape.get("properties"):
        text = json.dumps(shape, indent=2)
        yield (
            f"<details><summary>{escape(status)}: {escape(shape.get('title', 'answer'))}</summary>"
            f"<pre>{escape(text)}</pre></details>"
        )


def _resolved(schema: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in part:
        name = part["$ref"].rpartition("/")[2]
        part = schema["components"]["schemas"][name]
    return part


def _told(field: dict[str, Any]) -> str:
    return str(field.get("description") or field.get("schema", field).get("type", ""))
