"""Compile the kernels for an H100, which takes no GPU. A program of its own: tests run in the interpreter.

Prints for each form of a kernel, as JSON: registers a thread, bytes of stack (spills) and of shared memory,
exchanges between the threads of a warp, and the order of the memory accesses, waits and launches of
dependents in its PTX.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import triton
from triton.backends import nvidia
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from sglang_hisa.kernels import coarse, gather, pick, plan, positions, rank, refine, route, seal
from sglang_hisa.kernels.tuning import DEFAULT

POINTERS = {
    **dict.fromkeys(("q_ptr", "key_ptr", "raw_key_ptr"), "*fp8e4nv"),
    **dict.fromkeys(("byte_ptr", "out_key_ptr", "out_byte_ptr"), "*u8"),
    **dict.fromkeys(
        ("table_ptr", "table_row_ptr", "length_ptr", "pick_ptr", "page_ptr", "position_ptr"), "*i32"
    ),
    **dict.fromkeys(("physical_ptr", "logical_ptr", "blocks_ptr", "share_ptr", "candidate_ptr"), "*i32"),
    **dict.fromkeys(("id_ptr", "offset_ptr", "slot_ptr", "sum_ptr"), "*i64"),
}
ALIGNED = {"q_stride", "weight_stride", "row_bytes", "row_floats", "heads", "out_stride", "score_stride"}
"""Integers that the launchers give as multiples of 16, beside every pointer."""
PAGES = {"PAGE": 64, "DIM": 128, "KEY_BYTES": 8192}


def coarse_form(**given):
    return {
        **PAGES,
        "HEADS": 64,
        "BLOCKS": DEFAULT.coarse_pages // given["PER_BLOCK"],
        **given,
    }


def pick_form(blocks, **given):
    branches = {"FEW": pick.FEW, "BRANCHES": pick.branches(blocks), "MANY": blocks}
    return {"PAGE": 64, **branches, "WIDTH": 256, "LOGICAL": False, **given}


def rank_form(**given):
    sizes = {"PAGE": 64, "TILE": DEFAULT.rank_tile, "CHUNK": DEFAULT.rank_chunk, "WIDTH": 256}
    return {**sizes, "LOGICAL": False, "OVERLAP": True, **given}


def refine_form(**given):
    launched = {"STAGES": DEFAULT.refine_stages, "OVERLAP": False}
    return {**PAGES, "HEADS": 64, **launched, **given}


DECODE = {"MAPPED": False, "OVERLAP": True}
PREFILL = {"MAPPED": True, "OVERLAP": False}
FORMS = {
    "coarse, decode": (
        coarse._coarse_kernel,
        DEFAULT.coarse_warps,
        coarse_form(PER_BLOCK=1, TILES=1, SEAL=True, **DECODE),
    ),
    "coarse, decode, blocks of 128": (
        *(coarse._coarse_kernel, DEFAULT.coarse_warps),
        coarse_form(PER_BLOCK=2, TILES=1, SEAL=True, **DECODE),
    ),
    "coarse, decode, many rows": (
        *(coarse._coarse_kernel, DEFAULT.coarse_warps),
        coarse_form(PER_BLOCK=1, TILES=4, SEAL=True, **DECODE),
    ),
    "coarse, verify": (
        coarse._coarse_kernel,
        DEFAULT.coarse_warps,
        coarse_form(PER_BLOCK=1, TILES=1, SEAL=False, **DECODE),
    ),
    "coarse, prefill": (
        coarse._coarse_kernel,
        DEFAULT.coarse_warps,
        coarse_form(PER_BLOCK=4, TILES=8, SEAL=False, **PREFILL),
    ),
    "pick, decode": (pick._pick_kernel, 8, pick_form(4096, PER_BLOCK=1, GROUP=1, EARLY=True, **DECODE)),
    "pick, decode, blocks of 128": (
        *(pick._pick_kernel, 8),
        pick_form(2048, PER_BLOCK=2, GROUP=1, EARLY=True, **DECODE),
    ),
    "pick, verify": (pick._pick_kernel, 8, pick_form(2048, PER_BLOCK=1, GROUP=1, EARLY=False, **DECODE)),
    "pick, prefill": (pick._pick_kernel, 4, pick_form(2048, PER_BLOCK=1, GROUP=1, EARLY=False, **PREFILL)),
    "pick, pairs": (pick._pick_kernel, 4, pick_form(1024, PER_BLOCK=2, GROUP=2, EARLY=False, **PREFILL)),
    "pick, prefill, groups of 8": (
        pick._pick_kernel,
        4,
        pick_form(2048, PER_BLOCK=1, GROUP=8, EARLY=False, **PREFILL),
    ),
    "rank, decode": (*(rank._rank_kernel, DEFAULT.rank_warps), rank_form(PER_BLOCK=1, EARLY=True)),
    "rank, decode, blocks of 128": (
        *(rank._rank_kernel, DEFAULT.rank_warps),
        rank_form(PER_BLOCK=2, EARLY=True),
    ),
    "rank, verify": (*(rank._rank_kernel, DEFAULT.rank_warps), rank_form(PER_BLOCK=1, EARLY=False)),
    "refine, decode": (
        *(refine._refine_kernel, DEFAULT.refine_warps),
        refine_form(GROUP=1, OVERLAP=True),
    ),
    "refine, deep": (*(refine._refine_kernel, DEFAULT.refine_warps), refine_form(GROUP=1, STAGES=5)),
    "refine": (*(refine._refine_kernel, DEFAULT.refine_warps), refine_form(GROUP=1)),
    "refine, pairs": (*(refine._refine_kernel, DEFAULT.refine_warps), refine_form(GROUP=2)),
    **{
        f"refine, {group} rows of {heads} heads": (
            *(refine._refine_kernel, warps),
            refine_form(GROUP=group, HEADS=heads),
        )
        for group, heads, warps in ((4, 32, 4), (8, 16, 4), (16, 8, 4), (8, 32, 8))
    },
    "refine, 8 rows of 16 heads, dependent": (
        *(refine._refine_kernel, DEFAULT.refine_warps),
        refine_form(GROUP=8, HEADS=16, STAGES=DEFAULT.refine_stages_shared, OVERLAP=True),
    ),
    "route": (route._route_kernel, 1, {"KEPT": 16, "HEADS": 64, "DIM": 128}),
    "seal": (seal._seal_tokens_kernel, 4, {**PAGES, "LAYERS": False}),
    "seal, all layers": (seal._seal_tokens_kernel, 4, {**PAGES, "LAYERS": True}),
    "seal, pages": (seal._seal_kernel, 4, PAGES),
    "seal, rows": (seal._seal_rows_kernel, 4, PAGES),
    "plan": (plan._plan_kernel, 4, {"BLOCK": 64, "ROWS": plan._ROWS}),
    "count": (plan._count_kernel, 4, {"ROWS": plan._ROWS}),
    "gather": (gather._gather_kernel, 1, {"DIM": 128, "PER_BLOCK": 2}),
    "positions": (positions._map_kernel, 4, {"PAGE": 64, "COUNT": 2048, "OFFSETS": True}),
}


def compiled(kernel, warps, constants):
    """The compiled form, called as the launchers call it."""
    types = {}
    for name in kernel.arg_names:
        kind = POINTERS.get(name, "*fp32" if name.endswith("_ptr") else "i32")
        types[name] = "constexpr" if name in constants else kind
    attrs = {
        (i,): [["tt.divisibility", 16]]
        for i, name in enumerate(kernel.arg_names)
        if types[name].startswith("*") or name in ALIGNED
    }
    source = ASTSource(fn=kernel, signature=types, constexprs=constants, attrs=attrs)
    options = {"num_warps": warps, **({"launch_pdl": True} if constants.get("OVERLAP") else {})}
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)


ACCESS = re.compile(r"(ld|st)\.global|cp\.async\.c[ag]|griddepcontrol\.(wait|launch)")
ARGUMENT = re.compile(r"ld\.param\S*\s+(%rd\d+), \[\w+_param_(\d+)\]")


def accesses(ptx, pointers):
    """Accesses, waits and launches in the order of ``ptx``: "ld q_ptr", "wait", "st out_ptr".

    ``pointers``: names of the arguments by their place. An address belongs to the one it was computed from.
    """
    owner, found = {}, []
    for line in ptx.splitlines() * 2:  # twice, for a block that stands before one it comes after
        registers = re.findall(r"%rd\d+", line)
        if argument := ARGUMENT.search(line):
            owner[argument[1]] = pointers.get(int(argument[2]))
        elif registers and not ACCESS.search(line):
            owner[registers[0]] = next(filter(None, map(owner.get, registers[1:])), None)
    for line in filter(ACCESS.search, ptx.splitlines()):
        kind = next(filter(None, ACCESS.search(line).groups()), "ld")
        at = re.search(r"\[ *(%rd\d+)", line)  # shared addresses have 32 bits
        found.append(" ".join(filter(None, (kind, at and owner.get(at[1])))))
    return found


def facts(form, kernel, constants):
    """What is printed of a compiled form."""
    tool = Path(nvidia.__file__).parent / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(form.asm["cubin"])
        file.flush()
        usage = subprocess.run(
            [tool, "-res-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    registers, stack = (int(re.search(rf"{name}:(\d+)", usage)[1]) for name in ("REG", "STACK"))
    shuffles = len(re.findall(r"shfl\.sync\.bfly", form.asm["ptx"]))
    given = [name for name in kernel.arg_names if name not in constants]
    order = accesses(form.asm["ptx"], {i: name for i, name in enumerate(given) if name.endswith("_ptr")})
    sizes = {"registers": registers, "stack": stack, "shared": form.metadata.shared, "shuffles": shuffles}
    return {**sizes, "order": order}


if __name__ == "__main__":
    for name in sys.argv[1:] or FORMS:
        kernel, warps, constants = FORMS[name]
        found = facts(compiled(kernel, warps, constants), kernel, constants)
        print(json.dumps({"name": name, **found}), flush=True)
