"""Reddi et al. 2021, Algorithm 2, Hsu et al. 2019, and Tang et al. 2024, coordinate by coordinate as printed."""

import math

Floats = list[float]


def adaptive(
    rule: str, x: Floats, means: list[Floats], *, eta: float, beta1: float, beta2: float, tau: float
) -> list[Floats]:
    """x after each of the rounds whose Δ are ``means``; the paper's v₋₁ is τ², m₋₁ is zero."""
    m, v = [0.0] * len(x), [tau * tau] * len(x)
    models = []
    for delta in means:
        x = list(x)
        for i, change in enumerate(delta):
            m[i] = beta1 * m[i] + (1 - beta1) * change
            square = change * change
            if rule == "FedAdagrad":
                v[i] = v[i] + square
            elif rule == "FedYogi":
                sign = (v[i] > square) - (v[i] < square)
                v[i] = v[i] - (1 - beta2) * square * sign
            else:
                v[i] = beta2 * v[i] + (1 - beta2) * square
            x[i] = x[i] + eta * m[i] / (math.sqrt(v[i]) + tau)
        models.append(x)
    return models


def momentum(x: Floats, means: list[Floats], *, eta: float, beta: float) -> list[Floats]:
    """Hsu et al. 2019: v ← βv + Δ, w ← w + ηv."""
    v = [0.0] * len(x)
    models = []
    for delta in means:
        v = [beta * held + change for held, change in zip(v, delta, strict=True)]
        x = [weight + eta * held for weight, held in zip(x, v, strict=True)]
        models.append(x)
    return models


def corrected_adam(
    gradients: Floats, *, beta1: float, beta2: float, noise: float, floor: float
) -> list[tuple[float, float]]:
    """The numerator and the denominator of each step of DP-AdamBC for one weight; ``noise`` is Φ, ``floor`` γ'."""
    m = v = 0.0
    steps = []
    for t, gradient in enumerate(gradients, 1):
        m = beta1 * m + (1 - beta1) * gradient
        v = beta2 * v + (1 - beta2) * gradient**2
        steps.append((m / (1 - beta1**t), math.sqrt(max(v / (1 - beta2**t) - noise, floor))))
    return steps
