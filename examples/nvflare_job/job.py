"""Four sites train a classifier of digits."""

import numpy as np
from nvflare.app_common.np.recipes.fedavg import NumpyFedAvgRecipe
from nvflare.recipe import SimEnv

recipe = NumpyFedAvgRecipe(
    name="digits",
    model=np.zeros((65, 10)),
    min_clients=4,
    num_rounds=3,
    train_script="train.py",
)
recipe.execute(SimEnv(num_clients=4))
