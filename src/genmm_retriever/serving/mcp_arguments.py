"""What agents may give to the MCP server's tools, and what they are told when it is wrong."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.tools.base import Tool
from mcp_types import ToolAnnotations
from pydantic import ConfigDict, ValidationError

from ..schema import is_unicode
from .mcp_results import one_line

if TYPE_CHECKING:
    from mcp.server.mcpserver import Context

_SHOWN = 80
_MENDS = {
    "filters": 'give names with a value or a list of values, such as {"year": [2012, 2013]}',
    "adapt": "give a list of names, such as ['rewrite']",
    "id": "give the `id` of a hit of search_images",
}


def sayable(text: str) -> str:
    """Words as the HTTP service takes them.

    Raises:
        ValueError: If they are blank, or hold what is no text.
    """
    if not text.strip():
        raise ValueError("is blank")
    if "\x00" in text or not is_unicode(text):
        raise ValueError("must be valid Unicode without NUL")
    return text


class StrictTool(Tool):
    """A tool that refuses what it does not know, and says what is wrong in a line for each."""

    @classmethod
    def of(cls, function: Callable[..., Any], annotations: ToolAnnotations) -> StrictTool:
        """A tool of a function, whose arguments it has."""
        tool = cls.from_function(function, annotations=annotations)
        assert isinstance(tool, cls)
        known = tool.fn_metadata.arg_model
        # `filter` for `filters` would find what was not asked for, and nobody would know.
        forbid = {"model_config": ConfigDict(extra="forbid")}
        strict: Any = type(known.__name__, (known,), forbid)
        tool.fn_metadata.arg_model = strict
        tool.parameters = strict.model_json_schema(by_alias=True)
        return tool

    async def run(
        self, arguments: dict[str, Any], context: Context[Any, Any], convert_result: bool = False
    ) -> Any:
        """As every tool's; see `Tool.run`.

        Raises:
            ToolError: If the arguments are wrong, or it fails.
        """
        try:
            self.fn_metadata.validate_arguments(arguments)
        except ValidationError as error:
            raise ToolError("\n".join(self._told(error))) from error
        return await super().run(arguments, context, convert_result=convert_result)

    def _told(self, error: ValidationError) -> list[str]:
        """A line for each argument that is wrong, however many errors pydantic finds in it."""
        found: dict[str, str] = {}
        for one in error.errors(include_url=False):
            name = str(one["loc"][0])
            found.setdefault(name, self._line(name, one["type"], one["msg"], one["input"]))
        return list(found.values())

    def _line(self, name: str, kind: str, said: str, given: object) -> str:
        known = self.parameters["properties"]
        if kind == "extra_forbidden":
            near = get_close_matches(name, known, n=1)
            mend = f"did you mean `{near[0]}`?" if near else f"there are {', '.join(known)}"
            return f"there is no argument `{one_line(name, _SHOWN)}` ({mend})"
        mend = _MENDS.get(name) or _mend(known[name])
        if kind == "missing":
            return f"`{name}` is missing ({mend})"
        if kind == "value_error":
            return f"`{name}` {said.removeprefix('Value error, ')} ({mend})"
        if isinstance(given, str) and len(given) > _SHOWN:
            return f"`{name}` is a string of {len(given):,} characters ({mend})"
        return f"`{name}` is wrong at {one_line(repr(given), _SHOWN)} ({mend})"


def _mend(schema: dict[str, Any]) -> str:
    if schema["type"] == "integer":
        return f"give a whole number from {schema['minimum']} to {schema['maximum']}"
    return f"give {schema['minLength']} to {schema['maxLength']:,} characters of words"
