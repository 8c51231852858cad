"""Policies of frozen parts in numpy, each of which can be described by plain data and made again elsewhere."""

from optix_stream.policies.composed import ComposedPolicy
from optix_stream.policies.dense import DenseLayer, DenseNetwork
from optix_stream.policies.exploration import EpsilonGreedySampler, SquashedSampler
from optix_stream.policies.inputs import EncodedInput
from optix_stream.policies.parts import PolicyPart
from optix_stream.policies.samplers import CategoricalSampler, GaussianSampler

__all__ = [
    "CategoricalSampler",
    "ComposedPolicy",
    "DenseLayer",
    "DenseNetwork",
    "EncodedInput",
    "EpsilonGreedySampler",
    "GaussianSampler",
    "PolicyPart",
    "SquashedSampler",
]
