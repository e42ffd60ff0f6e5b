"""Targets whose truth is known, and two of real data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import lds_iter as li

PARTS = torch.tensor([[2.0, 2.0], [2.0, -2.0], [-2.0, 2.0], [-2.0, -2.0]], dtype=torch.float64, device="cpu")


def mixture(x: Tensor) -> Tensor:
    """Four normal parts of unit variance at (+-2, +-2): mean 0 and variance 5 in each coordinate."""
    return torch.logsumexp(-(x.unsqueeze(-2) - PARTS.to(x)).square().sum(-1) / 2, -1)


def banana(x: Tensor) -> Tensor:
    """x1 of variance 100 and x2 around 0.03 (x1^2 - 100): means 0, variances 100 and 19."""
    bent = x[..., 1] - 0.03 * (x[..., 0].square() - 100)
    return -x[..., 0].square() / 200 - bent.square() / 2


def gaussian(precision: Tensor) -> Callable[[Tensor], Tensor]:
    """A normal target around 0 of a precision matrix, `(D, D)`."""
    return lambda x: -((x @ precision.to(x)) * x).sum(-1) / 2


MEANS, ERRORS = (28.0, 8, -3, 7, -1, 1, 18, 12), (15.0, 10, 16, 11, 9, 11, 10, 18)
"""Of the eight schools: effects and their standard errors (Rubin 1981)."""


@dataclass(frozen=True)
class EightSchools:
    """Gibbs sampling of the eight schools as the parallel-MCMC paper has it: D = 18, conjugate conditionals.

    20 students a school, standardised to the published means and standard errors. Variances are carried as they are,
    in the paper's units: tau^2 / 100, sigma^2 / 1000, so that all numbers are of order one to ten. The chains run on
    `device`, where the generator must be, too.
    """

    students: int = 20
    mu0: float = 0.0
    kappa0: float = 0.1
    nu0: float = 0.1
    tau0_squared: float = 100.0
    alpha0: float = 0.1
    sigma0_squared: float = 10.0
    device: torch.device | str = "cpu"

    @property
    def means(self) -> Tensor:
        return torch.tensor(MEANS, dtype=torch.float64, device=self.device)

    @property
    def variances(self) -> Tensor:
        """Of the students of each school."""
        return self.students * torch.tensor(ERRORS, dtype=torch.float64, device=self.device).square()

    def sampler(self) -> li.mcmc.AbstractSampler:
        """A sweep over tau^2, mu, theta and sigma^2."""
        means, variances, n, device = self.means, self.variances, self.students, self.device

        def tau_squared(p: dict[str, Tensor], gamma: Tensor) -> Tensor:
            spread = (p["theta"] - p["mu"]).square().sum() + self.kappa0 * (p["mu"] - self.mu0) ** 2
            return (self.nu0 * self.tau0_squared + spread) / 2 / gamma / 100

        def mu(p: dict[str, Tensor], z: Tensor) -> Tensor:
            mean = (self.kappa0 * self.mu0 + p["theta"].sum()) / (self.kappa0 + 8)
            return mean + (100 * p["tau_squared"] / (self.kappa0 + 8)).sqrt() * z

        def theta(p: dict[str, Tensor], z: Tensor) -> Tensor:
            data, prior = n / (1000 * p["sigma_squared"]), 1 / (100 * p["tau_squared"])
            return (data * means + prior * p["mu"]) / (data + prior) + z / (data + prior).sqrt()

        def sigma_squared(p: dict[str, Tensor], gamma: Tensor) -> Tensor:
            spread = (n - 1) * variances + n * (means - p["theta"]).square()
            return (self.alpha0 * self.sigma0_squared + spread) / 2 / gamma / 1000

        def gammas(shape: tuple[int, ...], concentration: float, generator: torch.Generator | None) -> Tensor:
            given = torch.full(shape, concentration, dtype=torch.float64, device=device)
            return torch._standard_gamma(given, generator=generator)  # pyright: ignore[reportPrivateImportUsage]

        return li.mcmc.gibbs(
            {"tau_squared": tau_squared, "mu": mu, "theta": theta, "sigma_squared": sigma_squared},
            {
                "tau_squared": lambda shape, g: gammas(shape, (self.nu0 + 9) / 2, g),
                "mu": lambda shape, g: torch.randn(shape, dtype=torch.float64, generator=g, device=device),
                "theta": lambda shape, g: torch.randn(*shape, 8, dtype=torch.float64, generator=g, device=device),
                "sigma_squared": lambda shape, g: gammas((*shape, 8), (self.alpha0 + n) / 2, g),
            },
        )

    def start(self, chains: int) -> dict[str, Tensor]:
        """Every school at its mean."""
        mean, variance = self.means, self.variances
        return {
            "tau_squared": torch.ones(chains, dtype=torch.float64, device=self.device),
            "mu": mean.mean().expand(chains),
            "theta": mean.expand(chains, 8),
            "sigma_squared": (variance / 1000).expand(chains, 8),
        }


def logistic_regression(features: Tensor, labels: Tensor) -> Callable[[Tensor], Tensor]:
    """Bayesian logistic regression with a standard normal prior on the weights `(..., D)`; labels are 0 or 1."""

    def logdensity(weights: Tensor) -> Tensor:
        logits = weights @ features.to(weights).T
        likelihood = (labels.to(weights) * logits - torch.nn.functional.softplus(logits)).sum(-1)
        return likelihood - weights.square().sum(-1) / 2

    return logdensity


def breast_cancer() -> tuple[Tensor, Tensor]:
    """scikit-learn's data, 569 tumours by 30 features, standardised, with a column of ones; and whether benign."""
    from sklearn.datasets import load_breast_cancer

    features, labels = load_breast_cancer(return_X_y=True)
    x = torch.tensor(features, dtype=torch.float64, device="cpu")
    x = (x - x.mean(0)) / x.std(0)
    y = torch.tensor(labels, dtype=torch.float64, device="cpu")
    return torch.cat([x, torch.ones_like(x[:, :1])], 1), y


def hierarchical_schools(device: torch.device | str = "cpu") -> Callable[[dict[str, Tensor]], Tensor]:
    """The eight schools as a hierarchical model for a gradient sampler; a position has mu, log tau and z, float64."""
    means, errors = (torch.tensor(numbers, dtype=torch.float64, device=device) for numbers in (MEANS, ERRORS))

    def logdensity(position: dict[str, Tensor]) -> Tensor:
        tau = position["log_tau"].exp()
        theta = position["mu"] + tau * position["z"]  # the non-centred form
        likelihood = -(((means - theta) / errors) ** 2).sum() / 2 - position["z"].square().sum() / 2
        half_cauchy = position["log_tau"] - torch.log1p((tau / 5) ** 2)
        return likelihood - (position["mu"] / 5) ** 2 / 2 + half_cauchy

    return logdensity
