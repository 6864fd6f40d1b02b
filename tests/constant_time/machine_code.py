"""Finds branches and addresses that depend on data, in the x86-64 machine code of kernels.

``python -m tests.constant_time.machine_code`` compiles the kernels that touch secrets, in this process, and prints
what it finds in each, as JSON. A word that is loaded from an array is data, and so is all that is computed from
data. The stack holds lengths and addresses, except where data was stored. A finding is a conditional jump whose
flags depend on data, an address that does, or a division of whole numbers, which takes a time that depends on
them. A function that a kernel calls is not entered: these are other kernels of the list, the C library's
``rint`` and ``memset``, and Numba's functions that count references.
"""

import importlib
import json
import re
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

from tests.constant_time.lists import LEAKY
from tests.constant_time.memory import CONTROL, cases

REGISTER = re.compile(r"%(\w+)")
WIDE = ("ax", "bx", "cx", "dx", "si", "di", "bp", "sp")
FLAGS = "flags"
KEEPS_FLAGS = ("mov", "lea", "set", "cmov", "push", "pop", "not", "v", "k", "j", "nop", "clt", "cqt")
KEEPS_FLAGS += ("rorx", "shlx", "shrx", "sarx", "mulx", "pdep", "pext", "bswap", "xchg")
WIDTHS = {"%zmm": 64, "%ymm": 32, "%xmm": 16}
TESTS = ("cmp", "test", "bt", "ucomi", "comi", "vucomi", "vcomi", "vptest", "vtestp", "kortest", "ktest")
SOMEWHERE = "stack, somewhere"
"""A place on the stack for data that was stored at an address that is computed."""
#: Kernels that read addresses from memory, which are public: places, or a table of them.
PUBLIC_ADDRESSES = ("gather", "scatter", "unpack_add_eights")
#: Kernels that depend on secrets as SECURITY.md says, and those that read from memory what is public but data to
#: the search: where an array lies that the kernel itself made, constants, lengths that are kept beside secrets.
NOT_SEARCHED = (*LEAKY, "mpc._packed.transform", "he._blake2.tree_nodes", "mpc._aes.add")
CALLER_SAVED = ["rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11"]


def whole(register: str) -> str:
    """The name of the register of which ``register`` is a part."""
    if match := re.fullmatch(r"[xyz]mm(\d+)", register):
        return f"v{match[1]}"
    if match := re.fullmatch(r"(r\d+)[bwd]?", register):
        return match[1]
    for two in WIDE:
        if register in (two, f"e{two}", f"r{two}", two.replace("x", "l"), two.replace("x", "h"), f"{two}l"):
            return f"r{two}"
    return register


def operands(text: str) -> list[str]:
    """Split at commas outside of parentheses."""
    return [part.strip() for part in re.split(r",(?![^(]*\))", text) if part.strip()]


class Code:
    """One function's machine code, in AT&T's notation."""

    def __init__(self, assembly: str, name: str) -> None:
        body = assembly[assembly.index(f"\n{name}:") + 1 :]
        self.blocks: dict[str, list[tuple[str, list[str]]]] = {}
        block = self.blocks[name] = []
        for line in body[: body.index("\n.Lfunc_end")].split("\n")[1:]:
            line = line.split("#")[0]
            if label := re.match(r"(\.L\w+):", line):
                block = self.blocks[label[1]] = []
            elif instruction := re.match(r"\s+(\w+)\s*(.*)", line):
                block.append((instruction[1], operands(instruction[2])))

    def findings(self) -> set[str]:
        """Walk all paths until the sets of places that hold data stop growing."""
        names = list(self.blocks)
        before: dict[str, set[str]] = {name: set() for name in names}
        todo, found = {*names}, set()
        while todo:
            name = min(todo, key=names.index)
            todo.remove(name)
            held, ending = set(before[name]), ""
            for ending, parts in self.blocks[name]:
                found |= self.step(ending, parts, held)
                if ending.startswith("j"):
                    # A jump through a table may lead anywhere.
                    self.enter([part for part in parts if part in before] or names, held, before, todo)
            following = names[names.index(name) + 1 :][:1]
            if ending not in ("jmp", "jmpq", "ret", "retq"):
                self.enter(following, held, before, todo)
        return found

    @staticmethod
    def enter(names: list[str], held: set[str], before: dict[str, set[str]], todo: set[str]) -> None:
        """Note what is held where blocks begin."""
        for name in names:
            if held - before[name]:
                before[name] |= held
                todo.add(name)

    def step(self, operation: str, parts: list[str], held: set[str]) -> set[str]:
        """Update ``held``, the places that hold data, by one instruction."""
        found = set()
        text = f"{operation} {', '.join(parts)}"
        if operation.startswith("j") and operation not in ("jmp", "jmpq") and FLAGS in held:
            found.add(f"branch: {text}")
        if operation.startswith("call"):
            held -= {*CALLER_SAVED, FLAGS}
            return found
        width = max((size for name, size in WIDTHS.items() if name in text), default=8)
        reads = parts[:-1] if self.overwrites(operation, parts) else parts
        if parts[1:] and len(set(parts)) == 1 and operation.startswith(("xor", "vpxor", "vxor", "pxor")):
            reads = []  # zero, whatever the register held
        for part in parts:
            inside = REGISTER.findall(part) if "(" in part and not operation.startswith("lea") else []
            if any(whole(register) in held for register in inside):
                found.add(f"address: {text}")
        if operation.startswith("lea"):
            data = any(whole(register) in held for register in REGISTER.findall(parts[0]))
        else:
            read = ["(%rsp)"] if operation.startswith("pop") else reads
            data = any(self.is_data(part, width, held) for part in read)
        if operation.startswith(("set", "cmov", "adc", "sbb")):
            data = data or FLAGS in held
        if re.fullmatch("i?div[bwlq]", operation) and (data or {"rax", "rdx"} & held):
            found.add(f"division: {text}")
        self.move_stack(operation, parts, held)
        if parts and not operation.startswith((*TESTS, "j", "ret")):
            self.write("(%rsp)" if operation.startswith("push") else parts[-1], width, data, held)
        if operation.startswith(("mul", "imul", "div", "idiv")) and len(parts) == 1:
            for register in ("rax", "rdx"):
                self.write(f"%{register}", width, data or "rax" in held, held)
        if operation.startswith(TESTS) or not operation.startswith(KEEPS_FLAGS):
            (held.add if data else held.discard)(FLAGS)
        return found

    @staticmethod
    def overwrites(operation: str, parts: list[str]) -> bool:
        """Whether the last operand is written, and not read."""
        if operation.startswith(TESTS):
            return False
        return operation.startswith(("mov", "lea", "set", "pop", "v", "k")) or (
            operation.startswith(("rorx", "shlx", "shrx", "sarx", "imul", "andn", "lzcnt", "tzcnt", "popcnt"))
            and len(parts) > (2 if operation.startswith("imul") else 1)
        )

    @staticmethod
    def is_data(part: str, width: int, held: set[str]) -> bool:
        """Whether an operand that is read, ``width`` bytes of it if it is in memory, is data."""
        if slots := on_stack(part, width):
            return not held.isdisjoint([*slots, SOMEWHERE])
        if "(" in part:
            return "%rip" not in part
        return any(whole(register) in held for register in REGISTER.findall(part))

    @staticmethod
    def write(part: str, width: int, data: bool, held: set[str]) -> None:
        """Note that an operand that is written is data, or not. A part of a register stands for all of it."""
        registers = [] if "(" in part else [whole(register) for register in REGISTER.findall(part)]
        places = on_stack(part, width) or registers[:1]
        if data and not places and "%rsp" in part:
            places = [SOMEWHERE]
        if data:
            held.update(places)
        elif "{" not in part:  # a mask keeps some of what a register held
            held.difference_update(places)

    @staticmethod
    def move_stack(operation: str, parts: list[str], held: set[str]) -> None:
        """Name the places on the stack anew where the pointer to it moves."""
        by = 0
        if operation.startswith(("push", "pop")):
            by = 8 if operation.startswith("push") else -8
        elif parts[-1:] == ["%rsp"] and operation.startswith(("add", "sub")) and parts[0].startswith("$"):
            by = int(parts[0][1:]) * (1 if operation.startswith("sub") else -1)
        if by:
            slots = {place for place in held if place.startswith("stack") and place != SOMEWHERE}
            held -= slots
            held |= {f"stack{int(slot[5:]) + by:+d}" for slot in slots}


def on_stack(part: str, width: int) -> list[str]:
    """The names of ``width`` bytes on the stack, ``stack`` and an offset for each four; none for other operands."""
    match = re.fullmatch(r"(-?\d*)\(%rsp\)(?:\s*\{.*)?", part)
    start = int(match[1] or 0) if match else 0
    return [f"stack{start + at:+d}" for at in range(0, width, 4)] if match else []


def findings(kernel: Any) -> list[str]:
    """What depends on data in each compiled signature of ``kernel``."""
    found: set[str] = set()
    for signature in kernel.signatures:
        name = kernel.overloads[signature].fndesc.llvm_func_name
        found |= Code(kernel.inspect_asm(signature), name).findings()
    if kernel.__name__ in PUBLIC_ADDRESSES:
        found = {line for line in found if not line.startswith("address: ")}
    return sorted(found)


def compiled() -> dict[str, Any]:
    """The kernels of all cases, each compiled for the types of its cases."""
    kernels = {}
    for case in cases():
        case.fill(np.random.default_rng(1))
        case.run()
        if case.kernel not in NOT_SEARCHED and not case.name.startswith(CONTROL):
            module, _, name = case.kernel.rpartition(".")
            kernels[case.kernel] = getattr(importlib.import_module(module), name)
    return kernels


def branching(words: Any, p: Any) -> None:
    for i in range(words.size):
        while words[i] >= p:
            words[i] -= p


def table(words: Any, p: Any) -> None:
    for i in range(words.size):
        words[i] = words[words[i] & p]


def division(words: Any, p: Any) -> None:
    for i in range(words.size):
        words[i] = words[i] // p


def controls() -> dict[str, Any]:
    """Kernels that do what the others must not do."""
    kernels: dict[str, Any] = {}
    functions: list[Callable[..., None]] = [branching, table, division]
    for function in functions:
        kernels[function.__name__] = njit(function)
        kernels[function.__name__](np.ones(64, dtype=np.uint64), np.uint64(1))
    return kernels


if __name__ == "__main__":
    json.dump({name: findings(kernel) for name, kernel in (compiled() | controls()).items()}, sys.stdout, indent=1)
