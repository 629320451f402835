"""Reads the tables of a Markdown text."""


def tables_of(text: str) -> list[list[dict[str, str]]]:
    """Each table as its rows, these as cells by the head of their column."""
    found, head = [], None
    for line in text.splitlines():
        if not line.startswith("| "):
            head = None
            continue
        cells = [cell.strip() for cell in line.strip().removeprefix("|").removesuffix("|").split(" | ")]
        if head is None:
            head = cells
            found.append([])
        elif set(cells) != {"---"}:
            assert len(cells) == len(head)
            found[-1].append(dict(zip(head, cells)))
    return found
