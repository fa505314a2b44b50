"""CRUXEval, output prediction: what a Python function returns. (arXiv:2401.03065)"""

from smelt.evals import cruxeval

cruxeval_output = cruxeval.half("cruxeval_output", cruxeval.output_ask, cruxeval.output_job)
