"""A hospital's training script: ten steps of softmax regression on its own digits. It knows nothing of secagg."""

import numpy as np
import nvflare.client as flare
from sklearn.datasets import load_digits

SITES = 4


def load(site: str) -> tuple[np.ndarray, np.ndarray]:
    """The site's own images, with a constant for the bias, and their digits; one in SITES of the data set."""
    images, digits = load_digits(return_X_y=True)
    own = slice(int(site.removeprefix("site-")) - 1, None, SITES)
    return np.hstack([images[own] / 16, np.ones((len(images[own]), 1))]), digits[own]


def predict(weights: np.ndarray, images: np.ndarray) -> np.ndarray:
    """The probability of each digit."""
    scores = np.exp(images @ weights - (images @ weights).max(axis=1, keepdims=True))
    return scores / scores.sum(axis=1, keepdims=True)


def main() -> None:
    flare.init()
    images, digits = load(flare.get_site_name())
    while flare.is_running():
        model = flare.receive()
        weights = model.params["numpy_key"].astype(np.float64)
        accuracy = float((predict(weights, images).argmax(axis=1) == digits).mean())
        for _ in range(10):
            weights -= 0.5 * images.T @ (predict(weights, images) - np.eye(10)[digits]) / len(images)
        flare.send(
            flare.FLModel(
                params={"numpy_key": weights.astype(np.float32)},
                metrics={"accuracy": accuracy},
                meta={"NUM_STEPS_CURRENT_ROUND": len(images)},
            )
        )


if __name__ == "__main__":
    main()
