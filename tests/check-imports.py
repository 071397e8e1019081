#!/usr/bin/env python3
"""Fails on a circle of imports between the files of a crate, and on an upward import inside engine/src.

Run by `make check`. Reads the sources as text: `use` declarations, and paths that begin with `crate`, `self`, `super` or a
module that the file declares. Tests of a file may import what they like. `--self-test` shows that a planted circle and a
planted upward import are found.
"""

import pathlib
import re
import sys
import tempfile

# Inside engine/src a folder imports itself and those that come later here, never one that comes earlier.
LAYERS = [["main"], ["server"], ["tasks"], ["container"], ["replication"], ["image"]]


def code(text):
    """The code of a file without comments, strings and tests, which may be in a file of their own."""
    text = re.sub(r'//[^\n]*', '', text)
    text = re.sub(r'r#+".*?"#+', '""', text, flags=re.S)
    text = re.sub(r'"(?:\\.|[^"\\])*"', '""', text, flags=re.S)
    text = re.sub(r'#\[cfg\(test\)\]\s*(?:pub(?:\([^)]*\))? )?mod \w+;', '', text)
    return re.split(r'#\[cfg\(test\)\]\s*(?:pub(?:\([^)]*\))? )?mod \w+ \{', text)[0]


def trees(use):
    """All paths of a use tree, as lists of segments."""
    use = use.strip()
    brace = use.find("{")
    if brace < 0:
        return [[part.strip() for part in use.split(" as ")[0].split("::")]]
    prefix = [part.strip() for part in use[:brace].split("::") if part.strip()]
    inner, depth, start, items = use[brace + 1:use.rindex("}")], 0, 0, []
    for at, char in enumerate(inner):
        depth += (char == "{") - (char == "}")
        if char == "," and depth == 0:
            items.append(inner[start:at])
            start = at + 1
    items.append(inner[start:])
    return [prefix + path for item in items if item.strip() for path in trees(item)]


class Crate:
    """The modules of one target: those that its root file reaches by `mod`."""

    def __init__(self, root):
        self.files, self.text, self.children, self.scope = {}, {}, {}, {}
        self.add((), root, root.parent)
        self.edges = {module: self.imports(module) for module in self.files}

    def add(self, module, path, folder):
        self.files[module] = path
        self.text[module] = code(path.read_text())
        self.children[module] = set()
        for name in re.findall(r'^\s*(?:pub(?:\([^)]*\))? )?mod (\w+);', self.text[module], flags=re.M):
            for file in (folder / f"{name}.rs", folder / name / "mod.rs"):
                if file.exists():
                    self.children[module].add(name)
                    self.add(module + (name,), file, folder / name)

    def resolve(self, module, path):
        """The module of this crate that the item at `path` is in, as seen from `module`; None if it is of another crate."""
        first, rest = path[0], path[1:]
        if first == "crate":
            at = ()
        elif first == "self":
            at = module
        elif first == "super":
            at = module[:-1]
            while rest and rest[0] == "super":
                at, rest = at[:-1], rest[1:]
        elif first in self.children[module]:
            at, rest = module, path
        else:
            return None
        for name in rest:
            if name not in self.children.get(at, ()):
                break
            at = at + (name,)
        return at

    def imports(self, module):
        text, found = self.text[module], set()
        uses = re.findall(r'\buse ([^;]+);', text)
        paths = [path for use in uses for path in trees(use)]
        # A path in the code may begin with a module that a `use` has brought in.
        brought = {path[-1]: path for path in paths if len(path) > 1 and path[-1] != "self"}
        brought |= {path[-2]: path[:-1] for path in paths if len(path) > 2 and path[-1] == "self"}
        rest = re.sub(r'\buse [^;]+;', '', text)
        for path in re.findall(r'(?<![\w:.])((?:\w+::)+\w+)', rest):
            first, *more = path.split("::")
            paths.append(brought.get(first, [first]) + more)
        for path in paths:
            target = self.resolve(module, path)
            if target is not None and target != module:
                found.add(target)
        return found

    def circles(self):
        """Groups of modules each of which reaches all others (Tarjan's strongly connected components)."""
        index, low, stack, on, groups = {}, {}, [], set(), []

        def visit(module):
            index[module] = low[module] = len(index)
            stack.append(module)
            on.add(module)
            for target in self.edges[module]:
                if target not in index:
                    visit(target)
                    low[module] = min(low[module], low[target])
                elif target in on:
                    low[module] = min(low[module], index[target])
            if low[module] == index[module]:
                group = []
                while True:
                    member = stack.pop()
                    on.discard(member)
                    group.append(member)
                    if member == module:
                        break
                if len(group) > 1:
                    groups.append(sorted(group))

        for module in self.files:
            if module not in index:
                visit(module)
        return groups


def name(module):
    return "::".join(module) or "(root)"


def roots(top):
    """The root files of all targets in `top` that have modules."""
    for manifest in sorted(top.glob("**/Cargo.toml")):
        if "target" not in manifest.parts and (manifest.parent / "src").is_dir():
            source = manifest.parent / "src"
            yield from (file for file in (source / "lib.rs", source / "main.rs") if file.exists())
            yield from sorted(source.glob("bin/*/main.rs"))


def check(top):
    """What is wrong in the tree `top`, a line each."""
    wrong = []
    for root in roots(top):
        crate = Crate(root)
        where = root.relative_to(top)
        for group in crate.circles():
            wrong.append(f"{where}: a circle of imports: {', '.join(map(name, group))}")
            for module in group:
                targets = sorted(target for target in crate.edges[module] if target in group)
                wrong.append(f"    {name(module)} imports {', '.join(map(name, targets))}")
        if where == pathlib.Path("engine/src/lib.rs"):
            wrong += upward(crate)
    return wrong


def upward(crate):
    layer = {folder: depth for depth, folders in enumerate(LAYERS) for folder in folders}
    for module, targets in sorted(crate.edges.items()):
        for target in sorted(targets):
            if not module or not target or module[0] == target[0]:
                continue
            above, below = layer.get(module[0], len(LAYERS)), layer.get(target[0], len(LAYERS))
            # Single files beside the folders are for all of them.
            if module[0] in layer and target[0] in layer and below <= above:
                yield f"engine/src: {name(module)} imports {name(target)}, which does not lie below it"


def self_test():
    with tempfile.TemporaryDirectory() as top:
        source = pathlib.Path(top) / "engine" / "src"
        (source / "image/list").mkdir(parents=True)
        (source.parent / "Cargo.toml").write_text("")
        files = {
            "lib.rs": "mod server;\nmod image;\nmod a;\nmod b;\nmod c;\n",
            "server.rs": "use crate::image::{self};\nfn run() { image::list::open(); }\n",
            "image.rs": "pub mod list;\n",
            "image/list.rs": "pub struct List;\nfn up() { crate::server::run(); }\n#[cfg(test)]\nmod tests;\n",
            "image/list/tests.rs": "use crate::server::S;\n",
            "a.rs": "use super::b::B;\n",
            "b.rs": "// use crate::c;\nfn f() { super::c::g(); }\n#[cfg(test)]\nmod tests {\n use crate::server::S;\n}\n",
            "c.rs": "use crate::{a::{A, self}, d::D};\nconst TEXT: &str = \"crate::server::run\";\n",
        }
        for file, text in files.items():
            (source / file).write_text(text)
        wrong = check(pathlib.Path(top))
        expected = [
            "engine/src/lib.rs: a circle of imports: a, b, c",
            "engine/src/lib.rs: a circle of imports: image::list, server",
            "engine/src: image::list imports server, which does not lie below it",
        ]
        missing = [line for line in expected if line not in wrong]
        more = [line for line in wrong if not line.startswith("    ") and line not in expected]
        if missing or more:
            sys.exit(f"the check does not find what was planted: {wrong}")
        (source / "a.rs").write_text("")
        (source / "image/list.rs").write_text("#[cfg(test)]\nmod tests;\n")
        if wrong := check(pathlib.Path(top)):
            sys.exit(f"the check finds what is not there: {wrong}")


def main():
    if "--self-test" in sys.argv:
        return self_test()
    self_test()
    wrong = check(pathlib.Path(__file__).resolve().parent.parent)
    print("\n".join(wrong) if wrong else "imports: no circle, none upward")
    sys.exit(1 if wrong else 0)


main()
