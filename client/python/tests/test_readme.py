"""The README's examples do what they say."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
from server import Server

import ternion

README = Path(__file__).parents[1] / "README.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)

# The demo's answers are sampled, but it always has the same subject.
PRINTED = [
    "ternion",
    "ternion",
    r"FINISH_REASON_LENGTH 64\n$",
    r"[012] has ended, 0 have not: [^\n]",
    "^$",
]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.splitlines()[0])
async def test_example(
    example: str, server: Server, client: ternion.Client, capsys: pytest.CaptureFixture[str]
) -> None:
    source = example.replace("http://127.0.0.1:50051", server.endpoint)
    code = compile(source, str(README), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    names: dict[str, Any] = {"ternion": ternion, "client": client}
    running = eval(code, names)
    if inspect.iscoroutine(running):
        await running
    assert re.search(PRINTED[EXAMPLES.index(example)], capsys.readouterr().out)


def test_there_are_examples() -> None:
    assert len(EXAMPLES) == len(PRINTED)
