"""CRUXEval, input prediction: an input that gives the output. (arXiv:2401.03065)"""

from smelt.evals import cruxeval

cruxeval_input = cruxeval.half("cruxeval_input", cruxeval.input_ask, cruxeval.input_job)
