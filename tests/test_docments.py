"""Every parameter of a public function, method or class says what it is, in a comment on its own line."""
import sys
from pathlib import Path

import pytest
from fastcore.docments import docments

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "nbs"))
import _api  # noqa: E402

MODULES = [module.name for module in _api.modules()]


def of(module): return [entry for entry in _api.entries() if entry.module == module]


@pytest.mark.parametrize("module", MODULES)
def test_every_parameter_has_a_docment(module):
    missing = [f"{entry.name}: {', '.join(bare)}" for entry in of(module)
               if (bare := [parameter.name for parameter in entry.parameters if not parameter.docment])]
    assert not missing, f"{module}: parameters without a comment on a line of their own\n" + "\n".join(missing)


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_has_an_entry(module):
    public = next(one.public for one in _api.modules() if one.name == module)
    assert {entry.name for entry in of(module) if "." not in entry.name} == set(public)


def test_docments_are_those_that_fastcore_reads():
    from live2diff_nb.engine import kvcache, masks
    for module in (kvcache, masks):
        for entry in of(module.__name__.removeprefix("live2diff_nb.")):
            if entry.kind != "function" or "." in entry.name: continue
            theirs = {name: said or "" for name, said in docments(getattr(module, entry.name), returns=False).items()}
            assert {parameter.name: parameter.docment for parameter in entry.parameters} == theirs


if __name__ == "__main__":      # python tests/test_docments.py: the share by module
    for module in [*MODULES, ""]:
        found = [parameter for entry in (of(module) if module else _api.entries()) for parameter in entry.parameters]
        print(f"{module or 'all':22} {sum(bool(parameter.docment) for parameter in found):4} of {len(found):4}")
