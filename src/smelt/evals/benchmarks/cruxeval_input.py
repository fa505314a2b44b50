"""CRUXEval, input prediction: an input that gives the output. (arXiv:2401.03065)"""

from smelt.evals import cruxeval
from smelt.evals.benchmark import Benchmark, Form, Item, Row


def _item(row: Row) -> Item:
    return cruxeval.crux_item(row, "cruxeval_input")


_FORM = Form(ask=cruxeval.input_ask, job=cruxeval.input_job, max_new_tokens=256, stop=cruxeval.STOP)

cruxeval_input = Benchmark(
    version=1,
    source=cruxeval.SOURCE,
    licence="MIT",
    splits=cruxeval.SPLITS,
    test_split="test",
    fitness_split=None,
    item=_item,
    forms={"chat": _FORM, "base": _FORM},
    hub=cruxeval.HUB,
)
