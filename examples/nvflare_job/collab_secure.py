"""Four sites train a classifier of digits; the server calls their methods."""

from pathlib import Path

import numpy as np
from nvflare.collab import CollabRecipe, collab
from nvflare.recipe import SimEnv
from task import METRICS, ROSTER, TASK
from train import load, predict

from secagg.integrations.flare import SecureClient, SecureServer


class Site(SecureClient):
    def train(self, model, rate):
        images, digits = load(collab.site_name)
        weights = model["numpy_key"].astype(np.float64)
        accuracy = float((predict(weights, images).argmax(axis=1) == digits).mean())
        for _ in range(10):
            weights -= rate * images.T @ (predict(weights, images) - np.eye(10)[digits]) / len(images)
        return {"numpy_key": weights.astype(np.float32)}, {"accuracy": accuracy, "num-examples": len(images)}


class Server(SecureServer):
    @collab.main
    def run(self):
        model = {"numpy_key": np.zeros((65, 10), np.float32)}
        for number in range(3):
            model, metrics = self.aggregate(model, rate=0.5)
            print(f"round {number}: {metrics}")
        np.save(Path(collab.workspace.get_root_dir()) / "model.npy", model["numpy_key"])


if __name__ == "__main__":
    site, server = Site(TASK, metrics=METRICS), Server(TASK, metrics=METRICS, roster=ROSTER)
    recipe = CollabRecipe(job_name="collab", server=server, client=site, min_clients=4)
    recipe.execute(SimEnv(num_clients=4))
