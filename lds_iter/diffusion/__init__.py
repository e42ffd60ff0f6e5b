"""Diffusion models sampled in parallel over their denoising steps: any diffusers pipeline, network or scheduler.

`parallelize(pipe)` for a pipeline, `ParallelSampler(model, scheduler)` for a network without one. Needs
`pip install lds-iter[diffusion]`; diffusers is imported when something is sampled.
"""

from lds_iter.diffusion.parallelize import ParallelPipeline as ParallelPipeline
from lds_iter.diffusion.parallelize import parallelize as parallelize
from lds_iter.diffusion.replay.refusal import PipelineInterrupted as PipelineInterrupted
from lds_iter.diffusion.replay.refusal import PipelineNotMapped as PipelineNotMapped
from lds_iter.diffusion.replicas import Replicas as Replicas
from lds_iter.diffusion.sampled import Sampled as Sampled
from lds_iter.diffusion.sampled import Work as Work
from lds_iter.diffusion.sampler import ParallelSampler as ParallelSampler
from lds_iter.diffusion.schedule import Schedule as Schedule
from lds_iter.diffusion.schedule import SchedulerNotMapped as SchedulerNotMapped
from lds_iter.diffusion.secant import Secant as Secant
from lds_iter.diffusion.settings import Settings as Settings
from lds_iter.diffusion.shared_rows import SharedRows as SharedRows
from lds_iter.diffusion.structured import Structured as Structured
