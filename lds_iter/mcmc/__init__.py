"""Markov chains in parallel over the chain: samplers as pure functions of a position and noise drawn beforehand."""

from lds_iter.mcmc.acceptance import MoveInfo as MoveInfo
from lds_iter.mcmc.acceptance import accept as accept
from lds_iter.mcmc.draws import Draws as Draws
from lds_iter.mcmc.draws import Replay as Replay
from lds_iter.mcmc.draws import named as named
from lds_iter.mcmc.gibbs import gibbs as gibbs
from lds_iter.mcmc.hmc import hmc as hmc
from lds_iter.mcmc.in_turn import Turns as Turns
from lds_iter.mcmc.in_turn import sample_in_turn as sample_in_turn
from lds_iter.mcmc.langevin import langevin as langevin
from lds_iter.mcmc.mala import mala as mala
from lds_iter.mcmc.probed_blocks import ProbedBlocks as ProbedBlocks
from lds_iter.mcmc.random_walk import random_walk as random_walk
from lds_iter.mcmc.sample import sample as sample
from lds_iter.mcmc.sampler import AbstractSampler as AbstractSampler
from lds_iter.mcmc.sampler import Chain as Chain
from lds_iter.mcmc.target import Target as Target
from lds_iter.mcmc.warm_up import warm_up as warm_up
