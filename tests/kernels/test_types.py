"""mypy lets functions of kernels/ go without types, for Triton's sake: only those under @triton.jit do."""

import ast

from sglang_hisa.launch.pages.tables import ROOT


def untyped(source: str) -> list[str]:
    """Functions that are no Triton kernels and lack the type of an argument or of the result."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.FunctionDef):
            continue
        if any("triton.jit" in ast.unparse(decorator) for decorator in node.decorator_list):
            continue
        given = node.args
        every = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
        own = [one for one in every if one is not None and one.arg != "self"]
        if node.returns is None or any(one.annotation is None for one in own):
            found.append(node.name)
    return found


def test_an_untyped_launcher_is_found() -> None:
    assert untyped("def f(x): pass") == ["f"]
    assert untyped("def f(x: int, *, y=1) -> None: pass") == ["f"]
    assert untyped("@triton.jit(do_not_specialize=[])\ndef f(x): pass") == []


def test_launchers_and_references_have_types() -> None:
    files = sorted((ROOT / "kernels").glob("*.py"))
    assert len(files) > 8
    assert {path.name: names for path in files if (names := untyped(path.read_text()))} == {}
