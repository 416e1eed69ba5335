"""Runs the Structured Text (IEC 61131-3) of the PLC programmer's manual: as much of the language as stands there, and no more."""

import re
from collections.abc import Callable
from typing import Any

_TOKEN = re.compile(
    r"\s*(?:(?P<comment>\(\*.*?\*\))|(?P<time>T#\d+M?S)|(?P<hex>16#[0-9A-F]+)|(?P<number>\d+)|(?P<string>'[^']*')"
    r"|(?P<word>[A-Za-z_][A-Za-z_0-9]*)|(?P<sign>:=|<>|<=|>=|\.\.|[-+*/=<>()\[\],;:.]))",
    re.DOTALL,
)
_LEVELS = (("OR",), ("XOR",), ("AND",), ("=", "<>", "<", ">", "<=", ">="), ("+", "-"), ("*",))
_PYTHON = {"OR": "|", "XOR": "^", "AND": "&", "=": "==", "<>": "!="}
_SECTION = re.compile(r"VAR(?:_INPUT|_OUTPUT|_GLOBAL| RETAIN)?\b(.*?)END_VAR", re.DOTALL)
_UNIT = re.compile(r"^(FUNCTION_BLOCK|FUNCTION|PROGRAM) (\w+)[^\n]*\n(.*?)^END_\1", re.DOTALL | re.MULTILINE)


def _tokens(text: str) -> list[tuple[str, str]]:
    found, at = [], 0
    text = text.rstrip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        assert match, f"no Structured Text: {text[at : at + 40]!r}"
        if match.lastgroup and match.lastgroup != "comment":
            found.append((match.lastgroup, match[match.lastgroup]))
        at = match.end()
    return found


class _Translator:
    """Statements into Python lines; a name stands in the namespace `v`."""

    def __init__(self, text: str) -> None:
        self._tokens = [*_tokens(text), ("end", "")]
        self._at = 0
        self.lines: list[str] = []
        self._block(0, ())

    def _peek(self, ahead: int = 0) -> str:
        return self._tokens[self._at + ahead][1]

    def _take(self, expected: str = "") -> tuple[str, str]:
        token = self._tokens[self._at]
        assert not expected or token[1] == expected, f"{token[1]} where {expected} belongs"
        self._at += 1
        return token

    def _block(self, depth: int, ends: tuple[str, ...]) -> None:
        begun = len(self.lines)
        while self._tokens[self._at][0] != "end" and self._peek() not in ends and not ("case" in ends and self._at_label()):
            self._statement(depth)
        if len(self.lines) == begun:
            self.lines.append("    " * depth + "pass")

    def _at_label(self) -> bool:
        return self._tokens[self._at][0] == "number" and self._peek(1) == ":"

    def _statement(self, depth: int) -> None:
        pad = "    " * depth
        match self._peek():
            case "IF":
                self._take()
                self._branches(depth)
            case "FOR":
                self._take()
                name = self._take()[1]
                self._take(":=")
                first = self._expression()
                self._take("TO")
                self.lines.append(f"{pad}for v[{name!r}] in range({first}, {self._expression()} + 1):")
                self._take("DO")
                self._block(depth + 1, ("END_FOR",))
                self._take("END_FOR")
            case "CASE":
                self._take()
                subject = self._expression()
                self._take("OF")
                word = "if"
                while self._peek() != "END_CASE":
                    self.lines.append(f"{pad}{word} {subject} == {self._take()[1]}:")
                    self._take(":")
                    self._block(depth + 1, ("END_CASE", "case"))
                    word = "elif"
                self._take("END_CASE")
            case _:
                target = self._expression()
                if self._peek() == ":=":
                    self._take()
                    target = (
                        f"{target.replace('_at(', '_Place(')}.put({self._expression()})"
                        if "_at(" in target
                        else (f"{target} = {self._expression()}")
                    )
                self.lines.append(pad + target)
        self._take(";")

    def _branches(self, depth: int) -> None:
        pad = "    " * depth
        self.lines.append(f"{pad}if {self._expression()}:")
        while True:
            if self._peek() == "THEN":
                self._take()
            self._block(depth + 1, ("ELSIF", "ELSE", "END_IF"))
            word = self._take()[1]
            if word == "END_IF":
                return
            self.lines.append(f"{pad}elif {self._expression()}:" if word == "ELSIF" else f"{pad}else:")

    def _expression(self, level: int = 0) -> str:
        if level == len(_LEVELS):
            return self._unary()
        left = self._expression(level + 1)
        while self._peek() in _LEVELS[level] and self._tokens[self._at][0] != "string":
            sign = self._take()[1]
            left = f"({left} {_PYTHON.get(sign, sign)} {self._expression(level + 1)})"
        return left

    def _unary(self) -> str:
        kind, text = self._take()
        if text == "NOT":
            return f"(not {self._unary()})"
        if text == "(":
            inner = self._expression()
            self._take(")")
            return f"({inner})"
        if kind == "string":
            return repr(text[1:-1].replace("$R", "\r"))
        if kind == "time":
            return str(int(re.sub(r"\D", "", text)) / (1000 if text.endswith("MS") else 1))
        if kind in ("hex", "number"):
            return str(int(text.removeprefix("16#"), 16 if kind == "hex" else 10))
        if text in ("TRUE", "FALSE"):
            return text.title()
        assert kind == "word", text
        value = f"v[{text!r}]"
        while self._peek() in ("[", "(", "."):
            value = self._after(value, self._take()[1])
        return value

    def _after(self, value: str, sign: str) -> str:
        if sign == ".":
            return f"{value}.{self._take()[1]}"
        if sign == "[":
            index = self._expression()
            self._take("]")
            return f"_at({value}, {index})"
        arguments = []
        while self._peek() != ")":
            name = f"{self._take()[1]}=" if self._peek(1) == ":=" else ""
            if name:
                self._take(":=")
            arguments.append(name + self._expression())
            if self._peek() == ",":
                self._take()
        self._take(")")
        return f"{value}({', '.join(arguments)})"


def _at(values: Any, index: int) -> Any:
    return ord(values[index]) if isinstance(values, str) else values[index]


class _Place:
    def __init__(self, values: list[Any], index: int) -> None:
        self._values, self._index = values, index

    def put(self, value: Any) -> None:
        self._values[self._index] = value


class Ton:
    """TON: on after IN was true for PT, in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.Q = False
        self._clock = clock
        self._since_s: float | None = None

    def __call__(self, IN: bool, PT: float) -> None:  # noqa: N803 - the standard's names
        self._since_s = (self._clock() if self._since_s is None else self._since_s) if IN else None
        self.Q = self._since_s is not None and self._clock() - self._since_s >= PT


class RTrig:
    """R_TRIG: true in the call in which CLK became true."""

    def __init__(self) -> None:
        self.Q = self._before = False

    def __call__(self, CLK: bool) -> None:  # noqa: N803 - the standard's name
        self.Q, self._before = CLK and not self._before, CLK


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "LEN": len,
    "CONCAT": lambda a, b: a + b,
    "LEFT": lambda s, n: s[:n],
    "RIGHT": lambda s, n: s[len(s) - n :],
    "MID": lambda s, n, at: s[at - 1 : at - 1 + n],
    "FIND": lambda s, what: s.find(what) + 1,
    "SHR": lambda value, bits: value >> bits,
    "BYTE_TO_INT": int,
    "INT_TO_UINT": int,
    "STRING_TO_UINT": int,
}


class Program:
    """The units of a text, over one array of registers.

    Attributes:
        variables: those of the function block or loose statements that `scan` runs.
    """

    def __init__(self, text: str, registers: list[int], clock: Callable[[], float], main: str = "") -> None:
        """`main` is the function block that `scan` runs; without one the statements outside of units are."""
        self._shared: dict[str, Any] = {**FUNCTIONS, "aw": registers}
        self._clock = clock
        for _, name, body in _UNIT.findall(text):
            if name == main:
                self.variables = self._shared | self._declared(body)
                self._code = self._compiled(body)
            else:
                self._shared[name] = self._function(name, body)
        if not main:
            self._code = self._compiled(_UNIT.sub("", text))
            self.variables = self._shared | {}

    def call(self, name: str, *arguments: Any) -> Any:
        """The result of a function."""
        return self._shared[name](*arguments)

    def scan(self, **inputs: Any) -> dict[str, Any]:
        """One cycle with these inputs; returns all variables."""
        self.variables |= inputs
        exec(self._code, {"v": self.variables, "_at": _at, "_Place": _Place})
        return self.variables

    def _compiled(self, body: str) -> Any:
        return compile("\n".join(_Translator(_SECTION.sub("", body)).lines), "manual", "exec")

    def _function(self, name: str, body: str) -> Callable[..., Any]:
        code = self._compiled(body)
        names = [*self._declared("".join(f"VAR{part}END_VAR" for part in re.findall(r"VAR_INPUT(.*?)END_VAR", body, re.DOTALL)))]

        def call(*arguments: Any) -> Any:
            local = self._shared | self._declared(body) | dict(zip(names, arguments, strict=True))
            exec(code, {"v": local, "_at": _at, "_Place": _Place})
            return local[name]

        return call

    def _declared(self, body: str) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for section in _SECTION.findall(body):
            for names, kind, value in re.findall(r"([\w, ]+?)\s*: ([^;:]+?)(?: := ([^;]+))?;", re.sub(r"\(\*.*?\*\)", "", section)):
                made |= {one.strip(): self._initial(kind.strip(), value) for one in names.split(",")}
        return made

    def _initial(self, kind: str, value: str) -> Any:
        if value:
            return eval(_Translator(f"x := {value};").lines[0].split(" = ")[1])
        if kind in ("TON", "R_TRIG"):
            return Ton(self._clock) if kind == "TON" else RTrig()
        if kind.startswith("ARRAY"):
            return [0] * 8
        return "" if kind.startswith("STRING") else kind == "BOOL" and False
