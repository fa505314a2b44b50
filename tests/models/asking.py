"""What tests ask a backend: its answers, in the order of what was asked."""

from smelt.models.backend import Backend, Likelihood, Query, Request, Written


def ask(backend: Backend, requests: list[Request]) -> list[Written]:
    found: dict[int, Written] = {}
    backend.write(requests, lambda i, a: found.update(zip(i, a, strict=True)), "")
    return [found[index] for index in range(len(requests))]


def likelihoods(backend: Backend, queries: list[Query]) -> list[Likelihood]:
    found: dict[int, Likelihood] = {}
    backend.likelihood(queries, lambda i, a: found.update(zip(i, a, strict=True)), "")
    return [found[index] for index in range(len(queries))]
