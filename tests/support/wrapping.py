"""Methods of every kind to wrap, and all wrappers."""

from dataclasses import dataclass

import torch
from catalogue import ROTATION, RotationScale

import lds_iter as li


@dataclass(frozen=True)
class Remembering(li.StatefulTransition):
    """Newton whose damping is halved at every iteration of a sequence: a choice of A with a memory."""

    def init(self, guess):
        return guess.new_full(guess.shape[1:-1], 0.4)

    def choose(self, lin, carry):
        keep = (1 - carry)[None, ..., None].expand(*lin.residual.shape[:-1], 1)
        return li.Dense(lin.jacobian()).scaled(keep), lin.keep(carry / 2, carry)


class Complex(li.TransitionApproximation):
    """A structure of a user's own."""

    def transition(self, lin):
        j = lin.block_diagonal(2)
        return RotationScale((j[..., 0, 0] + j[..., 1, 1]) / 2, (j[..., 1, 0] - j[..., 0, 1]) / 2)


def large(lin):
    return lin.residual.abs().amax(-1, keepdim=True) > 0.1


INNER = {
    "newton": li.Newton(),
    "quasi": li.QuasiNewton(),
    "picard": li.Picard(),
    "own": Complex(),
    "memory": Remembering(),
    "changing": li.Then(li.Newton(), li.QuasiNewton(), 1),
}
WRAPPERS = {
    "damped": lambda m: li.Damped(m, 0.1),
    "clipped": lambda m: li.Clipped(m, 0.9),
    "then": lambda m: li.Then(li.Jacobi(), m, 2),
    "then-first": lambda m: li.Then(m, li.QuasiNewton(), 2),
    "where": lambda m: li.Where(large, m, li.Jacobi()),
    "chord": lambda m: li.Chord(m, 3),
    "low": lambda m: li.LowPrecision(m, torch.float32),
    "rotated": lambda m: li.Rotated(m, ROTATION),
}
OUTER = {
    **WRAPPERS,
    "trust": li.TrustRegion,
    "switch": lambda m: li.Switch(li.Jacobi(), m, li.Below(0.3)),
    "filter": lambda m: li.LevenbergMarquardt(30.0, m),
    "smoother": lambda m: li.LevenbergMarquardt(30.0, m, li.Smoother()),
}
