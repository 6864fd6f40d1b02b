"""Three kinds of irises, and a classifier of twelve weights and three intercepts."""

import warnings

import numpy as np
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression


def create_log_reg_and_instantiate_parameters(penalty):
    assert penalty == "l2"  # scikit-learn's default
    model = LogisticRegression(solver="saga", max_iter=1, warm_start=True, random_state=0)
    model.classes_, model.coef_, model.intercept_ = np.arange(3), np.zeros((3, 4)), np.zeros(3)
    return model


def get_model_params(model):
    return [model.coef_, model.intercept_]


def set_model_params(model, arrays):
    model.coef_, model.intercept_ = arrays


def load_data(part, parts):
    flowers, kinds = load_iris(return_X_y=True)
    return flowers[part::parts], kinds[part::parts]


def fit(model, flowers, kinds):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one step of training does not converge
        model.fit(flowers, kinds)
